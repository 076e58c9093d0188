"""The sensitivities of a model as a file: scores per layer and width, and whose they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from switchq.errors import UserError, reason
from switchq.files import write_json

KIND = "sensitivity"
"""What the file says it is, under the key `kind`."""


@dataclass(frozen=True)
class Sensitivity:
    """Scores of every quantised layer at every width; a higher score means that the layer suffers more.

    Attributes:
        layers: names of the quantised layers, in model order.
        weights: number of weights of each layer.
        bits: the widths, widest first.
        scores: name of the score -> width -> one value per layer, in model order.
        correlations: name of a score -> name of another -> Spearman's rank correlation over all layers and widths.
        run: everything needed to repeat the measurement, as `run_record` writes it; `base_hash` and
            `checkpoint_sha256` say which model it was.
        cost: what each score took: name -> `seconds`, `forwards` and the like.
    """

    layers: tuple[str, ...]
    weights: tuple[int, ...]
    bits: tuple[int, ...]
    scores: Mapping[str, Mapping[int, tuple[float, ...]]]
    correlations: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def score(self, name: str, bits: int) -> tuple[float, ...]:
        """One value per layer at `bits`, or at the width that stands in for it.

        Raises:
            UserError: no such score, or a width that nothing stands in for.
        """
        if name not in self.scores:
            raise UserError(f"the sensitivities hold no score {name!r}; they hold {', '.join(self.scores)}")
        return self.scores[name][self.stand_in(bits)]

    def stand_in(self, bits: int) -> int:
        """The measured width whose scores are taken at `bits`: itself, or the next narrower one.

        Raises:
            UserError: all that were measured are wider.
        """
        if bits < min(self.bits):
            raise UserError(
                f"the sensitivities say nothing of {bits} bits, the narrowest measured are {min(self.bits)}: run "
                f"`switchq sensitivity` with --bits {bits}, or leave {bits} out of --widths"
            )
        return max(own for own in self.bits if own <= bits)

    def check(
        self, base_hash: str, checkpoint_sha256: str | None, layers: tuple[str, ...], grid: Mapping[str, Any] | None
    ) -> None:
        """Make sure that these are the sensitivities of a certain model, rounded to a certain grid.

        Raises:
            UserError: they are another model's, or another grid's.
        """
        mine = self.run.get("base_hash"), self.run.get("checkpoint_sha256")
        if mine != (base_hash, checkpoint_sha256) or self.layers != layers:
            whose = self.run.get("checkpoint") or self.run.get("base") or "an unnamed model"
            raise UserError(
                f"the sensitivities are those of another model ({whose}, base weights {str(mine[0])[:12]}, checkpoint "
                f"{str(mine[1])[:12]}): run `switchq sensitivity` on this one"
            )
        own = self.run.get("settings", {}).get("grid")
        if own != grid:
            raise UserError(f"the sensitivities are those of another grid ({own}): give the same as here ({grid})")

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            UserError: `path` cannot be written.
        """
        write_json(
            path,
            {
                "kind": KIND,
                "layers": [{"name": name, "weights": size} for name, size in zip(self.layers, self.weights)],
                "bits": list(self.bits),
                "scores": {
                    name: {str(bits): list(row) for bits, row in of.items()} for name, of in self.scores.items()
                },
                "correlations": self.correlations,
                "cost": self.cost,
                "run": self.run,
            },
        )

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `write` wrote; a score that was not finite is infinite.

        Raises:
            UserError: missing, damaged, or another kind of file.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the sensitivities {path}: {reason(error)}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"the sensitivities {path} are damaged: not JSON ({error})") from None
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise UserError(f"{path} holds no sensitivities: it is not a file of `switchq sensitivity`")
        try:
            result = cls(
                layers=tuple(str(layer["name"]) for layer in content["layers"]),
                weights=tuple(int(layer["weights"]) for layer in content["layers"]),
                bits=tuple(int(bits) for bits in content["bits"]),
                scores={
                    name: {int(bits): tuple(map(_number, row)) for bits, row in of.items()}
                    for name, of in content["scores"].items()
                },
                correlations=content["correlations"],
                run=content["run"],
                cost=content["cost"],
            )
            rows = [row for of in result.scores.values() for row in of.values()]
            complete = all(set(of) == set(result.bits) for of in result.scores.values())
            if not rows or not complete or any(len(row) != len(result.layers) for row in rows):
                raise ValueError("rows are missing")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"the sensitivities {path} are damaged: {error!r}") from None
        return result


def _number(value: float | None) -> float:
    return float("inf") if value is None else float(value)
