"""Stable Diffusion XL: checkpoints in the diffusers folder layout to ONNX, each network compared with diffusers."""
