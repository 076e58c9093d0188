"""Code for this processor, made by LLVM while the program runs; no compiler is needed, llvmlite brings LLVM along."""

import ctypes
from functools import cache
from typing import Any

import llvmlite.binding as llvm

POOL = {"GOMP_parallel": "void (ptr, ptr, i32, i32)", "omp_get_thread_num": "i32 ()", "omp_get_num_threads": "i32 ()"}
"""What runs a function in all threads of a pool, and tells each of them who it is."""


class MachineCode:
    """Functions that were compiled for this processor; they are there as long as this is.

    Args:
        text: a module of LLVM's intermediate representation.

    Raises:
        RuntimeError: LLVM cannot make code of it here.
    """

    def __init__(self, text: str) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        module = llvm.parse_assembly(text)
        module.verify()
        target = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
        )
        # More optimisation takes three times as long, for code of the same speed.
        tuning = llvm.create_pipeline_tuning_options(speed_level=2)
        tuning.loop_unrolling = tuning.loop_interleaving = tuning.slp_vectorization = False
        tuning.loop_vectorization = True
        passes = llvm.create_pass_builder(target, tuning)
        passes.getModulePassManager().run(module, passes)
        self._engine = llvm.create_mcjit_compiler(module, target)
        self._engine.finalize_object()

    def function(self, name: str, *arguments: type) -> Any:
        """The function of that name, to be called with arguments of these ctypes types; it gives nothing back."""
        return ctypes.CFUNCTYPE(None, *arguments)(self._engine.get_function_address(name))


def converts_halves() -> bool:
    """Whether this processor makes floats of float16 itself: there is no function that LLVM could call instead."""
    return llvm.get_process_triple().startswith(("aarch64", "arm64")) or bool(llvm.get_host_cpu_features().get("f16c"))


@cache
def shares_threads() -> bool:
    """Whether code that is compiled here can call what `POOL` names."""
    try:
        here = ctypes.CDLL(None)
        addresses = {name: ctypes.cast(getattr(here, name), ctypes.c_void_p).value for name in POOL}
    except (AttributeError, TypeError, OSError):
        return False
    for name, address in addresses.items():
        llvm.add_symbol(name, address)
    return True
