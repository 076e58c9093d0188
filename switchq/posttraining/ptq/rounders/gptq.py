"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): column after column, the rounding error is passed on to the columns
that are still to come, in the proportion that keeps the output's error least.

With H = E[x x^T] + damping and U the upper Cholesky factor of H^-1, column j of W is rounded to q_j, and

    e = (w_j - q_j) / U_jj        W_k -= e U_jk   for all k > j

is the optimal brain surgeon's update of all rows at once: U's rows hold, column by column, what the inverse of the
Hessian of the remaining columns says. The updates beyond a block of columns wait until the block is done (lazy
batches). An input that is always zero contributes nothing, whatever its weights, which become zero.

Groups are fitted when their first column is reached, on weights that carry the errors of earlier columns, or before
(`static_groups`). `act_order` goes through the columns by falling H_jj; with groups it needs static ones, since a group
is a run of columns of the stored weight.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounder import Rounded, Rounder
from switchq.posttraining.ptq.statistics import Needs, Statistics
from switchq.quant import Grid, Params


@dataclass(frozen=True)
class Gptq(Rounder):
    """Rounding with error feedback.

    Args:
        damp: what is added to H's diagonal, as a share of its mean.
        block: columns in a lazy batch.
        act_order: columns with large inputs first.
        static_groups: fit all groups before the first column is rounded.

    Raises:
        UserError: a number out of range.
    """

    sequential: ClassVar[bool] = True
    row_by_row: ClassVar[bool] = True

    damp: float = 0.01
    block: int = 128
    act_order: bool = True
    static_groups: bool = True

    def __post_init__(self) -> None:
        if self.damp <= 0 or self.block < 1:
            raise UserError(f"gptq: damp {self.damp} and block {self.block} must be above zero")

    def needs(self) -> Needs:
        """The Gram matrix."""
        return Needs.of("gram")

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        """Round all columns.

        Raises:
            UserError: `act_order` with groups that are not static.
        """
        inputs = weight_OI.shape[1]
        groups = grid.groups(inputs)
        size = inputs // groups
        if self.act_order and groups > 1 and not self.static_groups:
            raise UserError("gptq: act_order with groups needs static_groups")
        gram_II = statistics["gram"].double()
        dead_I = gram_II.diagonal() <= 0
        weight_OI = weight_OI.masked_fill(dead_I, 0)
        order_I = gram_II.diagonal().argsort(dim=0, descending=True, stable=True) if self.act_order else None
        params = grid.fit(weight_OI, bits)
        left_OI = weight_OI if order_I is None else weight_OI[:, order_I]
        upper_II = self._factor(gram_II if order_I is None else gram_II[order_I][:, order_I]).float()
        group_I = torch.arange(inputs, device=weight_OI.device) // size
        group_of = (group_I if order_I is None else group_I[order_I]).tolist()
        left_IO = left_OI.T.contiguous()  # a column is a row here, next to itself in memory
        codes_IO = torch.empty_like(left_IO)
        fit_late = groups > 1 and not self.static_groups
        for start in range(0, inputs, self.block):
            stop = min(start + self.block, inputs)
            errors_BO = torch.empty_like(left_IO[start:stop])
            for column in range(start, stop):
                group = group_of[column]
                if fit_late and column % size == 0:
                    late_OS = self._caught_up(left_IO, errors_BO, upper_II, start, stop, column, size)
                    for name, value in grid.fit(late_OS, bits).items():
                        params[name][:, group] = value[:, 0]
                codes_O, value_O = _nearest(left_IO[column], grid, params, group, bits)
                codes_IO[column] = codes_O
                errors_BO[column - start] = (left_IO[column] - value_O) / upper_II[column, column]
                left_IO[column + 1 : stop].addr_(
                    upper_II[column, column + 1 : stop], errors_BO[column - start], alpha=-1
                )
            left_IO[stop:].addmm_(upper_II[start:stop, stop:].T, errors_BO, alpha=-1)
        codes_OI = torch.empty_like(weight_OI)
        codes_OI[:, order_I if order_I is not None else slice(None)] = codes_IO.T
        return Rounded(codes_OI.to(torch.int16), params, grid, bits)

    def _factor(self, gram_II: Tensor) -> Tensor:
        """U with U^T U = (H + damping)^-1, upper triangular; the damping grows until H can be inverted.

        With rows and columns in reverse order, written R H R, that is L L^T: so U = R L^-1 R.
        """
        diagonal_I = gram_II.diagonal()
        mean = float(diagonal_I.mean())
        eye_II = torch.eye(len(gram_II), dtype=gram_II.dtype, device=gram_II.device)
        if mean <= 0:
            return eye_II
        damp = self.damp
        while True:
            damped_II = gram_II + torch.diag(torch.where(diagonal_I > 0, damp * mean, mean))
            lower_II, failed = torch.linalg.cholesky_ex(damped_II.flip(0, 1))
            if not failed:
                return torch.linalg.solve_triangular(lower_II, eye_II, upper=False).flip(0, 1)
            damp *= 10

    @staticmethod
    def _caught_up(
        left_IO: Tensor, errors_BO: Tensor, upper_II: Tensor, start: int, stop: int, column: int, size: int
    ) -> Tensor:
        """The group (O, S) from `column` on, with the errors that its columns beyond the lazy batch have yet to get."""
        late_SO = left_IO[column : column + size].clone()
        beyond = max(stop, column)
        if column + size > beyond and column > start:
            late_SO[beyond - column :].addmm_(
                upper_II[start:column, beyond : column + size].T, errors_BO[: column - start], alpha=-1
            )
        return late_SO.T


def _nearest(weight_O: Tensor, grid: Grid, params: Params, group: int, bits: int) -> tuple[Tensor, Tensor]:
    """Codes and values of one column."""
    own = {name: value[:, group, None, None] for name, value in params.items()}
    codes_O11 = grid.encode_groups(weight_O[:, None, None], own, bits)
    return codes_O11[:, 0, 0], grid.decode_groups(codes_O11, own)[:, 0, 0]
