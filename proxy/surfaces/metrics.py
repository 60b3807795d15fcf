"""`GET /metrics`, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from darkroom.errors import Forbidden, NotFound
from proxy.documented import answers
from proxy.metrics.exposition import MEDIA_TYPE, exposition
from proxy.metrics.state import state_of
from proxy.services import Use
from proxy.tasks.tasks import UseTasks

router = APIRouter(tags=["admin"])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    **answers(None, raises=(Forbidden, NotFound), media=("text/plain",)),
)
async def metrics(services: Use, tasks: UseTasks) -> Response:
    """What this proxy and its Triton have measured, in Prometheus' text format 0.0.4. 404 with METRICS=false. Where
    the service has keys, it needs that of an admin; with METRICS_WITHOUT_KEY programs on this machine need none."""
    measures = services.measures
    if measures is None:
        raise NotFound("Metrics are switched off here, with METRICS=false.")
    triton = await services.monitor.triton_metrics()
    measures.state.state = await state_of(services, tasks, triton=bool(triton))
    return Response(exposition(measures.registry, triton), media_type=MEDIA_TYPE)
