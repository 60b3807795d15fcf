"""demo-hidream: HiDream-I1 at small widths."""
