"""Ranks: processes of torch.distributed that run one program together, behind one call. No model is named here.

`ranks` starts, watches, calls and ends them; `rank` runs in each of them; `program` is the interface of a model;
`layout` and `devices` describe the grid of ranks and the devices that they are on. `network` is a network that ranks
hold together; `cuts`, `checkpoint` and `layers` divide one. Decision 12 says why it is built this way.
"""
