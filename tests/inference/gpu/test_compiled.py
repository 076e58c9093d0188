"""The kernels compile for a GPU that is not here: the interpreter lets pass what Triton's compiler does not."""

import os
import re
import subprocess
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

HOPPER, AMPERE = 90, 80

FEW = 44
"""Bytes that a thread may put by in memory: with so many, tiles were still the fastest."""

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted"),
]


def compiled(kernel: Any, *arguments: Any, **options: Any) -> str:
    """The PTX of a kernel; see `stages`."""
    return str(stages(kernel, *arguments, **options)["ptx"])


def stages(
    kernel: Any,
    bits: int,
    pointers: dict[str, str],
    constants: dict[str, Any],
    warps: int = 1,
    registers: int | None = None,
    capability: int = HOPPER,
) -> Any:
    """What Triton's compiler makes of a kernel over `bits` planes, by name.

    Pointers and rows are aligned; what else is no constant is an integer.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = dict.fromkeys(kernel.arg_names, "i32") | pointers | dict.fromkeys(constants, "constexpr")
    kinds["planes"] = ("*i32",) * bits
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = [(kernel.arg_names.index(name),) for name in (*pointers, "x_stride") if name in kernel.arg_names]
    aligned += [(kernel.arg_names.index("planes"), k) for k in range(bits)]
    attributes = {place: [["tt.divisibility", 16]] for place in aligned}
    built = triton.compile(
        ASTSource(kernel, kinds, values, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "maxnreg": registers},
    )
    return built.asm


@pytest.mark.parametrize(("dtype", "words"), [("bf16", 2), ("fp16", 2), ("fp32", 4)])
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_a_weight_is_decoded(bits: int, dtype: str, words: int) -> None:
    """Four neighbours are written at once."""
    from switchq.inference.gpu.decoding import _weight, field

    pointers = {"level_ptr": "*i32", "weight_ptr": f"*{dtype}"}
    ptx = compiled(_weight, bits, pointers, {"IN": 768, "GROUP": 64, "CHUNK": 64, "F": field(bits), "WARPS": 1})
    assert len(re.findall(rf"\sst\.global\.v{words}\.b32", ptx)) == 32
    assert len(re.findall(r"\sld\.global\.v2\.b32", ptx)) == 2 * bits + 2 * 2  # planes, and levels of two groups


def pointers(dtype: str) -> dict[str, str]:
    """The types of a product's arguments."""
    found = dict.fromkeys(("x_ptr", "bias_ptr", "u_ptr", "high_ptr", "y_ptr"), f"*{dtype}")
    return found | {"level_ptr": "*i32", "residual_ptr": "*fp32"}


def constants(bits: int) -> dict[str, Any]:
    """All that there is, for one warp that has two tiles."""
    from switchq.inference.gpu.decoding import field

    options = {"BIAS": True, "LOW": True, "GELU": True, "RESIDUAL": True, "PDL": True, "RANK": 16}
    return options | {"F": field(bits), "WARPS": 1, "DEPTH": 2}


def several(bits: int, dtype: str, places: int) -> dict[str, Any]:
    """The same for several tokens."""
    from switchq.inference.gpu.products import ONE, UNDER, taken

    of = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    halves = {"PLACES": places, "TAKEN": taken(bits, places, of), "ONES": ONE[of], "UNDER": UNDER[of]}
    return constants(bits) | halves


BYTES = "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32"


@pytest.mark.parametrize("group", [768, 32, 64, 256])
@pytest.mark.parametrize(("bits", "dtype"), [(2, "fp16"), (4, "fp16"), (8, "fp16"), (8, "bf16")])
def test_the_product_of_a_token(bits: int, dtype: str, group: int) -> None:
    """No more multiplications than tiles, the sums of x and the adapter need; the warp's sums meet once."""
    from switchq.inference.gpu.vector_kernel import vector_kernel

    down = 2
    chunk = group if group == 768 else min(group, 128)
    sizes = {"IN": 768, "DOWN": down, "GROUP": group, "CHUNK": chunk, "EARLY": 0}
    ptx = compiled(vector_kernel, bits, pointers(dtype), sizes | constants(bits))
    loads = Counter(re.findall(r"\sld\.global(\S*)", ptx))
    assert loads[".v2.b32"] == down * (2 * bits + (1 if group == 768 else 2)), loads  # and a group's levels a thread
    assert loads[".b32"] == 2 * 2 + 2 + 4 * down + 1, loads  # of x, u, high and the residual
    assert ptx.count(BYTES) == 2 * 4 * (down + 1)
    assert ptx.count("mma.sync.aligned.m16n8k16") == down
    assert ptx.count("redux.sync.max") == 2
    assert ptx.count("shfl.sync") == 3
    assert ptx.count("bar.sync") == 1
    digits = 2 * (2 if group in (768, 256) else 4) + 1  # of two tiles, and the zeros
    assert len(re.findall(r"\sst\.shared", ptx)) == digits + 1
    assert ptx.count("griddepcontrol.wait") == 1


