"""The demo checkpoints, a folder for each family: its networks, its stages of training, its checkpoints and cards."""
