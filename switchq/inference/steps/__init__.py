"""One token at a time over a static cache of keys and values, with none of `generate`'s work in between.

`Decoder` is the loop, `Cache` what is kept from token to token, a `Step` the model's part: in PyTorch's operators here,
in kernels of its own on a GPU (`switchq.inference.gpu`).
"""
