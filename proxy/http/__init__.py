"""HTTP itself: who may ask, how much may come, how a request is read from its connection."""
