"""An artifact on a GPU: bit-planes as words that a kernel reads directly, and a decode step that is one graph launch.

Triton is imported by `products` and `blocks` alone, and those only where it is there.
"""
