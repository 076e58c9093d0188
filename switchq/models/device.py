"""Which device to run on."""

import os

import torch

from switchq.errors import UserError


def pick_device(wanted: str = "auto") -> torch.device:
    """The device called `wanted`; `auto` is the GPU if there is one.

    A GPU that is named by number becomes the current one, on which kernels and graphs run.

    Raises:
        UserError: if it is unknown or not there.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
        there = device.type != "meta" and not (device.type == "cpu" and device.index)  # PyTorch takes any cpu:N
    except (RuntimeError, AssertionError, ImportError):
        there = False
    if not there:
        known = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu"
        raise UserError(f"no device {wanted!r} on this machine: use {known}")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def own_gpu() -> torch.device | None:
    """The GPU of this process among those of a run on several devices; None if there is none.

    That is the current one, or, in a run of Lightning's whose GPU is yet to be set, the one of its rank; processes that
    are more than the GPUs, as on CPUs, share them.
    """
    if not torch.cuda.is_available():
        return None
    number = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    return torch.device("cuda", number % torch.cuda.device_count())
