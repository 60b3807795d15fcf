"""Further names of the modules of a base model: those of SGM's code, of old diffusers versions, of transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from darkroom.diffusion.lora.keys import flat
from darkroom.diffusion.lora.pack import Target, Targets

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_TEXT_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
"""What diffusers before 0.18 called a text encoder's modules."""
_TEXT_MODEL = "text_model."
"""transformers before 5 has it before every name of a CLIP text encoder without projection, and so have all files."""


def lookup(targets: Targets) -> dict[str, dict[str, Target]]:
    """Component -> name with "_" for "." -> module. A name that could mean two modules is left out."""
    return {
        component: _of_component(component, modules, targets.aliases.get(component, {}))
        for component, modules in targets.components.items()
    }


def _of_component(component: str, modules: Sequence[Target], aliases: Mapping[str, str]) -> dict[str, Target]:
    """All names of one component."""
    own = {flat(target.name): target for target in modules}
    by_name = {target.name: target for target in modules}
    others: dict[str, set[str]] = {}
    blocks = _blocks(by_name)
    for target in modules:
        for other in _others(component, target.name, blocks):
            others.setdefault(flat(other), set()).add(target.name)
    for other, name in aliases.items():
        if name in by_name:
            others.setdefault(flat(other), set()).add(name)
    unique = {other: by_name[min(names)] for other, names in others.items() if len(names) == 1}
    return {**unique, **own}


def _others(component: str, name: str, blocks: int) -> Iterator[str]:
    """Further names of one module."""
    if component.startswith("text_encoder"):
        yield from _text_names(name)
        return
    if name.endswith(".to_out.0"):
        yield name[: -len(".0")]
    yield from _sgm_names(name, blocks)


def _text_names(name: str) -> Iterator[str]:
    """Further names of a text encoder's module."""
    other = name[len(_TEXT_MODEL) :] if name.startswith(_TEXT_MODEL) else _TEXT_MODEL + name
    for spelling in (name, other):
        if spelling != name:
            yield spelling
        stem, _, last = spelling.rpartition(".")
        if last in _TEXT_ATTENTION and stem.endswith("self_attn"):
            yield f"{stem}.{_TEXT_ATTENTION[last]}"


def _blocks(names: Mapping[str, Target]) -> int:
    """Residual blocks of each level of a UNet's way down; every published UNet has the same number at all levels."""
    found = [_BLOCK.fullmatch(name) for name in names]
    counts = [
        int(match[4]) + (match[1] == "down")  # a level of the way up has one more
        for match in found
        if match is not None and match[3] in ("resnets", "attentions")
    ]
    return max(counts, default=0)


def _sgm_names(name: str, blocks: int) -> Iterator[str]:
    """A UNet module's names in the original code: blocks are numbered through, without levels.

    :param blocks: residual blocks of each level of the way down.
    """
    if name in _OUTER:
        yield _OUTER[name]
    elif match := _MID.fullmatch(name):
        part, index, rest = match[1], int(match[2]), match[3]
        yield f"middle_block.1.{rest}" if part == "attentions" else f"middle_block.{2 * index}.{_inner(part, rest)}"
    elif match := _BLOCK.fullmatch(name):
        side, level, part, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        last = part in ("downsamplers", "upsamplers")
        number = level * (blocks + 1) + (blocks if last else index) + (side == "down")
        prefix = f"{'input' if side == 'down' else 'output'}_blocks.{number}"
        if part == "downsamplers":
            yield f"{prefix}.0.{rest.replace('conv', 'op')}"
        elif part == "upsamplers":  # it follows the attention, where there is one
            yield from (f"{prefix}.{place}.{rest}" for place in (1, 2))
        else:
            yield f"{prefix}.{int(part == 'attentions')}.{_inner(part, rest)}"


def _inner(part: str, rest: str) -> str:
    """The name inside of a block."""
    return _RESNET.get(rest, rest) if part == "resnets" else rest
