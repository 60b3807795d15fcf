"""Requests to a network as Triton's Python stub gives them."""

from __future__ import annotations

import json
from typing import Any

from darkroom.serving.batching import NetworkCall
from darkroom.serving.calls import LORAS, TRACEPARENT


def call_of(request: Any, network: str) -> NetworkCall:
    """Convert an InferenceRequest of a stub to a call; `network` is the name of the stub's model."""
    inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    parameters = json.loads(request.parameters() or "{}")
    loras, traceparent = (str(parameters.get(name, "")) for name in (LORAS, TRACEPARENT))
    return NetworkCall(inputs, request.requested_output_names(), loras, network, traceparent)
