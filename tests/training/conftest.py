"""The workshop's fixtures, and modules with a shared start."""

from collections.abc import Callable
from typing import Any

import pytest
from workshop import Workshop, dropout_workshop, make_workshop, workshop

from switchq.quant import Nested
from switchq.training.module import SwitchableModule

from .shared_start import RANKS

__all__ = ["dropout_workshop", "make_workshop", "workshop"]


@pytest.fixture(scope="session")
def module_of(workshop: Workshop) -> Callable[..., SwitchableModule]:
    """`module_of(**options)`: nested codes, an adapter a width and a shared one."""

    def make(**options: Any) -> SwitchableModule:
        settings = {
            "grid": Nested(8), "rank": RANKS, "shared_rank": 3, "adapter_start": "qera", "shared_start": "qera",
            "lr": 1e-2, "warmup_steps": 0, "decay": "constant_with_warmup", "bitmaps": ["2"],
        }  # fmt: skip
        return SwitchableModule(**{"base": str(workshop.base), **settings, **options})

    return make
