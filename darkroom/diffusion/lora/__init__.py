"""LoRA files: `read.py` reads every common layout into one form, a `LoraPack` (`pack.py`). Imports no torch."""
