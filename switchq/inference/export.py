"""Packing a switchable model into an artifact, see `switchq.inference.artifact` for what lies in it.

A model whose grid is `Nested` is packed bit for bit: the artifact's levels are those of its training. One of another
grid is rounded again, to a nested grid with the same groups, because only nested codes hold all widths in one; what
that costs is measured for every width and kept in the manifest. Everything is written to a folder beside the target,
which is renamed when it is complete, manifest last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.bitmap import FULL
from switchq.errors import UserError
from switchq.files import new_folder, write_json
from switchq.inference.artifact import MANIFEST, WEIGHTS, Manifest, tensor_bytes
from switchq.inference.table import encode_table
from switchq.models import architecture_of
from switchq.nn import SwitchLayer, switch_layers
from switchq.nn.adapters import is_adapter
from switchq.nn.norm import check_common_norms
from switchq.nn.weight import QuantWeight, is_scale
from switchq.quant import Grid, Nested, Params
from switchq.quant.nested import PARENT_BITS
from switchq.quant.planes import pack_planes

EmbeddingBits = Literal[8, 16, 32]


@dataclass(frozen=True)
class Loss:
    """Squared error of the rounded weights over the squared weights, at one width.

    Attributes:
        before: on the grid that the model was trained with.
        after: on the nested grid.
    """

    before: float
    after: float


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        bytes: size on disk, by part: planes, levels, adapters, embeddings, rest, tokenizer and configuration.
        losses: width -> what rounding again cost; empty where the grid was nested.
    """

    folder: Path
    manifest: Manifest
    bytes: Mapping[str, int]
    losses: Mapping[int, Loss] = field(default_factory=dict)


def export_artifact(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    widths: Sequence[int],
    base: Mapping[str, str],
    embedding_bits: EmbeddingBits = 16,
    data: Mapping[str, Any] = {},
    source: Mapping[str, Any] = {},
    overwrite: bool = False,
) -> Exported:
    """Write `model` as an artifact.

    Args:
        model: a switchable model on the CPU.
        tokenizer: its tokenizer.
        folder: where to; made.
        widths: the widths that it is to run at.
        base: name and content hash of the base model.
        embedding_bits: of the embeddings and the head: 8, 16 or 32; norms and biases are float32.
        data: the options of the data that it was trained on.
        source: where the model came from.
        overwrite: replace a folder that is there.

    Raises:
        UserError: no width, quantised embeddings or head, norms that differ by width, a folder that is there or cannot
            be written.
    """
    held = sorted({bits for bits in widths if bits != FULL}, reverse=True)
    if not held:
        raise UserError("an artifact holds widths from 2 to 8: 16 bits alone cannot be packed")
    check_common_norms(model)
    layers = _linears(model)
    trained = layers[0].linear.grid
    grid = trained if trained.nests else Nested(trained.group_size)
    tensors: dict[str, Tensor] = {}
    losses = None if trained.nests else _Losses(held)
    for layer in layers:
        linear = layer.linear
        fitted = {bits: linear.params(bits) if trained.nests else grid.fit(linear.weight, bits) for bits in held}
        tensors |= _packed(layer, grid, fitted)
        if losses is not None:
            losses.add(linear, grid, fitted)
    adapters = _adapters(layers, held, tensors)
    tensors |= _rest(model, layers, embedding_bits)
    found = losses.relative() if losses is not None else {}
    requantised = {
        bits: {"relative_squared_error": loss.after, f"with_{type(trained).__name__}": loss.before}
        for bits, loss in found.items()
    }
    manifest = Manifest(
        base=dict(base),
        grid=grid.to_dict(),
        widths=tuple(held),
        layers={layer.name: layer.shape for layer in layers},
        adapters=adapters,
        embedding_bits=embedding_bits,
        data=dict(data),
        source={**source, "requantised": requantised},
        tensors={name: sha256(tensor_bytes(value)).hexdigest() for name, value in sorted(tensors.items())},
        files={},
    )
    with new_folder(folder, overwrite) as place:
        save_file({name: value.contiguous() for name, value in tensors.items()}, place / WEIGHTS)
        (place / WEIGHTS).chmod(0o644)
        manifest = _finish(model, tokenizer, place, manifest)
    return Exported(Path(folder), manifest, _sizes(tensors, Path(folder)), found)


def _linears(model: PreTrainedModel) -> tuple[SwitchLayer, ...]:
    names = set(architecture_of(model.config).linear_names(model))
    layers = switch_layers(model)
    extra = [layer.name for layer in layers if layer.name not in names]
    if extra:
        raise UserError(
            f"an artifact cannot hold {extra[0]} at several widths: train without model.extra, and export with "
            f"--embeddings 8"
        )
    return layers


