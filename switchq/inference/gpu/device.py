"""What kernels may rely on, by device."""

from functools import cache

import torch


@cache
def multiplies(device: torch.device) -> bool:
    """Whether it has the multiplication that the kernels are made of (`mma.m16n8k16`): NVIDIA's GPUs from 8.0 on."""
    return _capability(device) >= (8, 0)


@cache
def overlaps(device: torch.device) -> bool:
    """Whether a kernel can begin while the one before it runs (programmatic dependent launch): from 9.0 on."""
    return _capability(device) >= (9, 0)


@cache
def multiprocessors(device: torch.device) -> int:
    """How many it has; as an H200 where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else H200


def _capability(device: torch.device) -> tuple[int, int]:
    """NVIDIA's compute capability; (0, 0) for what is none of its GPUs."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" and torch.version.cuda else (0, 0)


H200 = 132
"""Multiprocessors of an H200."""
