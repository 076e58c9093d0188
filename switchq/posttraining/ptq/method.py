"""A method: transforms, a rounder and a grid, put together from a few lines of YAML.

    awq:
      transforms:
        - {class_path: transforms.activation_scale.ActivationScale, init_args: {points: 20}}
      rounder: rounders.range_search.RangeSearch

A part is a class path, relative to this package, alone or with `init_args`. A class that is imported already may be
named by its bare name. `grid` changes the setting's grid: `{init_args: {scale: mse}}`, or another class.
"""

import importlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import yaml

from switchq.errors import UserError, reason
from switchq.posttraining.ptq.activations import Activations
from switchq.posttraining.ptq.rounder import Rounder
from switchq.posttraining.ptq.setting import Setting
from switchq.posttraining.ptq.statistics import Needs
from switchq.posttraining.ptq.transform import Transform
from switchq.quant import Grid
from switchq.quant.grid import subclasses

PACKAGE = "switchq.posttraining.ptq"

METHODS = Path(__file__).with_name("methods.yaml")
"""The methods that come with the program."""


@dataclass(frozen=True)
class Method:
    """How to quantise.

    Attributes:
        name: what tables call it.
        rounder: picks the codes.
        transforms: rewrite the float model first, in this order.
        grid: changes to the setting's grid, `class_path` and `init_args`; {} for none.
        activations: rounds the inputs of the linears too.
    """

    name: str
    rounder: Rounder
    transforms: tuple[Transform, ...] = ()
    grid: Mapping[str, Any] = field(default_factory=dict)
    activations: Activations | None = None

    def grid_for(self, setting: Setting) -> Grid:
        """The setting's grid with this method's changes."""
        given = setting.grid().to_dict()
        arguments = {**given["init_args"], **self.grid.get("init_args", {})}
        return Grid.from_dict({"class_path": self.grid.get("class_path", given["class_path"]), "init_args": arguments})

    def needs(self) -> Needs:
        """All statistics that its parts declare."""
        needs = self.rounder.needs() | self.transform_needs()
        return needs if self.activations is None else needs | self.activations.needs()

    def transform_needs(self) -> Needs:
        """The statistics that its transforms declare."""
        return reduce(or_, (transform.needs() for transform in self.transforms), Needs())

    def to_dict(self) -> dict[str, Any]:
        """As plain values, every hyper-parameter named, in the form that `from_dict` reads."""
        return {
            "rounder": _as_dict(self.rounder),
            "transforms": [_as_dict(transform) for transform in self.transforms],
            "grid": dict(self.grid),
            "activations": None if self.activations is None else _as_dict(self.activations),
        }

    @classmethod
    def from_dict(cls, name: str, content: Mapping[str, Any]) -> "Method":
        """From an entry of a YAML file.

        Raises:
            UserError: an unknown class, key or argument, or a value that is none.
        """
        unknown = set(content) - ({one.name for one in fields(cls)} - {"name"})
        if unknown or "rounder" not in content:
            raise UserError(
                f"method {name}: {min(unknown)!r} is no part of a method" if unknown else f"method {name}: no rounder"
            )
        activations = content.get("activations")
        try:
            method = cls(
                name,
                _part(Rounder, content["rounder"], name),
                tuple(_part(Transform, one, name) for one in content.get("transforms") or ()),
                dict(content.get("grid") or {}),
                None if activations is None else _part(Activations, activations, name),
            )
            method.grid_for(Setting())
        except TypeError as error:
            raise UserError(f"method {name}: a value of {dict(content)} is of the wrong type ({error})") from None
        return method


def load_methods(path: str | Path = METHODS) -> dict[str, Method]:
    """The methods of a YAML file, by name.

    Raises:
        UserError: the file cannot be read or does not hold methods.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the methods in {path}: {reason(error)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping) or not all(isinstance(entry, Mapping) for entry in content.values()):
        raise UserError(f"{path} does not hold methods: it needs a name with a rounder each")
    return {str(name): Method.from_dict(str(name), entry) for name, entry in content.items()}


def _part(base: Any, written: object, method: str) -> Any:
    content = {"class_path": written} if isinstance(written, str) else written
    if not isinstance(content, Mapping) or not isinstance(content.get("class_path"), str):
        raise UserError(f"method {method}: {written!r} is not a class path")
    path, arguments = content["class_path"], content.get("init_args") or {}
    kind = _find(base, path)
    if kind is None:
        raise UserError(f"method {method}: there is no {base.__name__.lower()} {path!r}")
    known = {one.name: one for one in fields(kind)}
    required = {name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    wrong = (set(arguments) - set(known)) | (required - set(arguments))
    if wrong:
        takes = ", ".join(known) or "nothing"
        raise UserError(f"method {method}: {path} does not go with {', '.join(sorted(wrong))}; it takes {takes}")
    return kind(**arguments)


def _find(base: type[Any], path: str) -> type[Any] | None:
    """The class that `path` names: in this package, or one that is imported already."""
    module, _, name = path.removeprefix(f"{PACKAGE}.").rpartition(".")
    if module and all(piece.isidentifier() for piece in module.split(".")):
        try:
            found = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name, None)
        except ModuleNotFoundError:
            return None
        return found if isinstance(found, type) and issubclass(found, base) else None
    return next((kind for kind in subclasses(base) if kind.__name__ == path), None)


def _as_dict(part: Rounder | Transform | Activations) -> dict[str, Any]:
    kind = type(part)
    path = f"{kind.__module__.removeprefix(f'{PACKAGE}.')}.{kind.__name__}"
    inside = kind.__module__.startswith(f"{PACKAGE}.")
    arguments = part.described() if isinstance(part, Transform) else asdict(part)
    return {"class_path": path if inside else kind.__name__, "init_args": arguments}
