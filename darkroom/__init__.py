"""Darkroom: the functional core that the Triton models, the exporters and the tests share."""

__version__ = "0.1.0"
