"""Requests to a network as Triton's Python stub gives them."""

from __future__ import annotations

import json
from typing import Any

from darkroom.serving.batching import NetworkCall
from darkroom.serving.calls import LORAS


def call_of(request: Any) -> NetworkCall:
    """Convert an InferenceRequest of a stub to a call."""
    inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    parameters = json.loads(request.parameters() or "{}")
    return NetworkCall(inputs, request.requested_output_names(), str(parameters.get(LORAS, "")))
