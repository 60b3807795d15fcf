"""Checkpoints in one .safetensors file, as web UIs use them: unpacked into the diffusers folder layout.

Such a file holds weights under the names of the original code (CompVis/latent-diffusion and
Stability-AI/generative-models), and no configuration.
"""
