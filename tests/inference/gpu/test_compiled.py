"""The kernels compile for a GPU that is not here: the interpreter lets pass what Triton's compiler does not."""

import os
import re
from collections import Counter
from importlib.util import find_spec
from typing import Any

import pytest

HOPPER = ("cuda", 90, 32)

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted"),
]


def compiled(kernel: Any, bits: int, pointers: dict[str, str], constants: dict[str, Any]) -> str:
    """The PTX of a kernel over `bits` planes; what is no pointer and no constant is a 32-bit integer."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = dict.fromkeys(kernel.arg_names, "i32") | pointers | dict.fromkeys(constants, "constexpr")
    kinds["planes"] = ("*i32",) * bits
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    built = triton.compile(ASTSource(kernel, kinds, values), target=GPUTarget(*HOPPER), options={"num_warps": 1})
    return str(built.asm["ptx"])


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_a_weight_is_decoded(bits: int) -> None:
    from switchq.inference.gpu.decoding import _weight, field

    pointers = {"scale_ptr": "*fp16", "offset_ptr": "*fp16", "weight_ptr": "*bf16"}
    assert compiled(_weight, bits, pointers, {"WORDS": 24, "S": 24, "F": field(bits), "BO": 4, "BW": 32})


@pytest.mark.parametrize(("bits", "stride", "rows"), [(2, 24, 1), (4, 2, 1), (3, 24, 4)])
def test_products(bits: int, stride: int, rows: int) -> None:
    """Activations come four at a load, and no plane is read twice."""
    from switchq.inference.gpu.decoding import field
    from switchq.inference.gpu.products import _product

    names = ("x_ptr", "scale_ptr", "offset_ptr", "bias_ptr", "high_ptr", "y_ptr")
    pointers = dict.fromkeys(names, "*fp16") | {"u_ptr": "*fp32", "residual_ptr": "*fp32"}
    options = {"BIAS": True, "LOW": True, "GELU": True, "RESIDUAL": True, "PDL": True, "BR": 16}
    sizes = {"WORDS": 24, "S": stride, "F": field(bits), "BN": rows, "BO": 4, "BW": 32}
    ptx = compiled(_product, bits, pointers, options | sizes)
    loads = Counter(re.findall(r"\sld\.global(\S*)", ptx))
    once = sum(count for kind, count in loads.items() if "evict_first" in kind)
    assert once == 4 * bits, loads
    assert loads[".b64"] == 8 * rows, loads
    assert ptx.count("griddepcontrol.wait") == 1
