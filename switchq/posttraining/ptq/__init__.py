"""Post-training quantisation: a method is transforms, a rounder and a grid; one setting serves a whole comparison."""

from switchq.posttraining.ptq.method import Method, load_methods
from switchq.posttraining.ptq.quantise import quantise
from switchq.posttraining.ptq.record import Quantised, QuantisedLayer
from switchq.posttraining.ptq.setting import Setting, calibration_batches

__all__ = ["Method", "Quantised", "QuantisedLayer", "Setting", "calibration_batches", "load_methods", "quantise"]
