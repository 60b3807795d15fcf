"""The supervised unit: one tritonserver and one proxy, started, watched, restarted and drained together."""
