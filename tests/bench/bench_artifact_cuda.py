"""An artifact on a GPU: its kernels alone, decoding, memory. Every row is written as soon as it is measured.

python tests/bench/bench_artifact_cuda.py --stage kernels --output figures
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from kernel_variants import COLD, SIZES, Case, cases, tiles, variants
from kernel_variants import weight as random_weight
from sidebyside import machine
from subjects import quiet, save_random
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from switchq.inference import SwitchableLM, export_artifact
from switchq.inference.gpu.decode import GraphDecoder
from switchq.inference.gpu.kernel import PlanesKernel, products
from switchq.inference.gpu.tiles import TiledWeight, decoded, from_levels
from switchq.models import load_model, load_tokenizer, make_switchable
from switchq.nn import switch_layers
from switchq.quant import Nested

LEAST = 96
"""Calls in a graph: its start and end are a small part of them."""

WIDTHS = (8, 4, 3, 2)


@dataclass
class Rows:
    """Figures, kept in a file of JSON lines and on the screen."""

    path: Path

    def add(self, **row: Any) -> None:
        """Write one down."""
        text = json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
        print(text, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def main(argv: list[str] | None = None) -> None:
    """Run the stages that are asked for."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    stages = ("kernels", "quick", "variants", "tiles", "decode", "memory", "all")
    options.add_argument("--stage", choices=stages, default="all")
    options.add_argument("--output", type=Path, required=True, help="folder for the figures")
    options.add_argument("--shapes", default="gpt2", help="of the model; weights are random")
    options.add_argument("--group_size", type=int, default=None, help="columns that share a scale; a row by default")
    options.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="sequences that are decoded at once")
    options.add_argument("--bitmaps", nargs="+", default=["8", "4", "3", "2", "8/4"], help="that are decoded at")
    options.add_argument("--seconds", type=float, default=110.0, help="begin nothing new after so long")
    arguments = options.parse_args(argv)
    quiet()
    torch.manual_seed(0)
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = Rows(arguments.output / f"{arguments.stage}.jsonl")
    rows.add(machine=machine("cuda"))
    end = perf_counter() + arguments.seconds
    if arguments.stage in ("kernels", "all"):
        kernels(rows, end)
    if arguments.stage in ("variants", "tiles"):
        todo = list(cases() if arguments.stage == "variants" else tiles())
        variants(todo, rows.add, end, microseconds, dense_of, bandwidth())
    if arguments.stage == "quick":
        kernels(rows, end, batches=(1,), widths=(4, 2))
    if arguments.stage in ("decode", "memory", "all"):
        with tempfile.TemporaryDirectory() as place:
            folder = build(arguments.shapes, arguments.group_size, Path(place), rows)
            if arguments.stage != "memory":
                decode(folder, rows, end, arguments.batch, arguments.bitmaps)
            if arguments.stage != "decode":
                memory(folder / "artifact", rows, end)


def bandwidth() -> float:
    """Bytes a second that the memory gives to a copy, read and written together."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / microseconds([lambda: target.copy_(source)]) * 1e6


def microseconds(calls: list[Callable[[], object]]) -> float:
    """Of one call, when all, as often as makes `LEAST`, are captured in one graph and replayed; the median of seven."""
    calls = calls * -(-LEAST // len(calls))
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(9):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return median(times[2:])


def random_kernels(size: tuple[int, int], bits: int) -> list[PlanesKernel]:
    """So many weights that the cache does not hold them."""
    copies = max(3, min(96, round(COLD / (size[0] * size[1] * bits / 8))))
    return [kernel_of(random_weight(Case(size, bits), seed)) for seed in range(copies)]


def kernel_of(tiled: TiledWeight) -> PlanesKernel:
    """The weight as a model has it."""
    scale_OG, offset_OG = from_levels(tiled.levels, tiled.shape[0])
    return PlanesKernel(tiled.planes, {"scale": scale_OG, "offset": offset_OG}, tiled.shape[1], torch.float16)


def dense_time(size: tuple[int, int], x_NI: Tensor) -> float:
    """Microseconds of float16's product."""
    copies = max(3, round(COLD / (2 * size[0] * size[1])))
    weights = [torch.randn(size, device="cuda").half() for _ in range(copies)]
    return microseconds([lambda one=one: F.linear(x_NI, one) for one in weights])


