"""Text to image with HiDream-I1: four text encoders, and a transformer with a mixture of experts."""
