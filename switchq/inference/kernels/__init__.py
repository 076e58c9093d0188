"""Products of activations with packed weights on a CPU.

| kernel | holds | multiplies |
|---|---|---|
| `Plain` | int8 codes | float32, decoded in every call: the numbers of training, by which the others are tested |
| `Integer` | 2, 4 or 8 bits a weight, any groups | in integers, activations of 16 bits, by machine code made here |

Every kernel gives x W^T, and in `layer` all that a layer adds to it.
"""

from switchq.inference.kernels.choice import KERNELS, choose
from switchq.inference.kernels.integer import Integer, integer_products
from switchq.inference.kernels.kernel import Kernel, Plain

__all__ = ["KERNELS", "Integer", "Kernel", "Plain", "choose", "integer_products"]
