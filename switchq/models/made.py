"""Model folders that this program wrote itself: rounded weights are no model in full precision to start from.

artifact.json   an artifact, with its weights in bit-planes
switchq.json    a model at fixed widths; `format` says whether its rounded weights are floats (`hf`) or packed codes
"""

import json
from pathlib import Path
from typing import Any

from switchq.bitmap import FULL
from switchq.errors import UserError

MANIFEST = "artifact.json"

METADATA = "switchq.json"


def check_unpacked(base: str) -> None:
    """Refuse weights that `transformers` does not read.

    Raises:
        UserError: an artifact or packed codes; the message says what takes them.
    """
    if (_folder(base) / MANIFEST).is_file():
        raise UserError(f"{base} is an artifact of `switchq export`: switchq eval --artifact {base} scores it")
    format = _said(base).get("format", "hf")
    if format != "hf":
        raise UserError(f"{base} holds rounded weights, packed as {format}: switchq verify {base} takes it")


def is_rounded(base: str) -> bool:
    """Whether a folder says that its weights are rounded already."""
    said = _said(base)
    widths = said.get("widths")
    return bool(said) and not (isinstance(widths, dict) and all(width == FULL for width in widths.values()))


def _said(base: str) -> dict[str, Any]:
    """What a folder says of itself; nothing if it is not one of ours."""
    try:
        content = json.loads((_folder(base) / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # nested too deeply, or the home of a user that is none
        return {}
    return content if isinstance(content, dict) and {"kind", "files"} <= content.keys() else {}


def _folder(base: str) -> Path:
    return Path(base).expanduser()
