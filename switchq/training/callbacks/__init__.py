"""Callbacks: schedules decide what a step consists of; the others show, save and stop."""

from switchq.training.callbacks.checkpoint import LastCheckpoint
from switchq.training.callbacks.cyclic import Cyclic
from switchq.training.callbacks.instantnet import InstantNet
from switchq.training.callbacks.progress import SwitchProgress
from switchq.training.callbacks.schedule import Schedule
from switchq.training.callbacks.spnet import SPNet
from switchq.training.callbacks.summary import BeforeAfter
from switchq.training.callbacks.tensorboard import TensorBoardExtras

__all__ = [
    "BeforeAfter",
    "Cyclic",
    "InstantNet",
    "LastCheckpoint",
    "SPNet",
    "Schedule",
    "SwitchProgress",
    "TensorBoardExtras",
]
