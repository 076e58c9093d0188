"""The machine code of attention (`attend`) and of a product: packed codes times activations of 16 bits, summed in 32.

A token's activations are scaled to -L ... L and rounded, once for all rows,

    x^_i = round(x_i / d)        d = max |x| / L

A row's result is, over its groups g and their columns i, with u the stored codes and l what was added to them,

    y = d sum_g [ scale_g sum_i u_i x^_i + (offset_g - l scale_g) sum_i x^_i ] + bias

Codes of 8 bits are multiplied in 16, with L = 32767; products are added in pairs as they are made, which is one
instruction on x86 (vpmaddwd). Narrower ones are multiplied in 8, as x^ = 256 high + low with both in -128 ... 127 and
L = 32639: twice as many products in an instruction (vpmaddubsw), whose sums of 16 bits hold those of a few blocks. The
sums of these are then float32. Where there are several tokens, `TOGETHER` of them meet codes that were taken apart
once. Rows of one group are scaled eight at a time, when all have been summed. A token's product and its adapter's two
are one call (`adapted`).

A NaN or an infinity among the activations of a product's token makes d that, and all its results NaN.
"""

from switchq.inference.kernels.machine.attend import attention
from switchq.inference.kernels.machine.entry import adapted, product
from switchq.inference.kernels.machine.threads import worth_waking
from switchq.inference.kernels.machine.weight import Weight, room_bytes

__all__ = ["Weight", "adapted", "attention", "product", "room_bytes", "worth_waking"]
