"""PRAQ's risk-aware importance of output channels, and what it differs in from a plain one.

An activation such as SiLU silences a channel whose z = x W^T + b lies deep below zero, until rounding noise lifts it:
the wider a channel's weights, the more of its silence is at risk. For output channel o, over the calibration inputs,

    importance = sigmoid(beta (mean z + 3 std z + noise - tau)) (E|z| + std z)
    noise      = 0.2 E|x| mean|w_o|             E|x| over all inputs, mean|w_o| over the row

that is the chance to be active in the worst case times the size when active; beta = 3 and tau = -3 suit SiLU. The plain
importance, which the literature on PRAQ calls AWQ's, is E|z|. Hardware reads channels in groups, so the scores of a
group are summed.

The moments of z come from sampled inputs, or without any from those of x: mean z = W E[x] + b, var z = w_o C w_o^T with
C = E[x x^T] - E[x] E[x]^T, and E|z| as if z were normal.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from switchq.posttraining.ptq.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Outputs:
    """Moments of a linear's outputs z (O,) and what rounding noise is estimated from.

    Attributes:
        mean_O: E[z].
        std_O: the standard deviation of z.
        mean_abs_O: E|z|.
        noise_O: the estimated size of rounding noise.
    """

    mean_O: Tensor
    std_O: Tensor
    mean_abs_O: Tensor
    noise_O: Tensor

    def risk(self, beta: float = 3.0, tau: float = -3.0) -> Tensor:
        """The risk-aware importance (O,)."""
        active_O = torch.sigmoid(beta * (self.mean_O + 3 * self.std_O + self.noise_O - tau))
        return active_O * (self.mean_abs_O + self.std_O)


def outputs_of(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, noise: float = 0.2) -> Outputs:
    """The moments over the inputs `x_NI`."""
    z_NO = x_NI @ weight_OI.T + (0 if bias_O is None else bias_O)
    noise_O = noise * x_NI.abs().mean() * weight_OI.abs().mean(1)
    return Outputs(z_NO.mean(0), z_NO.std(0, correction=0), z_NO.abs().mean(0), noise_O)


def outputs_from_moments(
    statistics: Statistics, weight_OI: Tensor, bias_O: Tensor | None = None, noise: float = 0.2
) -> Outputs:
    """The same without inputs, from their `mean`, `mean_abs` and `gram`; E|z| is a normal distribution's."""
    mean_I = statistics["mean"]
    centred_O = weight_OI @ mean_I
    square_O = ((weight_OI @ statistics["gram"]) * weight_OI).sum(1)
    std_O = (square_O - centred_O.square()).clamp(min=0).sqrt()
    mean_O = centred_O + (0 if bias_O is None else bias_O)
    ratio_O = mean_O / std_O.clamp(min=1e-12)
    folded_O = std_O * math.sqrt(2 / math.pi) * torch.exp(-ratio_O.square() / 2)
    mean_abs_O = folded_O + mean_O * torch.erf(ratio_O / math.sqrt(2))
    noise_O = noise * statistics["mean_abs"].mean() * weight_OI.abs().mean(1)
    return Outputs(mean_O, std_O, mean_abs_O, noise_O)


def most_important(importance_O: Tensor, share: float, group: int) -> Tensor:
    """Which channels (O,) to keep: the share of the groups with the largest sums, rounded down but at least one group.

    Channels that do not make two groups of that size are taken one by one.
    """
    size = group if len(importance_O) % group == 0 and len(importance_O) >= 2 * group else 1
    score_G = importance_O.reshape(-1, size).sum(1)
    kept_G = torch.zeros_like(score_G, dtype=torch.bool)
    kept_G[score_G.argsort(descending=True, stable=True)[: max(1, int(share * len(score_G)))]] = True
    return kept_G.repeat_interleave(size)


@dataclass(frozen=True)
class Comparison:
    """The risk-aware against the plain importance on one linear.

    Attributes:
        correlation: Spearman's, between the two importances of all channels.
        overlap: share of the channels kept by the one that the other keeps too.
        risk_mse: E (act(z_rounded) - act(z))^2 with the channels kept that the risk-aware importance names.
        plain_mse: the same with those that E|z| names.
    """

    correlation: float
    overlap: float
    risk_mse: float
    plain_mse: float


def compare(
    x_NI: Tensor, weight_OI: Tensor, rounded_OI: Tensor, bias_O: Tensor | None = None, *,
    share: float = 0.5, group: int = 32, activation: nn.Module | None = None,
) -> Comparison:  # fmt: skip
    """Compare what the two importances keep of a linear.

    Args:
        x_NI: inputs.
        weight_OI: the float weight.
        rounded_OI: the same rounded, which a channel has unless it is kept.
        bias_O: the bias.
        share: of the channels to keep.
        group: channels that are kept together.
        activation: what follows the linear; SiLU by default.
    """
    activation = nn.SiLU() if activation is None else activation
    outputs = outputs_of(x_NI, weight_OI, bias_O)
    risk_O, plain_O = outputs.risk(), outputs.mean_abs_O
    bias = 0 if bias_O is None else bias_O
    exact_NO = activation(x_NI @ weight_OI.T + bias)
    kept = [most_important(importance_O, share, group) for importance_O in (risk_O, plain_O)]
    risk_mse, plain_mse = (
        float(
            (activation(x_NI @ torch.where(one_O[:, None], weight_OI, rounded_OI).T + bias) - exact_NO).square().mean()
        )
        for one_O in kept
    )
    overlap = float((kept[0] & kept[1]).sum() / kept[0].sum())
    return Comparison(_correlation(risk_O, plain_O), overlap, risk_mse, plain_mse)


def loud_silence(
    seed: int = 0, inputs: int = 128, outputs: int = 64, tokens: int = 2048
) -> tuple[Tensor, Tensor, Tensor]:
    """A linear whose first half is useful and whose second half is silent but loud: x (N, I), W (O, I), b (O,).

    The useful channels have weights of size 0.5 and a bias of 0.5; the silent ones weights of size 3 and a bias of -15.
    """
    generator = torch.Generator().manual_seed(seed)
    x_NI = torch.randn(tokens, inputs, generator=generator)
    loud_O = torch.arange(outputs) >= outputs // 2
    weight_OI = torch.randn(outputs, inputs, generator=generator) * torch.where(loud_O, 3.0, 0.5)[:, None]
    return x_NI, weight_OI, torch.where(loud_O, -15.0, 0.5)


def _correlation(one_O: Tensor, other_O: Tensor) -> float:
    """Spearman's rank correlation."""
    ranks = torch.stack([value_O.argsort().argsort().double() for value_O in (one_O, other_O)])
    return float(torch.corrcoef(ranks)[0, 1])
