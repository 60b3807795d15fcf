"""Editing with Qwen-Image-Edit: images and an instruction in, the changed image out."""
