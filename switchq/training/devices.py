"""Training on several devices, with Lightning's own strategies.

Under DDP every device has the whole model and a share of each batch. A step makes several backward passes, each through
other adapters, and DDP's own synchronisation would send only what the last one touched. So it is off in all of them
(`no_sync`), and one all-reduce just before the optimiser step adds up all gradients. Losses are sums over a device's
tokens, divided by the tokens of all devices: the sum over devices is the loss of the joint batch, however unevenly its
tokens lie.

Under FSDP2 (`--trainer.strategy fsdp2`, Lightning's ModelParallelStrategy) each device holds a part of every block; the
whole weights of a block are there only while it runs. Backward passes add gradients up across devices by themselves.
Dense rounded copies of a weight would undo what sharding saves, so it is rounded anew whenever it is gathered.
Embeddings, the last norm and the head stay whole.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    StrategyRegistry,
)
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from switchq import parallel
from switchq.errors import UserError
from switchq.models import blocks_of
from switchq.nn import switch_layers
from switchq.nn.adapters import is_adapter
from switchq.nn.weight import is_scale

FSDP2 = "fsdp2"
"""What `--trainer.strategy` calls `Sharded`."""


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 over all devices, without tensor parallelism, that saves one file."""

    def __init__(self, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        """Shard over all devices: Lightning's own default is one shard a machine."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimiser state, and nothing for what has taken no step yet.

        PyTorch makes room for the state by a step of zeros, after which an adapter whose turn has not come would count
        one step too many, and its next ones would be too long.
        """
        checkpoint: dict[str, Any] = super().load_checkpoint(checkpoint_path, weights_only)
        assert self.model is not None
        parameters = list(self.model.parameters())
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            stepped = {parameters[number] for number in saved["state"]}
            for parameter in set(optimizer.state) - stepped:
                del optimizer.state[parameter]
        return checkpoint


if FSDP2 not in StrategyRegistry:
    StrategyRegistry.register(FSDP2, Sharded, description="each device holds a part of every block (FSDP2)")


def check_strategy(trainer: Trainer) -> None:
    """Refuse a strategy under which several passes a step, each through other adapters, do not work.

    Raises:
        UserError: see above; the message names those that do.
    """
    strategy = trainer.strategy
    popen = isinstance(strategy, DDPStrategy) and strategy._start_method == "popen"
    if not (popen or isinstance(strategy, SingleDeviceStrategy | Sharded)):
        raise UserError(f"{type(strategy).__name__} cannot train several passes a step: use ddp or {FSDP2}")
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise UserError("batches are shared out by the data: use --trainer.use_distributed_sampler false")


class DevicesMixin(LightningModule):
    """What a training step needs of other devices; on one device all of it is free."""

    model: PreTrainedModel

    def configure_model(self) -> None:
        """Shard the blocks if the strategy is FSDP2; Lightning calls this before the optimiser is made."""
        if self._device_mesh is None or self.is_sharded:
            return
        for layer in switch_layers(self.model):
            layer.linear.round_in_forward(layer.widths)
            layer.linear.weight.data = layer.linear.weight.data.contiguous()  # GPT-2's is a transposed view
        for block in blocks_of(self.model):
            fully_shard(block, mesh=self._device_mesh["data_parallel"])
        outside = {parameter for parameter in self.model.parameters() if not isinstance(parameter, DTensor)}
        fully_shard(self.model.base_model, mesh=self._device_mesh["data_parallel"], ignored_params=outside)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # losses are shares of the joint loss: they are added up
                module.set_force_sum_reduction_for_comms(True)

    @property
    def is_sharded(self) -> bool:
        """Whether each device holds only a part of the model."""
        return isinstance(self.model.base_model, FSDPModule)

    @property
    def devices(self) -> int:
        """How many train together."""
        return 1 if self._trainer is None else self.trainer.world_size

    def in_step(self) -> AbstractContextManager[None]:
        """For scoring: where the model is spread over devices, all must run every forward; nothing is split."""
        return parallel.alone() if self.is_sharded else nullcontext()

    def joint_count(self, where_N: Tensor) -> Tensor | None:
        """The positions in the batch on all devices; None where there is one device."""
        if self.devices == 1:
            return None
        return self.joint_sum(torch.tensor(float(len(where_N)), device=self.device))

    def align_adapters(self) -> None:
        """Give every device the adapters and scales of the first: a randomised start may differ."""
        for name, parameter in self.model.named_parameters():
            if is_adapter(name) or is_scale(name):
                self.of_first(parameter.data)

    def of_first(self, tensor: Tensor) -> Tensor:
        """The tensor, made equal to that of the first device."""
        if self.devices > 1:
            torch.distributed.broadcast(tensor, 0)
        return tensor

    def unsynchronised(self) -> AbstractContextManager[None]:
        """For a backward pass: leave gradients as they are on this device."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, DDPStrategy) else nullcontext()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all devices; they travel as one. Sharded ones are added up already."""
        mine = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
        if self.devices == 1 or not mine:
            return
        whole = self.joint_sum(torch.cat([tensor.flatten().float() for tensor in mine]))
        parts = whole.split([tensor.numel() for tensor in mine])
        torch._foreach_copy_(mine, [part.view_as(tensor) for part, tensor in zip(parts, mine)])

    def sums(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The sum of each tensor over all devices, in copies; the tensors themselves where there is one device."""
        if self.devices == 1:
            return tensors
        copies = [tensor.clone() for tensor in tensors]
        self.add_up(copies)
        return copies

    def joint_sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all devices."""
        return self.trainer.strategy.reduce(tensor, reduce_op="sum")


def whole(value: Any) -> Any:
    """A tensor of which each device may hold a part, in full; every device has to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value
