"""`darkroom backup` and `darkroom restore` (docs/install.md)."""
