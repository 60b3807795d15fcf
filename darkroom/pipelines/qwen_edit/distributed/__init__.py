"""The transformer of Qwen-Image-Edit, and its ControlNet, divided over several devices: tensor parallelism.

`DividedTransformer` (transformer.py) is what the Triton model uses. `plan` says how each parameter is cut, `shard`
loads a rank's part, `inputs` says what a call may have. The processes are those of `darkroom.parallel` (decisions 12
and 48).
"""
