"""What runs pipelines and networks: specs as data, batching, the host protocol and Triton's host."""
