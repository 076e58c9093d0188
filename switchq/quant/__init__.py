"""Quantisation of tensors: no modules, no models."""

from switchq.quant.asymmetric import Asymmetric
from switchq.quant.grid import Grid, Params
from switchq.quant.nested import Nested
from switchq.quant.powers import Apot, Pot
from switchq.quant.stretched import Stretched
from switchq.quant.symmetric import Symmetric

__all__ = ["Apot", "Asymmetric", "Grid", "Nested", "Params", "Pot", "Stretched", "Symmetric"]
