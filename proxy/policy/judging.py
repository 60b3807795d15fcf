"""Judges requests by the policy of the service, whatever their surface and operation, before they are accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from darkroom.diffusion.image_check import CHECK_IMAGES, CHECK_RULE, no_checker
from darkroom.errors import InvalidInput, ModerationBlocked
from darkroom.images import Header
from darkroom.request.request import Request
from proxy.audit.notes import NOTES
from proxy.callers import CALLER
from proxy.error_shapes import surface
from proxy.policy.rules import Addition, Check, Cut, Decision, Facts, fitted

if TYPE_CHECKING:
    from proxy.models import ServedModel
    from proxy.services import Services

Warnings = list[dict[str, Any]]
PROMPT, NEGATIVE_PROMPT, NUM_IMAGES = "prompt", "negative_prompt", "num_images"


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What the policy changes about a request.

    :param values: of fields, by their names.
    :param num_images: of the whole request, if they are fewer than it asks for.
    :param warnings: for the `warnings` of the answer.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    num_images: int | None = None
    warnings: Warnings = field(default_factory=list)


async def judged(services: Services, facts: Facts) -> Decision:
    """Judge a request, and note the rules that acted for the audit trail.

    :param facts: without those about the caller, which are added here.
    :raises ModerationBlocked: a rule refuses the request.
    """
    if services.policy is None:
        return Decision()
    policy = await services.policy.current()
    # Words that change from step to step are many texts, which take time.
    slow = any("[" in text for text in (*facts.prompts, *facts.negative_prompts))
    decision = await asyncio.to_thread(policy.judge, facts) if slow else policy.judge(facts)
    if services.measures is not None:
        refused = decision.refused is not None
        services.measures.decided(facts.operation, refused=refused, rules=decision.rules)
    notes = NOTES.get()
    if notes is not None:
        notes.policy_version = policy.version
        notes.rules += [rule for rule in decision.rules if rule not in notes.rules]
    if decision.refused is not None:
        raise ModerationBlocked(decision.refused, rule=decision.rules[-1])
    return decision


def facts_of(operation: str, model: str, **known: Any) -> Facts:
    """Return the facts of a request, with those about its caller and its surface."""
    caller = CALLER.get()
    who: dict[str, Any] = {"key_id": caller.key or "", "key_name": caller.name, "role": caller.role}
    return Facts(operation=operation, model=model, surface=surface(), **who, **known)


async def judge_request(
    services: Services,
    model: ServedModel,
    request: Request,
    headers: Iterable[Header] = (),
    num_images: int | None = None,
) -> Changes:
    """Judge a request for a model.

    :param headers: of its images; the first one is that which is enlarged or edited.
    :param num_images: of the whole request, where this is one of several jobs of it.
    :raises ModerationBlocked: a rule refuses it, or wants its images checked, which the model cannot do.
    """
    if services.policy is None:
        return Changes()
    facts = _facts(services, model, request, next(iter(headers), None))
    if num_images is not None:
        facts = replace(facts, num_images=num_images)
    decision = await judged(services, facts)
    values: dict[str, Any] = {}
    warnings: Warnings = []
    fields = model.family.request.fields()
    if NEGATIVE_PROMPT in fields and decision.additions:
        own = str(getattr(request, NEGATIVE_PROMPT) or "").strip()
        # First, because a bracket that is never closed in the client's own words would reach over it.
        values[NEGATIVE_PROMPT] = ", ".join([*(one.text for one in decision.additions), *([own] if own else [])])
        warnings += [_added(one) for one in decision.additions]
    if decision.check is not None:
        values |= _checking(services, model, decision.check)
    for cut in decision.cuts:
        if cut.name == "pixels":
            values |= _smaller(services, model, request, int(cut.after))
            warnings.append(_shrunk(cut, values["width"], values["height"]))
        elif cut.name in fields:
            values[cut.name] = min(cut.after, getattr(request, cut.name) or cut.after)
            warnings.append(lowered(cut))
    lowest = min((int(cut.after) for cut in decision.cuts if cut.name == NUM_IMAGES), default=None)
    return Changes(values=values, num_images=lowest, warnings=warnings)


async def require_unchanged(
    services: Services, model: ServedModel, request: Request, *headers: Header, param: str
) -> Mapping[str, Any]:
    """Judge a further request of one whose fields are judged already, such as a second pass at another size. Return
    values for its fields that say how its images are checked.

    :param param: the field that asks for it.
    :raises ModerationBlocked: a rule refuses it.
    :raises InvalidInput: a rule lowers it, which cannot be done here.
    """
    changes = await judge_request(services, model, request, headers)
    cuts = [one for one in changes.warnings if one["field"] != NEGATIVE_PROMPT]
    if cuts:
        raise InvalidInput(f"{param} asks for too much: {cuts[0]['message']}", param=param)
    return {name: value for name, value in changes.values.items() if name in (CHECK_IMAGES, CHECK_RULE)}


def lowered(cut: Cut, name: str | None = None) -> dict[str, Any]:
    """Return a warning that says what was lowered.

    :param name: of the field; None if it is called as the limit is.
    """
    name = name or cut.name
    return _warning(name, f"{name} was lowered from {cut.before:g} to {cut.after:g}", cut.rule)


def merged(more: Mapping[str, Any], warnings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the further fields of an answer in JSON with more warnings among them."""
    there = [*more.get("warnings", []), *warnings]
    return {**more, "warnings": there} if there else dict(more)


