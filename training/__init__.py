"""Training: a small world of emoji scenes that a program can judge, and tiny models of real classes trained on it."""
