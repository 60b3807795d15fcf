"""Networks that ONNX Runtime runs, from a model configuration. Knows nothing of Triton: two hosts use it."""
