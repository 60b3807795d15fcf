"""Served graphs that several families share, as torch modules around the originals: fp32 outside, whatever inside."""