@pytest.mark.parametrize(
    ("bits", "down", "early", "programs"), [(2, 2, 4, 2), (2, 4, 4, 1), (4, 3, 4, 2), (4, 2, 2, 1), (8, 1, 4, 1)]
)
def test_codes_made_early(bits: int, down: int, early: int, programs: int) -> None:
    """In machine code, too, they come before anything is done with the activations."""
    from switchq.inference.gpu.products import Tile, registers
    from switchq.inference.gpu.vector_kernel import vector_kernel

    sizes = {"IN": 1600, "DOWN": down, "GROUP": 1600, "CHUNK": 1600, "DEPTH": 1, "WARPS": 16}
    sizes |= {"BIAS": False, "RESIDUAL": False, "GELU": False, "LOW": False}
    limit = registers(Tile(16, 1, programs=programs))
    ready = []
    for count in (0, early):
        ptx = compiled(vector_kernel, bits, pointers("fp16"), constants(bits) | sizes | {"EARLY": count}, 16, limit)
        assert ptx.count(BYTES) == 4 * (down + 1)
        code = machine_code(ptx)
        first, last = (next(place for place, line in enumerate(code) if of in line) for of in ("ACQBULK", "REDUX"))
        assert len([line for line in code[first:last] if "LDG" in line]) == 2
        assert not any("LDG" in line for line in code[last:])
        ready.append(sum("LOP3" in line for line in code[:last]))
        assert spilled(ptx) <= FEW
    assert ready[1] - ready[0] >= (4 * down * early if bits < 8 else 8)  # bytes need no masks


def test_loads_that_take_no_time_to_compile() -> None:
    """For each of its own loads Triton's compiler goes through the whole kernel: only the residual's are left to it."""
    from switchq.inference.gpu.product_kernel import product_kernel

    sizes = {"IN": 768, "GROUP": 768, "CHUNK": 768, "NT": 4}
    made = stages(product_kernel, 4, pointers("fp16"), sizes | several(4, "fp16", 1))
    of_own = made["ttir"].count("tt.load")
    assert of_own == 4 * 8 + 4  # residuals of four eights of tokens, one warp's, and biases
    assert len(re.findall(r"\sld\.global", made["ptx"])) > 2 * of_own


def test_warps_without_a_tile_leave_a_token() -> None:
    """Six of eight have one; the others end before they read, and after one barrier all but a row's threads."""
    from switchq.inference.gpu.vector_kernel import vector_kernel

    sizes = {"IN": 768, "DOWN": 2, "WARPS": 8, "DEPTH": 1, "GROUP": 768, "CHUNK": 768, "EARLY": 0}
    ptx = compiled(vector_kernel, 4, pointers("fp16"), constants(4) | sizes, 8)
    assert ptx.count(" exit;") == 2
    assert ptx.index(" exit;") < ptx.index("ld.global")
    assert ptx.count("bar.sync") == 1
    assert ptx.count("ld.shared.f32") == 6  # of the warps that are left


def test_older_gpus() -> None:
    """Without the overlap of launches nothing needs a Hopper; with it, Triton's compiler refuses an Ampere."""
    from switchq.inference.gpu.product_kernel import product_kernel
    from switchq.inference.gpu.vector_kernel import vector_kernel

    sizes = {"IN": 768, "GROUP": 64, "CHUNK": 64}
    one, more = constants(4) | sizes | {"DOWN": 2, "EARLY": 4}, several(4, "fp16", 1) | sizes | {"NT": 1}
    for kernel, options in ((vector_kernel, one), (product_kernel, more)):
        ptx = compiled(kernel, 4, pointers("fp16"), options | {"PDL": False}, capability=AMPERE)
        assert ".target sm_80" in ptx
        assert "registers" in assembled(ptx, "sm_80")[0]
        assert "griddepcontrol" not in ptx
    with pytest.raises(Exception, match="griddepcontrol"):
        compiled(product_kernel, 4, pointers("fp16"), more, capability=AMPERE)


