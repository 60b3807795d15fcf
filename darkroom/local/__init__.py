"""The local engine: a server of its own that speaks Triton's inference protocol, for machines without Triton.

`python -m darkroom.local` is started by `darkroom serve --engine local`. See docs/local-engine.md.
"""
