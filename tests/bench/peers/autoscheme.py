"""The widths that auto-round's AutoScheme chooses for a model, as JSON.

Run by `bench_autoscheme.py` with the Python of an environment that auto-round is installed in; it knows nothing of
switchq. auto-round keeps its scores in AR_AUTO_SCHEME_CACHE, so the first average pays for those after it.
"""

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["AR_ALLOW_W8_ASYM"] = "1"  # otherwise 8 bits are symmetric whatever the scheme says


def main() -> None:
    """Choose, and write."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", required=True, help="folder")
    options.add_argument("--averages", type=float, nargs="+", required=True, help="average bits, scales not counted")
    options.add_argument("--bits", type=int, nargs="+", required=True, help="widths to choose from")
    options.add_argument("--group", type=int, required=True, help="inputs that share a scale")
    options.add_argument("--symmetric", action="store_true")
    options.add_argument("--calibration", required=True, help=".jsonl file with `text` fields")
    options.add_argument("--windows", type=int, required=True)
    options.add_argument("--window", type=int, required=True, help="tokens")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=None)
    options.add_argument("--output", type=Path, required=True)
    arguments = options.parse_args()

    import torch
    from auto_round import AutoRound, AutoScheme
    from auto_round.auto_scheme.gen_auto_scheme import GenScheme
    from auto_round.schemes import QuantizationScheme

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    count_chosen_only(GenScheme)
    choices = []
    for average in arguments.averages:
        schemes = [
            QuantizationScheme(bits=bits, group_size=arguments.group, sym=arguments.symmetric, act_bits=16)
            for bits in arguments.bits
        ]
        scheme = AutoScheme(
            avg_bits=average,
            options=schemes,
            ignore_scale_zp_bits=True,
            nsamples=arguments.windows,
            seqlen=arguments.window,
            dataset=arguments.calibration,
        )
        began = time.perf_counter()
        rounder = AutoRound(
            arguments.model, scheme=scheme, iters=0, dataset=arguments.calibration, device_map=arguments.device
        )
        rounder.post_init()
        seconds = time.perf_counter() - began
        widths = {name: int(of["bits"]) for name, of in rounder.layer_config.items()}
        choices.append({"average": average, "seconds": seconds, "bits": widths})
    content = {"auto_round": version("auto-round"), "torch": torch.__version__, "choices": choices}
    arguments.output.write_text(json.dumps(content))


def count_chosen_only(generator: Any) -> None:
    """Make the average asked for that of the layers to choose for.

    AutoScheme also counts layers that it leaves at 16 bits, such as GPT-2's head, so the target is raised by them.
    """
    check = generator._check_configs

    def check_raised(self: Any) -> None:
        modules = dict(self.model.named_modules())
        sizes = {name: modules[name].weight.numel() for name in self.quant_layer_names}
        fixed = sum(size for name, size in sizes.items() if name in self.fixed_layer_scheme)
        total = sum(sizes.values())
        self.auto_scheme.avg_bits = (self.auto_scheme.avg_bits * (total - fixed) + 16 * fixed) / total
        check(self)

    generator._check_configs = check_raised


if __name__ == "__main__":
    main()
