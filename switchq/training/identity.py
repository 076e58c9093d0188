"""Which base model a checkpoint's adapters were trained on: its name, where it may be found, and its content hash."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import nn

from switchq.errors import UserError
from switchq.models import content_hash


@dataclass(frozen=True)
class BaseIdentity:
    """The base model of a checkpoint.

    Attributes:
        name: Hub name or local path, as it was given.
        sha256: `content_hash` of its parameters, taken before anything was changed.
    """

    name: str
    sha256: str

    @classmethod
    def of(cls, name: str, model: nn.Module) -> Self:
        """The identity of a freshly loaded model."""
        return cls(name, content_hash(model))

    def check(self, saved: Mapping[str, Any]) -> None:
        """Compare with what a checkpoint says of its base.

        Raises:
            UserError: if it was another one; the same weights under another name are fine.
        """
        if saved.get("sha256") != self.sha256:
            raise UserError(
                f"the checkpoint was trained on {saved.get('name', 'an unnamed base')} "
                f"(weights {str(saved.get('sha256'))[:12]}), but {self.name} has other weights ({self.sha256[:12]}); "
                f"give the right base"
            )

    def to_dict(self) -> dict[str, str]:
        """As plain values."""
        return asdict(self)
