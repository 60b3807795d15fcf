"""Qwen-Image-Edit: checkpoints in the diffusers folder layout to what Triton serves, each part compared."""
