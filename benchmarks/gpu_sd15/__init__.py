"""Stable Diffusion 1.5 at full size on one NVIDIA GPU: Darkroom against diffusers, eager and compiled, in fp16."""
