"""QuaRot (Ashkboos et al. 2024, arXiv:2404.00456): the model in rotated coordinates, where no channel is an outlier.

With Q orthogonal and h the residual stream, h Q takes the place of h:

    norms        gains (and biases) move into the linears that read them: W diag(g), b + W beta
    embeddings   E Q            linears that write to the stream   Q^T W, b Q
    linears that read it, through a norm   W Q

since |h Q| = |h|, an RMSNorm without a gain commutes with Q. LayerNorm (GPT-2, OPT) also subtracts the mean; here Q
maps (1, ..., 1) to itself, so the mean is what it was, LayerNorm without gain and bias commutes too, and nothing has to
be subtracted elsewhere. A norm whose bias has no bias to move into (before GPT-2's head) keeps it as (beta / g) Q. All
this is the same model up to rounding errors, stored as a plain one. Where head and embeddings were one tensor they no
longer can be (one is scaled), so they are untied in the configuration, and the copy counts.

What no norm feeds (the inputs of attention's output and of the MLP's) is rotated online: the weight is rounded as
Q(W M) and a kernel would multiply its input by M; the plain model holds Q(W M) M^T. The paper folds a part of
attention's M into the value projection, which changes what a kernel has to do, not what is rounded here. Keys, values
and queries are not rounded, so nothing between them is rotated.

Models whose stream goes through a norm (OPT-350m) cannot be rotated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.models import architecture_of, blocks_of, weight_view
from switchq.models.architecture import Stream
from switchq.posttraining.ptq.rotation import Rotation
from switchq.posttraining.ptq.site import Site
from switchq.posttraining.ptq.transform import Target, Transform

ROWS = 8192
"""Rows of an embedding that are rotated at a time."""


@dataclass(frozen=True)
class QuaRot(Transform):
    """The residual stream rotated, and all other inputs online; the setting's seed draws the signs."""

    random: ClassVar[bool] = True

    @torch.no_grad()
    def prepare(self, model: PreTrainedModel, seed: int = 0) -> None:
        """Fold the norms and rotate the residual stream.

        Raises:
            UserError: a residual stream that goes through norms, a norm whose bias cannot be moved.
        """
        architecture = architecture_of(model.config)
        stream = architecture.stream(model.config)
        if stream is None:
            raise UserError("quarot needs a residual stream that no norm lies on: this model's blocks end in norms")
        blocks, last = blocks_of(model), model.get_submodule(stream.norm)
        folds = [
            (block.get_submodule(one.norm), [block.get_submodule(name) for name in one.linears])
            for block in blocks
            for one in architecture.inputs(model.config)
            if one.norm is not None
        ]
        folds.append((last, [model.get_submodule(stream.reader)]))
        for norm, readers in folds:
            _check(norm, readers)
        _untie(model, stream)
        rotation = Rotation.of(model.config.hidden_size, seed, keeps_mean=isinstance(last, nn.LayerNorm))
        for name in stream.tables:
            _rotate(model.get_submodule(name).weight, rotation)
        writers: list[Any] = [model.get_submodule(name) for name in stream.writers]
        writers += [block.get_submodule(name) for block in blocks for name in stream.block_writers]
        for writer in writers:
            _rotate(weight_view(writer).T, rotation)
            if writer.bias is not None:
                _rotate(writer.bias[None], rotation)
        for norm, readers in folds:
            _fold(norm, readers, rotation)

    def apply(self, site: Site, target: Target) -> None:
        """Rotate online what no norm feeds."""
        if site.input.norm is None:
            for linear in site.quantised:
                inputs = linear.weight_OI.shape[1]
                site.change_basis(linear, Rotation.of(inputs, target.seed))
                linear.notes["rotated_online"] = inputs


def _rotate(value: Any, rotation: Rotation) -> None:
    """x Q for every row of a tensor, in place."""
    for rows in value.detach().split(ROWS):
        rows.copy_(rotation.x(rows.double()))


def _fold(norm: Any, readers: Sequence[Any], rotation: Rotation) -> None:
    """Move a norm's gain and bias into what reads it, and rotate that."""
    gain_I, bias_I = norm.weight, getattr(norm, "bias", None)
    moves = _have_biases(readers)
    for reader in readers:
        view_OI = weight_view(reader)
        if moves and bias_I is not None:
            reader.bias += (view_OI.double() @ bias_I.to(view_OI.device).double()).to(reader.bias)
        if gain_I is not None:
            view_OI.copy_(view_OI.double() * gain_I.to(view_OI.device).double())
        _rotate(view_OI, rotation)
    if bias_I is not None:
        size_I = torch.where(bias_I == 0, 1, gain_I).double()
        bias_I.copy_(torch.zeros_like(bias_I) if moves else rotation.x(bias_I.double() / size_I))
    if gain_I is not None:
        gain_I.fill_(1)


def _have_biases(readers: Sequence[Any]) -> bool:
    return all(getattr(reader, "bias", None) is not None for reader in readers)


def _check(norm: Any, readers: Sequence[Any]) -> None:
    bias_I = getattr(norm, "bias", None)
    if bias_I is not None and not _have_biases(readers) and (norm.weight[bias_I != 0] == 0).any():
        raise UserError("quarot: a norm has a bias where its gain is 0, and what reads it no bias to move it into")


def _untie(model: PreTrainedModel, stream: Stream) -> None:
    """Give the head a weight of its own if it is the embeddings' and reads the stream."""
    head: Any = model.get_submodule(stream.reader)
    table: Any = model.get_input_embeddings()
    if head.weight is table.weight:
        home = next(blocks_of(model)[0].parameters()).device  # the head is not moved with the embeddings
        head.weight = nn.Parameter(head.weight.detach().to(home, copy=True), requires_grad=head.weight.requires_grad)
        model.config.tie_word_embeddings = False
