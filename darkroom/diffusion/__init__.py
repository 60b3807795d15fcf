"""The denoising loop of all diffusion families: schedules, guidance, controls, images."""
