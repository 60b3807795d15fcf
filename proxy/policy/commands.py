"""`darkroom policy check` and `darkroom policy test`: what a policy says, without a service."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxy.policy.document import PolicyError, read_policy
from proxy.policy.rules import Decision, Facts, Policy

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def policy() -> None:
    """Look at a content policy (docs/policy.md)."""


@policy.command()
@_FILE
def check(file: Path) -> None:
    """Read a policy and say what is in it, or what is wrong and in which line.

    \b
    Example:
      darkroom policy check policies/example.yaml
    """
    found = _read(file)
    click.echo(f"version {found.version}  sha256 {found.digest[:12]}")
    for name, size in found.lists.items():
        click.echo(f"words  {name}: {size}")
    for rule in found.rules:
        click.echo(f"rule   {rule.id}")


@policy.command()
@_FILE
@click.argument("prompt")
@click.option("--negative", default="", help="The negative prompt.")
@click.option("--operation", type=click.Choice(["generate", "edit", "upscale", "train"]), default="generate")
@click.option("--model", default="", help="The name of a model.")
@click.option("--surface", type=click.Choice(["native", "openai", "web_ui"]), default="native")
@click.option("--role", type=click.Choice(["user", "admin"]), default="user")
@click.option("--key", default="", help="The id of the caller's key.")
@click.option("--name", default="", help="The name of the key's owner.")
@click.option("--width", type=click.IntRange(1), default=512)
@click.option("--height", type=click.IntRange(1), default=512)
@click.option("--steps", type=click.IntRange(1), default=20)
@click.option("-n", "--num-images", type=click.IntRange(1), default=1)
@click.option("--checks-images/--no-checks-images", default=True, help="Whether the model has a safety checker.")
@click.option("--scale", type=click.FloatRange(1), default=1.0, help="Of an upscaler.")
def test(file: Path, prompt: str, negative: str, key: str, name: str, **known: object) -> None:
    """Say what a policy decides about a prompt, and which words it found. Exits with 1 where it refuses.

    \b
    Example:
      darkroom policy test policies/example.yaml "a cat in the snow" --steps 80
    """
    facts = Facts(prompts=(prompt,), negative_prompts=(negative,), key_id=key, key_name=name, **known)  # type: ignore[arg-type]
    decision = _read(file).judge(facts)
    for line in _lines(decision):
        click.echo(line)
    sys.exit(0 if decision.refused is None else 1)


def _read(file: Path) -> Policy:
    try:
        return read_policy(file)
    except PolicyError as error:
        raise click.ClickException("\n".join(map(str, error.problems))) from None


def _lines(decision: Decision) -> list[str]:
    last = decision.rules[-1] if decision.rules else ""
    found = ["allowed" if decision.refused is None else f"refused by {last}: {decision.refused}"]
    found += [f"rules  {', '.join(decision.rules)}"] if decision.rules else []
    for field, words in (("prompt", decision.words), ("negative_prompt", decision.negative_words)):
        found += [f"words  {name} in {field}: {', '.join(some)}" for name, some in words.items()]
    found += [f"adds   to negative_prompt: {one.text} ({one.rule})" for one in decision.additions]
    if decision.check is not None:
        found.append(f"checks images: {decision.check.action} ({decision.check.rule})")
    found += [f"lowers {one.name} from {one.before:g} to {one.after:g} ({one.rule})" for one in decision.cuts]
    return found