def product_time(kernels: list[PlanesKernel], x_NI: Tensor, pdl: bool = False) -> float:
    """Microseconds of a product: from planes, for more rows from the decoded weight, as a model takes it."""
    found = products()
    assert found is not None
    if len(x_NI) > found.MOST:
        return microseconds([lambda one=one: F.linear(x_NI, one.weight()) for one in kernels])

    def call(one: PlanesKernel) -> object:
        return found.product(x_NI, one.tiled, pdl=pdl)

    return microseconds([lambda one=one: call(one) for one in kernels])


def dense_of(case: Case) -> float:
    """Microseconds of float16's product."""
    return dense_time(case.size, torch.randn(case.batch, case.size[1], device="cuda").half())


def relative_error(kernel: PlanesKernel, x_NI: Tensor) -> float:
    """Largest error of the product, of the largest result, against the decoded weight in float64."""
    exact_NO = F.linear(x_NI.double(), decoded(kernel.tiled))
    return float((kernel.product(x_NI).double() - exact_NO).abs().max() / exact_NO.abs().max())


def kernels(rows: Rows, end: float, batches: tuple[int, ...] = (1, 8, 32), widths: tuple[int, ...] = WIDTHS) -> None:
    """Every size, width and batch, beside float16."""
    limit = bandwidth()
    rows.add(copy_gb_per_s=limit / 1e9)
    for batch, size in itertools.product(batches, SIZES):
        x_NI = torch.randn(batch, size[1], device="cuda").half()
        dense = dense_time(size, x_NI)
        rows.add(
            size=size, batch=batch, weight="float16", us=dense, of_limit=2 * size[0] * size[1] / dense * 1e6 / limit
        )
        for bits in widths:
            if perf_counter() > end:
                return
            own = random_kernels(size, bits)
            plain, early = product_time(own, x_NI), product_time(own, x_NI, pdl=True)
            best = min(plain, early)
            rows.add(
                size=size, batch=batch, weight=f"{bits} bits", us=best, us_no_overlap=plain, ratio=dense / best,
                of_limit=own[0].resident_bytes / best * 1e6 / limit, error=relative_error(own[0], x_NI),
            )  # fmt: skip


def build(shapes: str, group_size: int | None, place: Path, rows: Rows) -> Path:
    """A random model, and its artifact with adapters that do something."""
    began = perf_counter()
    base = save_random(shapes, "float32", place / "base")
    model, tokenizer = load_model(str(base)), load_tokenizer(str(base))
    make_switchable(model, WIDTHS, Nested(group_size))
    for layer in switch_layers(model):
        for parameter in layer.lora.lora_B.parameters() if layer.lora is not None else ():
            torch.nn.init.normal_(parameter, std=0.02)
    export_artifact(model, tokenizer, place / "artifact", widths=WIDTHS, base={"name": "random", "sha256": ""})
    rows.add(built_s=perf_counter() - began, group_size=group_size)
    return place


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call, with all that the device does for it."""
    torch.cuda.synchronize()
    began = perf_counter()
    call()
    torch.cuda.synchronize()
    return perf_counter() - began


def decode(folder: Path, rows: Rows, end: float, batches: Sequence[int], bitmaps: Sequence[str]) -> None:
    """Tokens a second of whole generations."""
    prompt = new = 64
    lm = SwitchableLM.from_pretrained(folder / "artifact", "8", device="cuda")
    prompts = {batch: torch.randint(0, 1000, (batch, prompt), device="cuda") for batch in batches}
    reference = {batch: plain_seconds(folder / "base", ids_NT, new) for batch, ids_NT in prompts.items()}
    for batch, seconds in reference.items():
        rows.add(what="float16 generate", batch=batch, tokens_per_s=batch * new / seconds)
    one_1T = prompts[batches[0]][:1]
    check_logits(lm, one_1T, bitmaps, rows)
    rows.add(switch_us=switch_microseconds(lm))
    for batch, ids_NT in prompts.items():
        decoder = GraphDecoder(lm)
        for bitmap in bitmaps:
            if perf_counter() > end:
                return
            lm.set_bitmap(bitmap)
            spent(decoder, ids_NT, 2)
            decoder._graphs.clear()
            capture = spent(decoder, ids_NT, 2)
            first, whole = (min(spent(decoder, ids_NT, tokens) for _ in range(5)) for tokens in (1, new))
            rows.add(
                what=f"{bitmap} bits",
                batch=batch,
                tokens_per_s=batch * new / whole,
                ratio=reference[batch] / whole,
                first_token_ms=first * 1e3,
                step_ms=(whole - first) / (new - 1) * 1e3,
                capture_ms=(capture - first) * 1e3,
            )
            if bitmap == "4":
                profile(decoder, rows, bitmap)
    for overlap, graphs in ((False, True), (False, False)):
        if perf_counter() > end:
            return
        decoder = GraphDecoder(lm, pdl=overlap, graphs=graphs)
        spent(decoder, one_1T, 3)
        seconds = min(spent(decoder, one_1T, new) for _ in range(3))
        rows.add(what="8/4 bits", overlap=overlap, graphs=graphs, batch=1, tokens_per_s=new / seconds)


def plain_seconds(folder: Path, ids_NT: Tensor, new: int) -> float:
    """Seconds of float16's `generate`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).to("cuda").eval()
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}

    def call() -> None:
        model.generate(ids_NT, attention_mask=torch.ones_like(ids_NT), **options)

    call()
    return min(timed(call) for _ in range(3))


