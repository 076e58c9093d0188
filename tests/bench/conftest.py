"""The workshop's fixtures."""

from workshop import make_workshop, workshop

__all__ = ["make_workshop", "workshop"]
