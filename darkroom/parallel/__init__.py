"""Ranks: processes of torch.distributed that run one program together, behind one call. No model is named here.

`ranks` starts, watches, calls and ends them; `rank` is what runs in each of them; `program` is what a model has to
bring; `layout` and `devices` describe the grid of ranks and the devices that they are on. Decision 12 says why it is
built this way.
"""
