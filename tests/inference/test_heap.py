"""Memory that is freed leaves the process, between small buffers that stay; malloc as it is keeps it."""

import platform
import subprocess
import sys

import pytest

CODE = """
import torch
from switchq.inference.bench import _resident
from switchq.inference.heap import give_back_at_once
if {give_back}:
    give_back_at_once()
first = torch.ones(2**22)  # 16 MB: once it is freed, smaller buffers come from the heap
del first
large, small = [], []
for _ in range(20):
    large.append(torch.ones(2**19))  # 2 MB
    small.append(torch.ones(2**16))  # too large for what holes the heap has already
before = _resident()
large.clear()
print(round((before - _resident()) / 2**20))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told")
@pytest.mark.parametrize(("give_back", "fewest", "most"), [(True, 36, 41), (False, 0, 20)])
def test_freed_buffers_leave_the_process(give_back: bool, fewest: int, most: int) -> None:
    command = [sys.executable, "-c", CODE.format(give_back=give_back)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert fewest <= int(done.stdout) <= most
