"""switchq: one language model checkpoint that runs at any per-layer bit-width, chosen at run time.

The names below do from a notebook what the commands do from a shell. They are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from switchq.bitmap import Bitmap
    from switchq.data.prompt import Prompt
    from switchq.data.scoring_set import ScoringSet
    from switchq.data.squad import read_squad
    from switchq.errors import UserError
    from switchq.evaluation import EvalResult, evaluate
    from switchq.inference import SwitchableLM, export_artifact, export_fixed
    from switchq.models import load_model, load_tokenizer, make_switchable
    from switchq.nn import at, set_bitmap
    from switchq.quant import Asymmetric, Nested, Symmetric
    from switchq.training.checkpoint import load_checkpoint

_HOMES = {
    "Asymmetric": "switchq.quant",
    "Bitmap": "switchq.bitmap",
    "EvalResult": "switchq.evaluation",
    "Nested": "switchq.quant",
    "Prompt": "switchq.data.prompt",
    "ScoringSet": "switchq.data.scoring_set",
    "SwitchableLM": "switchq.inference",
    "Symmetric": "switchq.quant",
    "UserError": "switchq.errors",
    "at": "switchq.nn",
    "evaluate": "switchq.evaluation",
    "export_artifact": "switchq.inference",
    "export_fixed": "switchq.inference",
    "load_checkpoint": "switchq.training.checkpoint",
    "load_model": "switchq.models",
    "load_tokenizer": "switchq.models",
    "make_switchable": "switchq.models",
    "read_squad": "switchq.data.squad",
    "set_bitmap": "switchq.nn",
}

__all__ = [
    "Asymmetric",
    "Bitmap",
    "EvalResult",
    "Nested",
    "Prompt",
    "ScoringSet",
    "SwitchableLM",
    "Symmetric",
    "UserError",
    "at",
    "evaluate",
    "export_artifact",
    "export_fixed",
    "load_checkpoint",
    "load_model",
    "load_tokenizer",
    "make_switchable",
    "read_squad",
    "set_bitmap",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'switchq' has no attribute {name!r}")
