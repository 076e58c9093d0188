"""`transformers` models: loading, one description per architecture, and the door to switchable modules."""

from switchq.models.device import pick_device
from switchq.models.load import (
    architecture_of,
    blocks_of,
    content_hash,
    context_window,
    load_config,
    load_model,
    load_tokenizer,
)
from switchq.models.logits import logits_at
from switchq.models.peft_format import save_adapters
from switchq.models.switchable import make_switchable
from switchq.models.weights import as_held, weight_view

__all__ = [
    "architecture_of",
    "as_held",
    "blocks_of",
    "content_hash",
    "context_window",
    "load_config",
    "load_model",
    "load_tokenizer",
    "logits_at",
    "make_switchable",
    "pick_device",
    "save_adapters",
    "weight_view",
]
