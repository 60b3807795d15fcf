"""LoRAs of Stable Diffusion 1.5."""
