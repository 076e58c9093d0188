import pytest
import torch
from transformers import PreTrainedModel

from switchq.bitmap import Bitmap
from switchq.evaluation.memory import peak_memory, reset_peak_memory, weight_bytes
from switchq.models import make_switchable
from switchq.nn import set_bitmap, switch_layers
from switchq.quant import Asymmetric, Symmetric

# GPT-2 with n_embd 32, two blocks: c_attn (96, 32), c_proj (32, 32), c_fc (128, 32), c_proj (32, 128) in each.
SHAPES = [(96, 32), (32, 32), (128, 32), (32, 128)] * 2
WEIGHTS = 2 * (96 * 32 + 32 * 32 + 128 * 32 + 32 * 128)
ROWS = 2 * (96 + 32 + 128 + 32)
TABLE = 258 * 32  # vocabulary x width
REST = TABLE + 128 * 32 + ROWS + 5 * 2 * 32  # tied embeddings, positions, biases, norms
RANKS = {8: 2, 2: 4}


def lora_weights(rank: int) -> int:
    return sum(rank * (outputs + inputs) for outputs, inputs in SHAPES)


@pytest.mark.parametrize("bits", [8, 2])
def test_symmetric_rows(switchable: PreTrainedModel, bits: int) -> None:
    parts = weight_bytes(switchable, Bitmap([bits] * 8))
    assert parts.codes == WEIGHTS * bits / 8
    assert parts.scales == ROWS * 2
    assert parts.adapters == lora_weights(RANKS[bits]) * 2
    assert parts.unquantised == REST * 2
    assert parts.total == parts.codes + parts.scales + parts.adapters + parts.unquantised
    assert sum(parts.in_mb().values()) == pytest.approx(parts.total / 1e6)


def test_asymmetric_groups_store_zero_points(gpt2: PreTrainedModel) -> None:
    model = make_switchable(gpt2, bits=(4,), grid=Asymmetric(group_size=16), adapters=False)
    parts = weight_bytes(model, Bitmap([4] * 8))
    groups = WEIGHTS // 16
    assert parts.scales == groups * (16 + 4) / 8
    assert parts.adapters == 0


def test_full_precision_is_all_parameters_at_16_bits(switchable: PreTrainedModel, gpt2: PreTrainedModel) -> None:
    parts = weight_bytes(switchable, Bitmap([16] * 8), adapters=False)
    assert (parts.codes, parts.scales, parts.adapters) == (0, 0, 0)
    assert parts.total == 2 * sum(parameter.numel() for parameter in gpt2.parameters())


def test_a_mixed_bitmap_takes_each_layers_own_adapter(switchable: PreTrainedModel) -> None:
    parts = weight_bytes(switchable, Bitmap([8, 2, 16, 2, 8, 2, 16, 2]))
    sizes = [outputs * inputs for outputs, inputs in SHAPES]
    assert parts.codes == (8 * (sizes[0] + sizes[4]) + 2 * (sizes[1] + sizes[3] + sizes[5] + sizes[7])) / 8
    ranks = [2, 4, 2, 4, 2, 4, 2, 4]  # at 16 bits the widest adapter runs
    assert parts.adapters == 2 * sum(r * sum(shape) for r, shape in zip(ranks, SHAPES, strict=True))
    assert parts.unquantised == (REST + sizes[2] + sizes[6]) * 2


def test_it_does_not_matter_which_bitmap_is_set(switchable: PreTrainedModel) -> None:
    bitmap = Bitmap([8] * 8)
    before = weight_bytes(switchable, bitmap)
    set_bitmap(switchable, Bitmap([3] * 8))
    assert weight_bytes(switchable, bitmap) == before


def test_a_quantised_tied_head_counts_once(gpt2: PreTrainedModel) -> None:
    model = make_switchable(gpt2, bits=(8,), grid=Symmetric(), adapters=False, extra=("head", "embeddings"))
    parts = weight_bytes(model, Bitmap([8] * len(switch_layers(model))))
    assert parts.codes == WEIGHTS + TABLE
    assert parts.unquantised == (REST - TABLE) * 2


def test_peak_memory_grows_with_what_is_held() -> None:
    device = torch.device("cpu")
    reset_peak_memory(device)
    before, what = peak_memory(device)
    assert what == "resident"
    held = torch.ones(int(before * 1e6) // 4 + 25_000_000)
    assert peak_memory(device)[0] >= held.numel() * 4 / 1e6
