"""Products of activations with packed weights on a CPU, in PyTorch's own operators.

| kernel | holds | multiplies |
|---|---|---|
| `Plain` | int8 codes | float32, decoded in every call: the numbers of training, by which the others are tested |
| `Int8` | int8 codes, one scale a row | in integers (FBGEMM); an activation is two numbers of 8 bits, without VNNI 7 |
| `Int4` | four bits a weight, or two times four | activations, levels and results in bfloat16, sums in float32 |
| `Bags` | two or four bits a weight | float32, in FBGEMM's embedding bags, on one core |

Every kernel gives x W^T without the bias. `Int8` leaves out the offset, too: it is constant along a row, so the caller
adds offset x sum(x) where it adds its low-rank product, which costs one more column there.
"""

from switchq.inference.kernels.bags import Bags, bag_products
from switchq.inference.kernels.choose import KERNELS, Prefer, check_preference, choose
from switchq.inference.kernels.int4 import Int4
from switchq.inference.kernels.int8 import Int8, exact_products, largest_activation
from switchq.inference.kernels.kernel import Kernel, Plain

__all__ = [
    "KERNELS",
    "Bags",
    "Int4",
    "Int8",
    "Kernel",
    "Plain",
    "Prefer",
    "bag_products",
    "check_preference",
    "choose",
    "exact_products",
    "largest_activation",
]
