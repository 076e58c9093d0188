"""Modules that run at a width chosen at run time, and the switch over them."""

from switchq.nn.adapters import add_adapters
from switchq.nn.linear import QuantEmbedding, QuantLinear
from switchq.nn.switch import (
    Switch,
    SwitchLayer,
    at,
    attach_switch,
    get_switch,
    set_bitmap,
    switch_layers,
)

__all__ = [
    "QuantEmbedding",
    "QuantLinear",
    "Switch",
    "SwitchLayer",
    "add_adapters",
    "at",
    "attach_switch",
    "get_switch",
    "set_bitmap",
    "switch_layers",
]
