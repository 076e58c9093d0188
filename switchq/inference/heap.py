"""Freed memory that goes back to the system at once.

glibc's malloc maps a large buffer on its own and unmaps it when it is freed; but with the first one that is freed it
takes the next of that size, up to 32 MB, from its heap, where what is freed stays with the process as long as anything
above it lives. Loading and long prompts free buffers of megabytes between small ones that stay. A limit that is set
does not move any more. Pages of such buffers are new each time, which costs long prompts time.
"""

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # of malloc.h
_LARGE = 2**17  # where glibc begins, too


def give_back_at_once() -> None:
    """Map buffers of 128 kB or more on their own, in this process from now on; nothing where there is no glibc."""
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows opens no library without a name
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
