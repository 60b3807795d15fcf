"""The demo checkpoints of the SDXL family."""
