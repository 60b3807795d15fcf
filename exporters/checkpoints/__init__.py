"""Checkpoints of any family: where they come from, which files they have, their networks, tokenizers and previews."""
