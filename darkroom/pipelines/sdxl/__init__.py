"""Stable Diffusion XL: two text encoders, a base UNet, and a refiner UNet for the last steps."""
