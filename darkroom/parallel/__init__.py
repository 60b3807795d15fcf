"""The HiDream transformer over several devices: tensor and expert parallelism behind one call.

`DistributedTransformer` (transformer.py) is what a Triton model uses. Below it: `layout` which rank holds what, `plan`
how each parameter is cut, `shard` a rank's part of the model, `ranks` the processes, `rank` what runs in each of them.
Decision 12 says why it is built this way.
"""
