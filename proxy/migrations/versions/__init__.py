"""One file for each version of the database: `vNNNN_WHAT.py`, with `upgrade`."""
