"""Real-ESRGAN: the official weights as ONNX networks for the model repository."""
