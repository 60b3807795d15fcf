"""The demo world: small pictures of emoji that a program can judge, and the training of tiny models on them."""
