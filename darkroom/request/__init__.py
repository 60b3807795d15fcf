"""Fields of requests: types, ranges and defaults, written once."""
