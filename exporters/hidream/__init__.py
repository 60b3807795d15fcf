"""HiDream-I1: checkpoints in the diffusers folder layout to what Triton serves, each part compared."""
