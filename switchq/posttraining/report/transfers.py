"""A transfer, as a report reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from switchq.errors import UserError
from switchq.posttraining.report.reading import clean, number
from switchq.posttraining.transfer.folder import KIND, VERSION
from switchq.posttraining.transfer.layers import LayerError
from switchq.posttraining.transfer.results import Gap, Outcome, Row


@dataclass(frozen=True)
class Transfer:
    """What `switchq transfer` wrote: its figures, and the rest of the file as it is."""

    name: str
    path: Path
    content: Mapping[str, Any]
    outcome: Outcome

    @property
    def models(self) -> list[str]:
        """Names of the source and of those after it."""
        return [str(one.get("name")) for one in (self.content["source"], *self.content["chain"])]


def transfer_of(path: Path, content: Mapping[str, Any]) -> Transfer:
    """The transfer in a transfer.json.

    Raises:
        UserError: it is damaged, empty, or of another version.
    """
    if content.get("kind") != KIND or content.get("version") != VERSION:
        raise UserError(f"{path} is a transfer of version {content.get('version')!r}, this program reads {VERSION}")
    wanted = {"source": Mapping, "chain": list, "matching": list, "tasks": Mapping, "setting": Mapping, "run": Mapping}
    for name, kind in wanted.items():
        if not isinstance(content.get(name), kind):
            raise UserError(f"the transfer {path} is damaged: {name!r} is missing or of the wrong type")
    for name in ("chain", "matching"):
        if not all(isinstance(one, Mapping) for one in content[name]):
            raise UserError(f"the transfer {path} is damaged: {name!r} does not hold objects")
    parts = [
        _all(kind, content.get(name), path) for name, kind in (("rows", Row), ("gaps", Gap), ("layers", LayerError))
    ]
    if not parts[0]:
        raise UserError(f"the transfer {path} holds no rows")
    return Transfer(clean(path.resolve().parent.name), path, content, Outcome(*parts))


def _all(kind: type[Any], found: Any, path: Path) -> tuple[Any, ...]:
    if not isinstance(found, list):
        raise UserError(f"the transfer {path} is damaged: rows, gaps or layers are missing")
    return tuple(_one(kind, one, path) for one in found)


def _one(kind: type[Any], found: Any, path: Path) -> Any:
    """A figure with numbers that are finite or nan, whatever was written."""
    names = {one.name for one in fields(kind)}
    if not isinstance(found, Mapping) or set(found) != names:
        raise UserError(f"the transfer {path} is damaged: {kind.__name__.lower()} lacks {', '.join(sorted(names))}")
    values = dict(found)
    for name in {"scores", "spreads", "worse"} & names:
        if not isinstance(values[name], Mapping):
            raise UserError(f"the transfer {path} is damaged: {name!r} is not an object")
        read = {task: number(value) for task, value in values[name].items()}
        values[name] = {task: float("inf") if value is None else value for task, value in read.items()}
    for name in {"gap", "error", "own", "rtn"} & names:
        value = number(values[name])
        values[name] = float("nan") if value is None else value
    for name in {"low", "high", "spread", "saved_seconds", "size_mb", "seconds", "effective_bits"} & names:
        values[name] = number(values[name])
    for name in {"bits", "block", "seeds"} & names:
        if not isinstance(values[name], int):
            raise UserError(f"the transfer {path} is damaged: {name!r} is not a whole number")
    return kind(**values)