@pytest.mark.parametrize(
    ("shape", "bits", "group", "warps"),
    [
        ((4800, 1600), 2, None, 8),
        ((6400, 1600), 3, 64, 8),
        ((1600, 1600), 2, None, 8),
        ((4096, 4096), 3, None, 16),
        ((4096, 4096), 4, None, 16),
        ((768, 3072), 8, None, 8),
    ],
)
def test_two_programs_share_a_multiprocessor(
    shape: tuple[int, int], bits: int, group: int | None, warps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launch asks for it, and the assembler finds room for nearly everything."""
    asked, ptx = launched(shape, bits, group, monkeypatch)
    assert (asked["num_warps"], asked["maxnreg"]) == (warps, 65536 // (2 * 32 * warps))
    assert f".maxnreg {asked['maxnreg']}" in ptx
    assert spilled(ptx) <= FEW


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(4800, 1600), (3072, 768), (4096, 1024), (1600, 6400), (11008, 4096), (4096, 11008)])
def test_registers_do(shape: tuple[int, int], bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the sizes that tiles were chosen for."""
    _, ptx = launched(shape, bits, None, monkeypatch)
    assert spilled(ptx) <= FEW


def launched(
    shape: tuple[int, int], bits: int, group: int | None, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], str]:
    """How a token's product is launched, which begins while the one before runs, and the kernel's PTX."""
    from switchq.inference.gpu import products
    from switchq.inference.gpu.tiles import TiledWeight

    asked: dict[str, Any] = {}

    class Launch:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *_, **options: asked.update(options)

    outputs, inputs = shape
    levels = torch.zeros(outputs // 16, inputs // (group or inputs), 8, 2, dtype=torch.int32)
    tiled = TiledWeight((torch.zeros(1, dtype=torch.int32),) * bits, levels, shape)
    given: dict[str, Any] = {}
    if shape == (4096, 4096):  # with all that a product may do
        x_1R, high_OR, y_1O = torch.zeros(1, 16).half(), torch.zeros(outputs, 16).half(), torch.zeros(1, outputs)
        given = {"bias_O": high_OR[:, 0], "low": (x_1R, high_OR), "gelu": True, "residual_NO": y_1O}
    with monkeypatch.context() as patch:
        patch.setattr(products, "vector_kernel", Launch())
        products.product(torch.zeros(1, inputs).half(), tiled, pdl=True, **given)
    constant = {name: value for name, value in asked.items() if name.isupper() and name != "OUT"}
    return asked, compiled(
        products.vector_kernel, bits, pointers("fp16"), constant, asked["num_warps"], asked["maxnreg"]
    )


def assembled(ptx: str, target: str = "sm_90a") -> tuple[str, str]:
    """What NVIDIA's assembler says of a kernel, and its machine code."""
    import triton

    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "kernel.ptx").write_text(ptx)
        arguments = [folder / "ptxas", "-v", f"-arch={target}", "kernel.ptx", "-o", "kernel.cubin"]
        told = subprocess.run(arguments, cwd=place, check=True, capture_output=True, text=True).stderr
        shown = [folder / "cuobjdump", "-sass", "kernel.cubin"]
        return told, subprocess.run(shown, cwd=place, check=True, capture_output=True, text=True).stdout


def spilled(ptx: str) -> int:
    """Bytes that threads store because registers do not do."""
    (stores,) = re.findall(r"(\d+) bytes spill stores", assembled(ptx)[0])
    return int(stores)


def machine_code(ptx: str) -> list[str]:
    """Its instructions in their order."""
    return re.findall(r"^\s+/\*[0-9a-f]{4}\*/\s+(.*?);", assembled(ptx)[1], re.MULTILINE)


@pytest.mark.parametrize(
    ("bits", "group", "dtype", "places", "tokens"),
    [
        (2, 768, "fp16", 2, 1),
        (4, 64, "fp16", 2, 1),
        (8, 768, "bf16", 1, 1),
        (3, 768, "fp16", 1, 2),
        (4, 32, "bf16", 1, 1),
    ],
)
def test_products(bits: int, group: int, dtype: str, places: int, tokens: int) -> None:
    """A tile's words come at a load a plane and go to the tensor cores without another thread's help."""
    from switchq.inference.gpu.product_kernel import product_kernel

    sizes = {"IN": 768, "GROUP": group, "CHUNK": min(group, 768), "NT": tokens}
    ptx = compiled(product_kernel, bits, pointers(dtype), sizes | several(bits, dtype, places))
    loads = Counter(re.findall(r"\sld\.global(\S*)", ptx))
    levels = 1 if group == 768 else 2 * 128 // group
    assert loads[".v2.b32"] == 2 * (2 * bits + levels), loads
    assert loads[".v4.b32"] == 2 * 4 * tokens, loads
    parts = 2 if dtype == "bf16" and bits > 7 else 1
    kind = {"fp16": "f16", "bf16": "bf16"}[dtype]
    assert (
        ptx.count(f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32")
        == 2 * 8 * tokens * (2 * parts + 1) + 2 * tokens
    )
    before = ptx[: ptx.rindex("m16n8k16.row.col.f32." + kind)]
    assert "shfl" not in before
    assert "st.shared" not in before
    assert ptx.count("griddepcontrol.wait") == 1
