"""Quantisation of tensors: no modules, no models."""

from switchq.quant.asymmetric import Asymmetric
from switchq.quant.grid import Grid, Params
from switchq.quant.nested import Nested
from switchq.quant.symmetric import Symmetric

__all__ = ["Asymmetric", "Grid", "Nested", "Params", "Symmetric"]