def spent(decoder: GraphDecoder, ids_NT: Tensor, tokens: int) -> float:
    """Seconds of generating so many tokens."""
    return timed(lambda: list(decoder.tokens(ids_NT, new_tokens=tokens)))


@torch.inference_mode()
def profile(decoder: GraphDecoder, rows: Rows, bitmap: str) -> None:
    """The kernels of one step, by time."""
    cache = decoder.cache
    assert cache is not None
    cache.position.fill_(64)
    decoder.run(cache)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        decoder.run(cache)
        torch.cuda.synchronize()
    events = [one for one in seen.key_averages() if one.device_time_total > 0]
    events.sort(key=lambda one: -one.device_time_total)
    rows.add(
        profile=bitmap,
        kernels=sum(one.count for one in events),
        busy_us=sum(one.device_time_total for one in events),
        most={one.key[:40]: [one.count, round(one.device_time_total, 1)] for one in events[:12]},
    )


@torch.inference_mode()
def check_logits(lm: SwitchableLM, ids_1T: Tensor, bitmaps: Sequence[str], rows: Rows) -> None:
    """Steps against the same model's whole forward: the largest difference of logits, and how often both agree."""
    decoder = GraphDecoder(lm)
    for bitmap in bitmaps:
        lm.set_bitmap(bitmap)
        new = [int(one) for one in decoder.tokens(ids_1T, new_tokens=24)]
        last_1V = decoder.cache.logits_NV.clone()  # type: ignore[union-attr]
        whole_1T = torch.cat([ids_1T, torch.tensor([new[:-1]], device="cuda")], 1)
        logits_TV = lm(whole_1T).logits[0, ids_1T.shape[1] - 1 :].float()
        agree = (logits_TV.argmax(-1) == torch.tensor(new, device="cuda")).float().mean()
        rows.add(check=bitmap, difference=float((logits_TV[-1] - last_1V[0]).abs().max()),
                 largest=float(logits_TV[-1].abs().max()), agree=float(agree))  # fmt: skip


def switch_microseconds(lm: SwitchableLM) -> float:
    """The median of a switch between loaded bitmaps."""
    bitmaps = [lm.set_bitmap(bitmap) for bitmap in ("8", "8/4", "4", "4/2", "2")]
    found = []
    for bitmap in itertools.islice(itertools.cycle(bitmaps), 200):
        began = perf_counter()
        lm.set_bitmap(bitmap)
        found.append((perf_counter() - began) * 1e6)
    return median(found)


def memory(artifact: Path, rows: Rows, end: float) -> None:
    """Bytes on the device, loaded and at most while decoding."""
    half = torch.ones(64, 64, device="cuda").half()
    half @ half  # what the libraries take is there before the count
    for bitmap in ("8", "8/4", "4", "4/2", "2"):
        if perf_counter() > end:
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        began = perf_counter()
        lm = SwitchableLM.from_pretrained(artifact, bitmap, device="cuda")
        torch.cuda.synchronize()
        load, loaded = perf_counter() - began, torch.cuda.memory_allocated() - before
        decoder = GraphDecoder(lm)
        list(decoder.tokens(torch.randint(0, 1000, (1, 64), device="cuda"), new_tokens=64))
        rows.add(
            memory=bitmap,
            average_bits=lm.bitmap.average_bits([o * i for o, i in lm.artifact.manifest.layers.values()]),
            packed_mb=lm.resident_bytes / 1e6, loaded_mb=loaded / 1e6,
            peak_mb=(torch.cuda.max_memory_allocated() - before) / 1e6, read_mb=lm.bytes_read / 1e6, load_s=load,
        )  # fmt: skip
        del lm, decoder


if __name__ == "__main__":
    main()
    sys.exit(0)
