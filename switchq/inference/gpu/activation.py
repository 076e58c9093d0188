"""Activation functions within a product's kernel."""

import triton
import triton.language as tl


@triton.jit
def gelu(y):
    """GELU in its tanh form."""
    inner = 1.5957691216057308 * (y + 0.044715 * y * y * y)  # 2 sqrt(2 / pi)
    return y / (1.0 + tl.exp(tl.minimum(-inner, 80.0)))
