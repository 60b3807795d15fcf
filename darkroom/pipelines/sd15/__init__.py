"""Text to image with Stable Diffusion 1.5: one call of the shared UNet per step, batched with those of others."""
