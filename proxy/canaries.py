"""Canaries: small real inferences that show whether the models of a group work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from darkroom.errors import DarkroomError
from darkroom.serving.networks import ModelSpec
from proxy.gateway import Gateway
from proxy.groups import Group
from proxy.waiting import at_most

log = logging.getLogger(__name__)

Counts = Mapping[str, int]
"""Number of requests that each model has answered without an error; for a pipeline only those of this proxy."""


class CanaryFailed(Exception):
    """A canary failed. No request receives this error, so it is not in the error tree.

    :ivar message: why, in one sentence.
    :ivar models: the models that may be the reason and should be loaded again.
    """

    def __init__(self, message: str, models: tuple[str, ...]) -> None:
        super().__init__(message)
        self.message = message
        self.models = models


@dataclass(frozen=True, kw_only=True)
class _Failure:
    spec: ModelSpec
    why: str


class Canaries:
    """Runs the canaries of groups.

    :param successes: returns the number of requests that each network has answered; empty while it is unknown.
    :param timeout: seconds that one canary may take.
    """

    def __init__(self, gateway: Gateway, successes: Callable[[], Awaitable[Counts]], timeout: float) -> None:
        self._gateway = gateway
        self._successes = successes
        self._timeout = timeout

    async def prove_all(self, group: Group) -> Counts:
        """Run the canaries of all models side by side: the group is not known to work.

        :returns: what the models have answered afterwards.
        :raises CanaryFailed: some did not answer.
        """
        await self._run(group, group.models, before=None)
        return await self._counts(group)

    async def prove_rest(self, group: Group, seen: Counts) -> Counts:
        """Run the canaries of the models that have not worked since the last check. The pipeline's comes first: it
        proves the networks that it uses.

        :param seen: what this or `prove_all` returned last.
        :returns, raises: see `prove_all`.
        """
        before = await self._counts(group)
        if not _grew(group.pipeline.name, seen, before):
            await self._run(group, [group.pipeline], before)
            before = await self._counts(group)
        await self._run(group, [n for n in group.networks if not _grew(n.name, seen, before)], before)
        return await self._counts(group)

    async def _run(self, group: Group, specs: Iterable[ModelSpec], before: Counts | None) -> None:
        results = await asyncio.gather(*(self._one(group, spec, before) for spec in specs), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        failures = [result for result in results if isinstance(result, _Failure)]
        if failures:
            raise _failed(group, failures)

    async def _one(self, group: Group, spec: ModelSpec, before: Counts | None) -> _Failure | None:
        """
        :param before: counts of a group that worked; a late canary is excused if they have grown.
        """
        try:
            await at_most(self._timeout, self._consume(group, spec))
        except DarkroomError as error:  # NotReady is a failure too: Triton said that the model is loaded
            return _Failure(spec=spec, why=error.message)
        except asyncio.TimeoutError:
            if before and await self._works(group, spec, before):
                log.warning("%s works, but a small inference waited %g s behind other work", spec.name, self._timeout)
                return None
            return _Failure(spec=spec, why=f"no answer in {self._timeout:g} s")
        return None

    async def _works(self, group: Group, spec: ModelSpec, before: Counts) -> bool:
        """Whether the networks of the canary have answered other requests meanwhile."""
        now = await self._successes()
        return any(_grew(name, before, now) for name in ([spec.name] if spec.is_network else group.without_canary()))

    async def _consume(self, group: Group, spec: ModelSpec) -> None:
        inputs = group.canary(spec)
        if inputs is None:
            return
        model = spec.canary_model or spec.name
        can_stop = bool(spec.canary_model) or not spec.is_network
        async for _ in self._gateway.stream(model, inputs, request_id="canary", can_stop=can_stop):
            pass

    async def _counts(self, group: Group) -> Counts:
        return {**await self._successes(), group.name: self._gateway.answered[group.name]}


def _grew(model: str, before: Counts, now: Counts) -> bool:
    return now.get(model, 0) > before.get(model, 0)


def _failed(group: Group, failures: list[_Failure]) -> CanaryFailed:
    """Return the error. It names networks whose own canary failed, else the pipeline and networks without one."""
    alone = [failure for failure in failures if failure.spec.is_network and not failure.spec.canary_model]
    failure = (alone or failures)[0]
    through = [f.spec.name for f in failures if f.spec.canary_model]
    silent = [n.name for n in group.networks if group.canary(n) is None]
    models = [f.spec.name for f in alone] or dict.fromkeys([*silent, *through, group.pipeline.name])
    return CanaryFailed(f"a small inference on {failure.spec.name} failed: {failure.why}", tuple(models))
