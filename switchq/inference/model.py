"""A model that runs from an artifact: built without its float weights, its layers filled when a bitmap needs them."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights
from transformers.utils import GENERATION_CONFIG_NAME

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.inference.artifact import Artifact
from switchq.inference.heap import give_back_at_once
from switchq.inference.kernels import integer_products
from switchq.inference.linear import PackedLayer, PackedLinear, Ready
from switchq.inference.source import ArtifactSource, Prefer, check_preference
from switchq.inference.steps.decoder import Decoder
from switchq.inference.steps.pick import decoder_for
from switchq.models import load_config, load_tokenizer
from switchq.models.device import pick_device
from switchq.nn import Switch, SwitchLayer, get_switch, set_bitmap


class SwitchableLM:
    """A language model that runs at any bitmap of an artifact.

    Attributes:
        model: the causal language model, a `transformers` one; `switchq.at` and `switchq.set_bitmap` take it, too.
        tokenizer: its tokenizer.
        artifact: what it was loaded from.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, artifact: Artifact) -> None:
        self.model, self.tokenizer, self.artifact = model, tokenizer, artifact
        self._decoder: Decoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        bitmap: Bitmap | str | int | Sequence[int] | None = None,
        *,
        packed: bool = True,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        prefer: Prefer = "speed",
    ) -> Self:
        """Load an artifact that `switchq export` wrote.

        Args:
            folder: the artifact.
            bitmap: what to run at; the widest width by default. Only the planes that it needs are read.
            packed: False multiplies decoded weights in float32 everywhere: slow, and the numbers of training; on a CPU.
            device: where to run.
            dtype: of activations and of what is not packed: float32 on a CPU, elsewhere float16 (the default) or
                bfloat16.
            prefer: `speed`; or `memory`, which on a CPU reads planes instead of mapping them, and has malloc give large
                buffers back at once, for the whole process.

        Raises:
            UserError: missing, damaged, of a newer version; a bitmap that it does not hold; no such device, or one
                that cannot run this.

        Warns:
            UserWarning: no machine code can be made on this machine, so that weights are decoded in every call.
        """
        check_preference(prefer)
        place = pick_device(str(device))
        artifact = Artifact(folder)
        if packed and place.type == "cpu":
            if prefer == "memory":
                give_back_at_once()
            if not integer_products():
                warnings.warn("LLVM makes no code here: weights are decoded in every call, which is slow", stacklevel=2)
        source = ArtifactSource(artifact, packed, place, _dtype_on(place, dtype), prefer)
        model = _build(artifact, source)
        layers = artifact.manifest.layers
        wanted = Bitmap.parse(_written(bitmap if bitmap is not None else source.widths[0]), tuple(layers))
        entries = tuple(PackedLayer(name, model.get_submodule(name)) for name in layers)  # type: ignore[arg-type]
        model.__dict__["_switch"] = Switch(entries, wanted, widths=frozenset(source.widths))
        set_bitmap(model, wanted)
        return cls(model, load_tokenizer(str(artifact.folder)), artifact)

    @property
    def bitmap(self) -> Bitmap:
        """What it runs at."""
        return get_switch(self.model).bitmap

    def set_bitmap(self, bitmap: Bitmap | str | int | Sequence[int], adapters: bool = True) -> Bitmap:
        """Run at `bitmap` from the next forward on; planes that were not read yet are read now.

        Raises:
            UserError: a bitmap that the artifact does not hold.
        """
        return set_bitmap(self.model, bitmap, adapters)

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors read from the artifact so far."""
        return self.artifact.bytes_read

    @property
    def resident_bytes(self) -> int:
        """Bytes of the packed layers at the current bitmap, kernels and adapters."""
        total = 0
        for layer in get_switch(self.model).layers:
            ready = _ready(layer)
            total += ready.kernel.resident_bytes + (0 if ready.low is None else ready.low.resident_bytes)
        return total

    def slower_than_float32(self) -> dict[int, float]:
        """The widths of the current bitmap that this machine multiplies more slowly than float32 on one token, with
        the factor: kernels alone, measured once on this machine."""
        sums: dict[int, list[float]] = {}
        for layer in get_switch(self.model).layers:
            ready = _ready(layer)
            if ready.timing is not None:
                both = sums.setdefault(ready.bits, [0.0, 0.0])
                both[0], both[1] = both[0] + ready.timing.kernel, both[1] + ready.timing.dense
        return {bits: kernel / dense for bits, (kernel, dense) in sums.items() if kernel > dense}

    @property
    def decoder(self) -> Decoder | None:
        """What generates faster than `generate`; None for a model that it does not run."""
        if self._decoder is None:
            self._decoder = decoder_for(self)
        return self._decoder

    def generate(self, *args: Any, **options: Any) -> Any:
        """`transformers`' generate."""
        return self.model.generate(*args, **options)  # type: ignore[operator]

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The model's forward."""
        return self.model(*args, **options)


def _ready(layer: SwitchLayer) -> Ready:
    return cast(PackedLinear, layer.linear).ready


def _dtype_on(device: torch.device, dtype: torch.dtype | None) -> torch.dtype:
    """The type of activations; a UserError for one that this device does not run."""
    usual, *others = (torch.float32,) if device.type == "cpu" else (torch.float16, torch.bfloat16)
    if dtype not in (None, usual, *others):
        raise UserError(f"an artifact does not run in {dtype} on {device}: {' or '.join(map(str, (usual, *others)))}")
    return dtype or usual


def _written(bitmap: Bitmap | str | int | Sequence[int]) -> Bitmap | str | int:
    return bitmap if isinstance(bitmap, Bitmap | str | int) else Bitmap(bitmap)


def _build(artifact: Artifact, source: ArtifactSource) -> PreTrainedModel:
    """The model with everything but its packed layers filled."""
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(load_config(str(artifact.folder)), dtype=source.dtype)
    model.tie_weights()
    for name, shape in artifact.manifest.layers.items():
        bias = f"rest.{name}.bias"
        bias_O = artifact.tensor(bias).to(source.device, source.dtype) if artifact.has(bias) else None
        model.set_submodule(name, PackedLinear(name, shape, bias_O, source))
    if (artifact.folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(artifact.folder)
    _fill_tables(model, source)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        parameter.data = artifact.tensor(f"rest.{name}").to(source.device, source.dtype, copy=True)
    return model.to(source.device).eval()


def _fill_tables(model: PreTrainedModel, source: ArtifactSource) -> None:
    """Put tables in the place of the embeddings and the head, where they run as they are stored."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    shared = head.weight is embedding.weight
    rows, columns = (f"{_name_of(model, module)}.weight" for module in (embedding, embedding if shared else head))
    if (looked_up := source.embedding(rows)) is not None:
        model.set_input_embeddings(looked_up)
    if (multiplied := source.head(columns, shared)) is not None:
        model.set_output_embeddings(multiplied)


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