def _packed(layer: SwitchLayer, grid: Grid, fitted: Mapping[int, Params]) -> dict[str, Tensor]:
    """The planes of a layer, and its levels at each width; the grid as fitted at all of them has the same cells."""
    codes_OI = grid.encode(layer.linear.weight.detach(), fitted[max(fitted)], PARENT_BITS)
    planes = {f"plane{k}.{layer.name}": plane for k, plane in enumerate(pack_planes(codes_OI))}
    levels = {
        f"levels{bits}.{name}.{layer.name}": params[name].half()
        for bits, params in fitted.items()
        for name in ("scale", "offset")
    }
    return planes | levels


class _Losses:
    """Squared errors of the weights as trained and as stored, summed over layers."""

    def __init__(self, widths: Sequence[int]) -> None:
        self.total = 0.0
        self.errors = {bits: [0.0, 0.0] for bits in widths}

    def add(self, linear: QuantWeight, grid: Grid, fitted: Mapping[int, Params]) -> None:
        weight_OI = linear.weight.detach().float()
        self.total += float(weight_OI.double().square().sum())
        for bits, errors in self.errors.items():
            stored_OI = grid.fake_quantize(weight_OI, fitted[bits], bits)
            for at, rounded_OI in enumerate((linear.rounded(bits).float(), stored_OI)):
                errors[at] += float((rounded_OI - weight_OI).square().sum())

    def relative(self) -> dict[int, Loss]:
        return {bits: Loss(before / self.total, after / self.total) for bits, (before, after) in self.errors.items()}


def _adapters(layers: Sequence[SwitchLayer], widths: Sequence[int], tensors: dict[str, Tensor]) -> tuple[int, ...]:
    """Put what the adapters add at each width into `tensors`, as one pair of factors, and what the weights were rounded
    without; returns the widths with any."""
    kept = {f"adapter{bits}": (bits, True) for bits in widths} | {"taken": (widths[0], False)}
    for what, (bits, adapters) in kept.items():
        pairs = {layer.name: factors for layer in layers if (factors := layer.low_rank(bits, adapters)) is not None}
        for name, factors in pairs.items():
            for factor, weight in zip("AB", factors):
                tensors[f"{what}.{factor}.{name}"] = weight.detach().half().contiguous()
    return tuple(bits for bits in widths if any(name.startswith(f"adapter{bits}.") for name in tensors))


def _rest(model: PreTrainedModel, layers: Sequence[SwitchLayer], embedding_bits: EmbeddingBits) -> dict[str, Tensor]:
    """All parameters but packed weights, adapters and learned scales, under the names of `transformers`."""
    packed = {id(layer.linear.weight) for layer in layers}
    wide = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in packed or is_adapter(name) or is_scale(name):
            continue
        plain, value = name.replace(".base_layer.", "."), parameter.detach()
        if id(parameter) in wide and embedding_bits == 8:
            tensors[f"codes.{plain}"], tensors[f"scale.{plain}"] = encode_table(value)
        else:
            half = embedding_bits != 32 and value.dim() > 1
            tensors[f"rest.{plain}"] = (value.half() if half else value.float()).contiguous()
    return tensors


def _finish(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: Path, manifest: Manifest) -> Manifest:
    """Write configuration and tokenizer, then the manifest, which names them all."""
    model.config.save_pretrained(place)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(place)
    tokenizer.save_pretrained(place)
    names = sorted(path.name for path in place.iterdir() if path.name != WEIGHTS)
    manifest = replace(manifest, files={name: sha256((place / name).read_bytes()).hexdigest() for name in names})
    write_json(place / MANIFEST, manifest.to_json())
    return manifest


def _sizes(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, int]:
    sizes = dict.fromkeys(PARTS, 0)
    for name, tensor in tensors.items():
        sizes[part_of(name)] += tensor.nbytes
    written = sum(path.stat().st_size for path in folder.iterdir())
    return {**sizes, "tokenizer, configuration, manifest": written - sum(sizes.values())}


PARTS = ("planes", "levels", "adapters", "embeddings", "norms and biases")


def part_of(name: str) -> str:
    """The part of an artifact that a tensor belongs to."""
    first = name.partition(".")[0].rstrip("0123456789")
    known = {
        "plane": "planes", "levels": "levels", "adapter": "adapters", "taken": "adapters", "codes": "embeddings",
        "scale": "embeddings",
    }  # fmt: skip
    if first in known:
        return known[first]
    return "norms and biases" if name.endswith("bias") or "norm" in name or ".ln_" in name else "embeddings"
