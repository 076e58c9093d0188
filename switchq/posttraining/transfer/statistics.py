"""AWQ's statistics of a source model, and the file that keeps them for any number of targets.

    NAME.safetensors   a safetensors file whose metadata hold a JSON header under `switchq`
      header           kind, version, model, setting, blocks, sites, entries: alpha, protect ratio, factor of each site
      weights/S/made_I, weights/S/read_I                        of site S, see `switchq.posttraining.transfer.channels`
      BITS/SEED/S/importance_I, .../scale_I, .../protected_K    of an entry: one width and one calibration seed

The importance of a channel is E|x_i| over the calibration tokens. The two forms of AWQ read it differently:

    scale     s = importance^alpha / sqrt(max * min), with the alpha of the least output error: `ActivationScale`
    protect   s_i = factor for the K most important channels, K = protect ratio * I, and 1 for the others: `Protect`
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from switchq.errors import UserError
from switchq.evaluation import write_bytes
from switchq.posttraining.transfer.channels import Channels, Place, Portrait

KIND, VERSION = "transfer-statistics", 1

TENSORS = ("importance_I", "scale_I", "protected_K")


@dataclass(frozen=True, eq=False)
class SiteStatistics:
    """What AWQ found at one input.

    Attributes:
        channels: the input by the weights.
        importance_I: E|x|.
        alpha: the best exponent.
        scale_I: what the columns were multiplied by, in the form `scale`.
        protected_K: the channels that the form `protect` protects.
        factor: what it multiplies them by.
    """

    channels: Channels
    importance_I: Tensor
    alpha: float
    scale_I: Tensor
    protected_K: Tensor
    factor: float

    @property
    def place(self) -> Place:
        """Where it is."""
        return self.channels.place

    @property
    def protect_ratio(self) -> float:
        """The share of the channels that is protected."""
        return len(self.protected_K) / len(self.importance_I)


@dataclass(frozen=True, eq=False)
class Entry:
    """The statistics of one width and one calibration seed.

    Attributes:
        blocks: of the model.
        sites: in model order; layers that were left out are missing.
        seconds: that the calibration took.
    """

    bits: int
    seed: int
    blocks: int
    sites: tuple[SiteStatistics, ...]
    seconds: float = 0.0

    @property
    def sha256(self) -> str:
        """Of all that decides what is carried."""
        digest = hashlib.sha256()
        for site in self.sites:
            digest.update(json.dumps([asdict(site.place), site.alpha, site.factor, self.blocks]).encode())
            for value in (site.importance_I, site.protected_K, site.channels.made_I, site.channels.read_I):
                digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class SourceStatistics:
    """All that is known of a source model.

    Attributes:
        source: the model without its weights.
        setting: what it was calibrated and rounded with.
        entries: by width and seed.
    """

    source: Portrait
    setting: Mapping[str, Any]
    entries: Mapping[tuple[int, int], Entry]

    def entry(self, bits: int, seed: int) -> Entry:
        """One of the entries.

        Raises:
            UserError: there is none; the message names those that are.
        """
        if (bits, seed) not in self.entries:
            known = ", ".join(f"{width} bits seed {one}" for width, one in self.entries)
            raise UserError(f"the statistics of {self.source.name} have no {bits} bits seed {seed}: they have {known}")
        return self.entries[bits, seed]

    def with_entry(self, entry: Entry) -> "SourceStatistics":
        """The same and one more."""
        return SourceStatistics(self.source, self.setting, {**self.entries, (entry.bits, entry.seed): entry})

    def write(self, path: str | Path) -> None:
        """Write the file, atomically.

        Raises:
            UserError: `path` cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        for number, site in enumerate(self.source.sites):
            tensors[f"weights/{number}/made_I"] = site.made_I
            tensors[f"weights/{number}/read_I"] = site.read_I
        entries = []
        for entry in self.entries.values():
            listed = []
            for one in entry.sites:
                number = _number(self.source, one.place)
                for name in TENSORS:
                    tensors[f"{entry.bits}/{entry.seed}/{number}/{name}"] = getattr(one, name)
                more = {"alpha": one.alpha, "protect_ratio": one.protect_ratio, "factor": one.factor}
                listed.append({"site": number, **more})
            entries.append({"bits": entry.bits, "seed": entry.seed, "seconds": entry.seconds, "sites": listed})
        tensors = {name: value.contiguous().clone() for name, value in sorted(tensors.items())}
        source = self.source
        header = {
            "kind": KIND,
            "version": VERSION,
            "model": {name: getattr(source, name) for name in ("name", "sha256", "model_type", "vocabulary")},
            "setting": dict(self.setting),
            "blocks": source.blocks,
            "sites": [asdict(site.place) for site in source.sites],
            "entries": entries,
            "tensors_sha256": _hash(tensors),
        }
        write_bytes(path, save(tensors, metadata={"switchq": json.dumps(header)}))


def read_statistics(path: str | Path) -> SourceStatistics:
    """The file that `SourceStatistics.write` wrote.

    Raises:
        UserError: missing, cut short, changed, of another kind or of another version.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("switchq", "null"))
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no file of statistics {path}") from None
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged or no file of statistics: {error}") from None
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise UserError(f"{path} is no file of statistics that `switchq transfer` wrote")
    if header.get("version") != VERSION:
        raise UserError(
            f"{path} has statistics of format version {header.get('version')}, this program reads {VERSION}: "
            f"extract them again"
        )
    try:
        if header["tensors_sha256"] != _hash(tensors):
            raise ValueError("its tensors are not those that were written (SHA-256)")
        return _parsed(header, tensors)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _parsed(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SourceStatistics:
    places = [Place(one["block"], one["role"], tuple(one["layers"]), one["inputs"]) for one in header["sites"]]
    sites = tuple(
        Channels(place, tensors[f"weights/{number}/made_I"], tensors[f"weights/{number}/read_I"])
        for number, place in enumerate(places)
    )
    entries = {}
    for one in header["entries"]:
        bits, seed = int(one["bits"]), int(one["seed"])
        found = []
        for site in one["sites"]:
            values = {name: tensors[f"{bits}/{seed}/{site['site']}/{name}"] for name in TENSORS}
            found.append(SiteStatistics(sites[site["site"]], alpha=site["alpha"], factor=site["factor"], **values))
        entries[bits, seed] = Entry(bits, seed, int(header["blocks"]), tuple(found), float(one["seconds"]))
    source = Portrait(**header["model"], blocks=int(header["blocks"]), sites=sites)
    return SourceStatistics(source, header["setting"], entries)


def _number(source: Portrait, place: Place) -> int:
    return next(number for number, site in enumerate(source.sites) if site.place == place)


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
