"""Packages to compare with, each run by the Python of an environment of its own: a script of `peers/` that writes JSON.

A peer that cannot be asked is left out with a remark; the rest of the comparison goes on.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"


def ask(
    python: Path, script: Path, options: Mapping[str, Any], folder: Path, environment: Mapping[str, str] = {}
) -> tuple[dict[str, Any] | None, str]:
    """What a peer script writes to its `--output`; None, and what went wrong, where it fails.

    Args:
        python: interpreter that the package is installed for.
        script: of `peers/`.
        options: by name, `--` not written; a sequence gives several values, True a flag, None and False nothing.
        folder: an empty one to work in; switchq is not importable from there.
        environment: variables to set beside those that are set.
    """
    output = folder / "answer.json"
    command = [str(python.absolute()), str(script.absolute()), "--output", str(output)]
    for name, value in options.items():
        if value is None or value is False:
            continue
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        command += [f"--{name}", *([] if value is True else map(_plain, values))]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    own |= {"HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True)
    if done.returncode or not output.exists():
        wrong = [line for line in done.stderr.splitlines() if "Error" in line] or [f"exit code {done.returncode}"]
        return None, wrong[-1].strip()
    content: dict[str, Any] = json.loads(output.read_text())
    return content, ""


def has(python: Path, package: str) -> bool:
    """Whether a distribution of this name is installed there."""
    command = [str(python.absolute()), "-c", f"import importlib.metadata as m; m.version({package!r})"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _plain(value: Any) -> str:
    return str(value.absolute()) if isinstance(value, Path) else str(value)
