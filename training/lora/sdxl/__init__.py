"""LoRAs of Stable Diffusion XL."""
