"""LoRA files: the library, what requests mean by a name, and sending files to the networks."""
