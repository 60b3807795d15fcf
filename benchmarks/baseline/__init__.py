"""What Darkroom replaces: a plain FastAPI server around diffusers' pipeline, which runs one job at a time.

It is measured beside Darkroom over the same weights, so it gets what those services could have: every core, evaluation
and inference mode, one thread that keeps its pool of workers, a fair queue, and PNG encoding outside the lock.
"""
