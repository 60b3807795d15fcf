"""demo-sd15 and demo-sd15-canny: Stable Diffusion 1.5 and a ControlNet at small widths."""
