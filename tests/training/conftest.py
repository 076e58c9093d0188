"""The workshop's fixtures."""

from workshop import dropout_workshop, make_workshop, workshop

__all__ = ["dropout_workshop", "make_workshop", "workshop"]
