"""Benchmarks of Stable Diffusion XL."""
