"""Training sessions: images with prompts, and the LoRA files that came of them, in a folder that people can read."""
