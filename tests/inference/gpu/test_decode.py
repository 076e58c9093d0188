"""An artifact as on a GPU: its logits, its steps and what it keeps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.inference import Exported, SwitchableLM
from switchq.inference.gpu.decode import GraphDecoder, available
from switchq.inference.stream import stream
from switchq.nn import at
from switchq.quant import Nested

Build = Callable[..., PreTrainedModel]
Export = Callable[..., Exported]


@pytest.fixture
def prompts() -> tuple[Tensor, Tensor]:
    """Two prompts, the second padded on the left."""
    ids_NT = torch.randint(2, 97, (2, 7))
    mask_NT = torch.ones_like(ids_NT)
    mask_NT[1, :3] = 0
    return ids_NT, mask_NT


def loaded(model: PreTrainedModel, export: Export, place: Path, **options: object) -> tuple[SwitchableLM, SwitchableLM]:
    """The artifact as on a GPU, and the numbers of training."""
    from switchq.inference.source import ArtifactSource

    export(model, place / "a", embedding_bits=options.pop("embedding_bits", 32))
    lm = SwitchableLM.from_pretrained(place / "a", "2", **options)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("switchq.inference.model.ArtifactSource", ArtifactSource)
        return lm, SwitchableLM.from_pretrained(place / "a", "2", packed=False, dtype=torch.float32)


@pytest.mark.parametrize("embedding_bits", [8, 32])
def test_logits_without_triton(
    embedding_bits: int, architecture: str, trained: Build, export: Export, tokens_BT: Tensor, tmp_path: Path,
    as_on_a_gpu: None,
) -> None:  # fmt: skip
    if architecture == "opt" and embedding_bits == 8:
        pytest.skip("a table of 16 columns is no whole word")
    lm, plain = loaded(trained(architecture), export, tmp_path, embedding_bits=embedding_bits)
    for bitmap in ("2", "8/4"):
        with torch.no_grad(), at(lm.model, bitmap), at(plain.model, bitmap):
            torch.testing.assert_close(lm(tokens_BT).logits, plain(tokens_BT).logits, rtol=1e-4, atol=1e-4)


def test_more_bits_read_just_the_missing_planes(
    trained: Build, export: Export, tmp_path: Path, as_on_a_gpu: None
) -> None:
    lm, _ = loaded(trained(), export, tmp_path)
    weights = sum(outputs * inputs for outputs, inputs in lm.artifact.manifest.layers.values())
    held, read = {2: lm.resident_bytes}, lm.bytes_read
    for bits in (4, 8):
        lm.set_bitmap(bits)
        held[bits] = lm.resident_bytes
    assert held[2] < held[4] < held[8]
    levels = sum(2 * 2 * 2 * outputs for outputs, _ in lm.artifact.manifest.layers.values())
    adapters = sum(2 * (2 + 3) * sum(shape) for shape in lm.artifact.manifest.layers.values())
    assert lm.bytes_read - read == weights * 6 // 8 + levels + adapters


@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # Triton's interpreter on NumPy 2.3
def test_steps_are_the_models_own(
    trained: Build, export: Export, prompts: tuple[Tensor, Tensor], tmp_path: Path, interpreted: torch.device
) -> None:
    """The best tokens by the model's own logits, from a padded batch, with the bitmap changing on the way."""
    lm, plain = loaded(trained(), export, tmp_path, device=interpreted)
    ids_NT, mask_NT = prompts
    decoder = GraphDecoder(lm, pdl=interpreted.type == "cuda", graphs=interpreted.type == "cuda")
    names = tuple(lm.artifact.manifest.layers)
    schedule = {0: Bitmap.parse("8", names), 2: Bitmap.parse("2/4", names)}
    there = [one.to(interpreted) for one in prompts]
    steps = list(decoder.tokens(*there, new_tokens=3, schedule=schedule))
    new_NT = torch.stack(steps, 1).cpu()
    whole_NT = torch.cat([ids_NT, new_NT[:, :-1]], 1)
    seen_NT = torch.cat([mask_NT, torch.ones_like(new_NT[:, :-1])], 1)
    plain.set_bitmap("8")
    places_NT = (seen_NT.cumsum(-1) - 1).clamp(min=0)
    begin = ids_NT.shape[1] + 1
    with torch.no_grad():
        known = plain(whole_NT[:, :begin], attention_mask=seen_NT[:, :begin], position_ids=places_NT[:, :begin])
        plain.set_bitmap("2/4")
        last = plain(
            whole_NT[:, begin:], attention_mask=seen_NT, position_ids=places_NT[:, begin:],
            past_key_values=known.past_key_values,
        )  # fmt: skip
    assert decoder.cache is not None
    tolerance = 2e-2  # activations are float16
    torch.testing.assert_close(
        decoder.cache.logits_NV.cpu().float(), last.logits[:, -1], rtol=tolerance, atol=tolerance
    )
    logits_NTV = torch.cat([known.logits[:, begin - 2 :], last.logits], 1)
    chosen_NT = logits_NTV.gather(-1, new_NT.unsqueeze(-1)).squeeze(-1)
    assert (chosen_NT >= logits_NTV.amax(-1) - tolerance).all()


@pytest.mark.parametrize("schedule", ["8", "2"])
def test_on_a_gpu_streams_and_keeps_graphs(
    schedule: str, trained: Build, export: Export, tmp_path: Path, gpu: torch.device
) -> None:
    lm, _ = loaded(trained("gpt2", Nested()), export, tmp_path, device=gpu)
    names = tuple(lm.artifact.manifest.layers)
    plan = {0: Bitmap.parse(schedule, names), 4: Bitmap.parse("4", names)}
    texts = [stream(lm, "Where is it?", plan, max_new_tokens=10, temperature=1.0, show=False).text for _ in range(2)]
    assert texts[0] == texts[1]
    assert isinstance(lm.decoder, GraphDecoder)
    assert len(lm.decoder._graphs) == 2
    eager = GraphDecoder(lm, pdl=False, graphs=False)
    ids_1T = torch.randint(2, 97, (1, 9), device=gpu)
    both = [torch.stack(list(one.tokens(ids_1T, new_tokens=12))) for one in (lm.decoder, eager)]
    assert torch.equal(*both)


def test_where_it_does_not_run(trained: Build, export: Export, tmp_path: Path) -> None:
    export(trained(), tmp_path / "a")
    lm = SwitchableLM.from_pretrained(tmp_path / "a")
    assert not available(lm)
    with pytest.raises(UserError, match=r"does not run in torch\.float16 on cpu"):
        SwitchableLM.from_pretrained(tmp_path / "a", dtype=torch.float16)
