"""Loading: a Hub name or a local folder becomes a causal language model, its tokenizer, its context window.

No remote code is run and only safetensors are read. Every failure of the outside world is a `UserError`.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from switchq.errors import UserError
from switchq.hub import only_cached_if_unreachable
from switchq.models.architecture import Architecture
from switchq.models.gpt2 import GPT2
from switchq.models.llama import LLAMA
from switchq.models.made import check_unpacked
from switchq.models.opt import OPT

ARCHITECTURES = (GPT2, LLAMA, OPT)

Dtype = Literal["float32", "bfloat16", "float16"]


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """The architecture that a configuration describes.

    Raises:
        UserError: for one that is not supported; the message names those that are.
    """
    for architecture in ARCHITECTURES:
        if config.model_type in architecture.model_types:
            return architecture
    known = ", ".join(name for architecture in ARCHITECTURES for name in architecture.model_types)
    raise UserError(f"the architecture {config.model_type!r} is not supported; supported are {known}")


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of a supported model, first to last."""
    return list(model.get_submodule(architecture_of(model.config).blocks).children())


def load_config(base: str) -> PreTrainedConfig:
    """The configuration of a model, by Hub name or local folder."""
    with _explained(base, "model") as source:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def load_model(base: str, dtype: Dtype = "float32") -> PreTrainedModel:
    """A causal language model in evaluation mode, by Hub name or local folder.

    Raises:
        UserError: unknown architecture, packed codes, missing or damaged files, weights that are not finite, no
            connection.
    """
    architecture_of(load_config(base))
    check_unpacked(base)
    _check_index(Path(base).expanduser())
    with _explained(base, "model") as source:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    model: PreTrainedModel
    model, report = loaded
    if report["missing_keys"]:  # `transformers` would go on with random values
        raise UserError(f"the weights of {base} are incomplete: {min(report['missing_keys'])} is not there")
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(f"the weights of {base} are damaged: {name} has values that are not finite")
    return model.eval()


def _check_index(folder: Path) -> None:
    """Refuse an index of shards that names files outside its folder."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return
    try:
        names = [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error!r}") from None
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{path} is refused: it names {name!r}, which is outside its folder")


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; one without a padding token pads with its end token (padding is always masked)."""
    with _explained(base, "tokenizer") as source:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {base} has no end-of-text token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def context_window(model: str | PreTrainedConfig | PreTrainedModel) -> int:
    """The most tokens that a model (given by name, configuration or itself) reads at once."""
    if isinstance(model, str):
        model = load_config(model)
    config = model.config if isinstance(model, PreTrainedModel) else model
    return int(config.max_position_embeddings)


def content_hash(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and float32 values of the parameters, in order of name.

    It does not depend on the file format or the dtype that the values were stored in, as long as float32 holds them.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


@contextmanager
def _explained(base: str, what: str) -> Iterator[str]:
    """What to load from; turns what `transformers` raises on a missing, damaged or unreachable source into one line."""
    try:
        local = Path(base).expanduser()
    except RuntimeError:
        raise UserError(f"no model folder {base}: there is no such user") from None
    if not local.is_dir() and (local.is_absolute() or base.startswith((".", "~")) or local.exists()):
        raise UserError(f"no model folder {base}")
    if (local / "adapter_config.json").is_file() and not (local / "config.json").is_file():
        raise UserError(f"{base} holds an adapter for peft and no model: give its base, or the checkpoint as --ckpt")
    try:
        if local.is_dir():
            yield str(local)
        else:
            with only_cached_if_unreachable():
                yield base
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if local.is_dir():
            raise UserError(f"cannot load the {what} in {base}: {reason}") from error
        raise UserError(
            f"cannot load the {what} {base!r}: there is no such local folder, and the Hub did not give it ({reason}); "
            f"without a connection, give the path of a local folder"
        ) from error
