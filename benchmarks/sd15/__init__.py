"""Benchmarks of text to image: the service, the raw ONNX Runtime loop, and the baseline, over the same weights."""
