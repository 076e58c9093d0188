"""Writing one bitmap of a switchable model as a folder that other programs load.

`hf` holds the weights as floats, whatever they are. The packed formats hold integers, see
`switchq.inference.formats.coded` for what becomes of levels that are none and of merged adapters. All that is not
packed stays a float: embeddings, head, norms, biases, layers at 16 bits.

The folder is written beside its place and renamed when it is complete; `switchq.json` beside the weights has the hash
of every file, and what was lost.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.bitmap import FULL, Bitmap
from switchq.errors import UserError
from switchq.evaluation.perplexity import text_perplexity
from switchq.evaluation.provenance import versions
from switchq.evaluation.sealed import read_seal, seal
from switchq.files import new_folder
from switchq.inference.dense import plain_model
from switchq.inference.formats.coded import Coded, check_levels, code_layer
from switchq.inference.formats.folder import FORMATS, PACKERS, write_folder
from switchq.inference.formats.packer import Packer
from switchq.models import architecture_of, save_adapters, weight_view
from switchq.nn import at, get_switch, switch_layers
from switchq.nn.norm import check_common_norms

Adapters = Literal["merged", "peft", "off"]
"""What to do with them."""

NONE = "none"
"""In their place where the model has none at the bitmap."""
FloatBits = Literal[16, 32]

KIND = "fixed-model"


@dataclass(frozen=True)
class Loss:
    """What rounding again cost.

    Attributes:
        layers: layer -> squared error over the squares of the weights that the model runs with.
        perplexity: on the text given: as the model runs, and as written; None without a text.
        logits: the largest difference of a logit on the first window of the text; None without one.
    """

    layers: Mapping[str, float]
    perplexity: tuple[float, float] | None = None
    logits: float | None = None


@dataclass(frozen=True)
class Fixed:
    """What was written.

    Attributes:
        folder: where it lies.
        format: one of `FORMATS`.
        bitmap: what it is frozen at.
        adapters: `merged`, `peft`, `off` or `NONE`.
        loss: None where every weight is the model's own.
        bytes: size on disk.
    """

    folder: Path
    format: str
    bitmap: str
    adapters: str
    loss: Loss | None
    bytes: int


@torch.no_grad()
def export_fixed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    bitmap: Bitmap | str | int,
    format: str = "hf",
    *,
    adapters: Adapters = "merged",
    float_bits: FloatBits = 32,
    windows: Sequence[Sequence[int]] = (),
    source: Mapping[str, Any] = {},
    overwrite: bool = False,
) -> Fixed:
    """Write `model` at one bitmap.

    Args:
        model: a switchable model on the CPU.
        tokenizer: its tokenizer.
        folder: where to; made.
        bitmap: what to freeze it at.
        format: `hf`, `compressed-tensors` or `gptq`.
        adapters: `merged` adds them to the weights; `peft` puts them in adapters/bits_N for `peft` to lay over the
            rounded weights, which takes one width for all layers; `off` leaves them out.
        float_bits: of all that is not packed.
        windows: token ids to measure on what rounding again costs.
        source: where the model came from.
        overwrite: replace a folder that is there.

    Raises:
        UserError: a bitmap that does not fit, or mixes widths where `peft` adapters are asked for; a model, a grid or a
            width that the format cannot hold; a folder that is there or cannot be written.
    """
    if format not in FORMATS:
        raise UserError(f"no format {format!r}: there are {', '.join(FORMATS)}")
    check_common_norms(model)
    parsed = Bitmap.parse(bitmap, get_switch(model).names)
    if adapters == "peft" and len(set(parsed)) > 1:
        raise UserError("peft lays one adapter over all layers: give one width, or --adapters merged")
    if adapters == "off" and any(layer.linear.is_taken_out for layer in switch_layers(model)):
        raise UserError(
            "the weights were rounded without what the shared adapter started with (shared_start), so it cannot be "
            "left off: give --adapters merged or peft"
        )
    layers = zip(switch_layers(model), parsed)
    done = adapters if any(layer.low_rank(bits) is not None for layer, bits in layers) else NONE
    packer, merge = PACKERS.get(format), adapters == "merged"
    packed = {} if packer is None else _packed(model, parsed, packer, merge)
    plain = plain_model(model, parsed, merge)
    for name, layer in packed.items():
        if layer.loss is not None:
            weight_view(plain.get_submodule(name)).copy_(layer.weight())
    loss = _loss(model, plain, parsed, adapters, packed, windows)
    with new_folder(folder, overwrite) as place:
        if done == "peft":
            save_adapters(model, place / "adapters", over_base=False, bits=parsed[0])
        write_folder(place, plain, tokenizer, packer, packed, torch.float16 if float_bits == 16 else torch.float32)
        content = {
            "format": format,
            "bitmap": str(bitmap),
            "widths": dict(zip(get_switch(model).names, parsed)),
            "adapters": done,
            "loss": None if loss is None else asdict(loss),
            "source": dict(source),
            "versions": versions(),
        }
        seal(place, KIND, content)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return Fixed(Path(folder), format, str(bitmap), done, loss, size)


def read_fixed(folder: Path) -> tuple[Fixed, Mapping[str, str]]:
    """What a folder says of itself, and the hashes of its files; they are not looked at.

    Raises:
        UserError: it is not such a folder, or damaged.
    """
    content = read_seal(folder)
    if content["kind"] != KIND:
        raise UserError(f"{folder} is no model at one bitmap that `switchq export` wrote")
    try:
        loss = content["loss"]
        if loss is not None:
            pair = loss["perplexity"]
            loss = Loss(dict(loss["layers"]), None if pair is None else (pair[0], pair[1]), loss["logits"])
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        said = {name: str(content[name]) for name in ("format", "bitmap", "adapters")}
        return Fixed(folder, **said, loss=loss, bytes=size), content["files"]
    except (KeyError, TypeError) as error:
        raise UserError(f"the metadata of {folder} is damaged: {error}") from None


def _packed(model: PreTrainedModel, bitmap: Bitmap, packer: Packer, merge: bool) -> dict[str, Coded]:
    architecture = architecture_of(model.config)
    names = set(architecture.linear_names(model))
    with at(model, bitmap):
        layers = [layer for layer in switch_layers(model) if layer.name in names and layer.bits != FULL]
        shapes = {layer.name: layer.shape for layer in layers}
        for layer in layers:
            check_levels(layer.linear.grid)
        packer.check(architecture, shapes, [layer.bits for layer in layers])
        return {layer.name: code_layer(layer, merge, packer.zero_points) for layer in layers}


def _loss(
    model: PreTrainedModel,
    plain: PreTrainedModel,
    bitmap: Bitmap,
    adapters: Adapters,
    packed: Mapping[str, Coded],
    windows: Sequence[Sequence[int]],
) -> Loss | None:
    """What rounding again cost; of the model's figures, those of what runs in the end."""
    layers = {name: layer.loss for name, layer in packed.items() if layer.loss is not None}
    if not layers:
        return None
    if not windows:
        return Loss(layers)
    ids_BT = torch.tensor([windows[0]])
    with at(model, bitmap, adapters != "off"):
        before, logits_BTV = text_perplexity(model, windows), model(ids_BT).logits
    with _laid_over(plain, model, bitmap) if adapters == "peft" else nullcontext():
        largest = float((plain(ids_BT).logits - logits_BTV).abs().max())
        return Loss(layers, (before, text_perplexity(plain, windows)), largest)


@contextmanager
def _laid_over(plain: PreTrainedModel, model: PreTrainedModel, bitmap: Bitmap) -> Iterator[None]:
    """A plain model with what the adapters add at a bitmap, as `peft` will lay them over it."""
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for layer, bits in zip(switch_layers(model), bitmap, strict=True):
            factors = layer.low_rank(bits)
            if factors is not None:
                weight_OI = weight_view(plain.get_submodule(layer.name))
                before.append((weight_OI, weight_OI.clone()))
                weight_OI += factors[1] @ factors[0]
        yield
    finally:
        for weight_OI, value_OI in before:
            weight_OI.copy_(value_OI)
