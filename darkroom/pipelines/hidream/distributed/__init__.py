"""HiDream's transformer divided over several devices: tensor and expert parallelism behind one call.

`DistributedTransformer` (transformer.py) is what the Triton model uses. Below it: `layouts` says how many devices there
may be and which rank holds what, `plan` how each parameter is cut, `shard` loads a rank's part of the model. The
processes are those of `darkroom.parallel`. Decision 12 says why it is built this way.
"""
