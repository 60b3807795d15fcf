"""Exports the toy family."""
