"""A file that is read: the tensors of safetensors, and none of its pages in the process."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from switchq.errors import UserError
from switchq.inference.unmapped import TYPES, UnmappedFile

LAST = ("scalar", *map(str, TYPES.values()))
"""One of these lies at the end of the file."""


def write(folder: Path, size: int = 3) -> Path:
    tensors = {str(kind): torch.arange(2 * size).view(2, size).to(kind) for kind in TYPES.values()}
    save_file({**tensors, "empty": torch.empty(0, 4), "scalar": torch.tensor(2.5)}, folder / "file.safetensors")
    return folder / "file.safetensors"


def test_the_tensors_of_safetensors(tmp_path: Path) -> None:
    read = UnmappedFile(write(tmp_path))
    with safe_open(str(read.path), framework="pt") as mapped:
        for name in ("empty", "scalar", *map(str, TYPES.values())):
            torch.testing.assert_close(read.get_tensor(name), mapped.get_tensor(name), rtol=0, atol=0)


def test_what_is_read_may_be_written_to(tmp_path: Path) -> None:
    read = UnmappedFile(write(tmp_path))
    read.get_tensor("scalar").zero_()
    assert read.get_tensor("scalar") == 2.5


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    read = UnmappedFile(write(tmp_path))
    end = read.path.stat().st_size
    (last,) = (name for name in LAST if read._header[name]["data_offsets"][1] == end - read._begin)
    with read.path.open("r+b") as file:
        file.truncate(end - 1)
    with pytest.raises(UserError, match="truncated"):
        read.get_tensor(last)


def pages_of_files() -> int:
    """Bytes of mapped files in this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (pages,) = (line.split()[1] for line in lines if line.startswith("RssFile:"))
    return int(pages) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts a process's pages")
def test_no_pages_of_the_file_stay(tmp_path: Path) -> None:
    path = write(tmp_path, size=2**20)  # 64 MB in all
    names = [str(kind) for kind in TYPES.values()]
    before = pages_of_files()
    kept = [UnmappedFile(path).get_tensor(name).sum() for name in names]
    assert pages_of_files() - before < 2**20
    with safe_open(str(path), framework="pt") as mapped:
        assert kept == [mapped.get_tensor(name).sum() for name in names]
        assert pages_of_files() - before > 20 * 2**20  # the control: mapped ones are counted
