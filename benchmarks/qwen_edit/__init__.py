"""Benchmarks of editing with Qwen-Image-Edit."""
