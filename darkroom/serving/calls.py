"""Names of request parameters that the proxy, the pipelines and the networks agree on.

Triton carries them beside the inputs of a request (the `parameters` of its inference protocol), so that no model needs
an input for them.
"""

from __future__ import annotations

CALL = "darkroom_call"
"""A unique name of the request."""
STOP = "darkroom_stop"
"""The name of a running request that is to stop at its next step. A request with this parameter does nothing else."""
CLIENT = "client"
"""The client that sent the request; "" if the request counts as a client of its own. Clients take turns."""
TRACEPARENT = "traceparent"
"""The span that the work of a request belongs to, as W3C's header of that name; a request without one is not traced."""
LORAS = "loras"
"""The LoRAs of a network call's rows, as `darkroom.serving.loras.RowLoras.to_text` writes them."""
