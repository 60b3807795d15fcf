"""What the output of a server says of its models, and of why it ended."""

from __future__ import annotations

import re

from supervisor.child import Child

LISTENS = "Started GRPCInferenceService"
"""What the server says once it listens."""
STARVED = re.compile("is not healthy|Failed to obtain the health mutex")
"""What the server says of a model whose process did not get the processor, or was ended, while it was loading. It may
load the next time."""
LOAD_FAILURE = re.compile(
    r"(?:failed to load '([^']+)' version \d+|Poll failed for model directory '([^']+)'): (?:\w+: )?(.*)"
)


def last_error(child: Child) -> str:
    """Return the line of its output that best explains why it ended."""
    lines = [line.strip() for line in child.tail]
    named = [f"the model {m[1] or m[2]} does not load: {m[3]}" for m in map(LOAD_FAILURE.search, lines) if m]
    errors = [line for line in lines if "error" in line.lower()]
    return (named[:1] or errors[-1:] or lines[-1:] or ["it said nothing"])[0][:400]
