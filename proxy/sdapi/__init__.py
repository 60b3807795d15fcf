"""Translates between AUTOMATIC1111's API, as its web UI 1.10 has it, and the operations of this service."""
