"""Stable Diffusion 1.5: checkpoints in the diffusers folder layout to ONNX, each network compared with diffusers."""
