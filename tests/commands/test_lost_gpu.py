"""A GPU that is really lost in the middle of a fit: a kernel's assertion ends its context."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from workshop import Workshop

from .conftest import write_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="loses a GPU's context, so it needs a GPU")

LOSES = """
import sys
import torch
from switchq.cli import main
from switchq.training.module import SwitchableModule

original = SwitchableModule.training_step

def broken(self, *arguments):
    if self.global_step == 2:
        torch.zeros(4, device="cuda")[torch.full((1,), 9, device="cuda")]  # out of bounds: asserted in the kernel
        torch.cuda.synchronize()
    original(self, *arguments)

SwitchableModule.training_step = broken
sys.exit(main())
"""


def test_fit_says_so_keeps_its_checkpoint_and_goes_on(workshop: Workshop, tmp_path: Path) -> None:
    options = ["--config", write_config(workshop, tmp_path), "--summary.enabled", "false"]
    options += ["--trainer.accelerator", "gpu", "--trainer.devices", 1, "--trainer.limit_val_batches", 0]
    options += ["--checkpoint.every_n_steps", 1, "--trainer.max_steps", 3]

    def fit(program: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "fit", *map(str, options), *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    lost = fit(LOSES)
    assert lost.returncode == 3, lost.stderr
    line = lost.stderr.splitlines()[-1]
    assert line.startswith("switchq: error: the GPU was lost"), lost.stderr
    assert "Step 2 is kept in " in line
    assert "Traceback" not in lost.stderr
    checkpoints = tmp_path / "lightning_logs/version_{}/checkpoints/last.ckpt"
    assert torch.load(str(checkpoints).format(0), weights_only=True, map_location="cpu")["global_step"] == 2
    again = fit("import switchq.cli; switchq.cli.main()", "--ckpt_path", "last")
    assert again.returncode == 0, again.stderr
    assert torch.load(str(checkpoints).format(1), weights_only=True, map_location="cpu")["global_step"] == 3
