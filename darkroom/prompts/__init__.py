"""Prompts, whatever the family: weighted words, and what text encoders read of them. No torch here."""