def _facts(services: Services, model: ServedModel, request: Request, image: Header | None) -> Facts:
    full = model.completed(services, request)
    scale = float(getattr(full, "factor", 1.0))
    width, height = getattr(full, "width", None), getattr(full, "height", None)
    if image is not None and width is None and height is None:  # the result is as large as the image, or so much larger
        width, height = round(image.width * scale), round(image.height * scale)
    return facts_of(
        model.family.operation,
        str(getattr(full, "model", model.name)),
        prompts=_texts(full, PROMPT),
        negative_prompts=_texts(full, NEGATIVE_PROMPT),
        width=width or 0,
        height=height or 0,
        steps=getattr(full, "steps", 0) or 0,
        strength=_strength(full),
        num_images=getattr(full, "num_images", 1),
        scale=scale,
        checks_images=model.checks_images(services),
    )


def _strength(request: Request) -> float:
    """The share of the steps that is done."""
    strength = getattr(request, "given_strength", None)
    return 1.0 if strength is None else float(strength)


def _checking(services: Services, model: ServedModel, check: Check) -> dict[str, str]:
    if not model.checks_images(services):
        raise no_checker(check.rule, model.name)
    return {CHECK_IMAGES: check.action, CHECK_RULE: check.rule}


def _texts(request: Request, name: str) -> tuple[str, ...]:
    text = getattr(request, name, None)
    return (text,) if isinstance(text, str) else ()


def _smaller(services: Services, model: ServedModel, request: Request, pixels: int) -> dict[str, int]:
    """Width and height of at most that many pixels; but no side is below the least that the model takes."""
    full, fields, limits = model.completed(services, request), model.family.request.fields(), model.limits(services)
    about = fields["width"]
    least = (about.bounds(limits) or (1, 1))[0]
    size = fitted(getattr(full, "width"), getattr(full, "height"), pixels, about.multiple)  # noqa: B009
    return {name: max(int(least), side) for name, side in zip(("width", "height"), size, strict=True)}


def _added(one: Addition) -> dict[str, Any]:
    return _warning(NEGATIVE_PROMPT, f'"{one.text}" was added to {NEGATIVE_PROMPT}', one.rule)


def _shrunk(cut: Cut, width: int, height: int) -> dict[str, Any]:
    what = f"the size was lowered from {cut.before:,.0f} pixels to {width}x{height}"
    return _warning("size", what, cut.rule)


def _warning(name: str, what: str, rule: str) -> dict[str, Any]:
    return {"field": name, "message": f"{what} by the content policy (rule {rule}).", "suggestion": None}
