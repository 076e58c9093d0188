"""Kill commands at random moments (SIGKILL), go on, and compare the end with an unbroken run.

    python tests/faults/kill.py --kills 20              every verb
    python tests/faults/kill.py --kills 2 fit search    some

A command runs in a forked child of this process, which has everything imported and has itself run nothing: so it
starts at once. The moment is drawn evenly over what is left of an unbroken run; after each kill every file that has its
final name must load, and in the next attempt no piece of work that the folder holds already may be done again.
"""

import argparse
import ctypes
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from verbs import VERBS, Verb, check_whole, first_difference  # noqa: E402  beside this file

FINISHED = ("is there already", "runs of this sweep already")
"""What a command says that has nothing left to do."""

COMMANDS = ("train", "gendata", "sensitivity", "search", "ptq", "transfer", "export", "eval", "mistakes")
"""The modules to import before the first fork."""

LEAST_LEFT = 0.02
"""Seconds after the start before which no kill falls."""


@dataclass
class Outcome:
    """What came of one verb.

    Attributes:
        kills: children that were killed at work.
        attempts: runs that were needed to end, over all rounds.
        rounds: whole runs that were ended, each equal to the unbroken one.
        units: pieces of work of an unbroken run.
        redone: pieces of work done again although the folder held them.
        wrong: whatever must not be.
    """

    kills: int = 0
    attempts: int = 0
    rounds: int = 0
    units: int = 0
    redone: int = 0
    wrong: list[str] = field(default_factory=list)


def run(arguments: list[str], log: Path, unit: str, limit: float | None) -> tuple[int | None, float]:
    """Run a command in a child; gives its exit code (None if it was killed after `limit` seconds) and the time."""
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            _count(unit, log)
            output = os.open(log.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            from switchq.cli import main

            code = main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if limit is not None and time.perf_counter() - began > limit:
            os.kill(child, signal.SIGKILL)
            done, status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), time.perf_counter() - began


def _count(unit: str, log: Path) -> None:
    """Have one byte written to `log` for each call of `unit`."""
    module, names = unit, []
    while True:
        module, _, name = module.rpartition(".")
        names.insert(0, name)
        try:
            owner: Any = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            continue
    for name in names[:-1]:
        owner = getattr(owner, name)
    work: Callable[..., Any] = getattr(owner, names[-1])
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def counted(*arguments: Any, **options: Any) -> Any:
        os.write(handle, b".")
        return work(*arguments, **options)

    setattr(owner, names[-1], counted)


def torment(verb: Verb, ground: dict[str, str], place: Path, kills: int, draw: random.Random) -> Outcome:
    """Kill `verb` so many times, in as many whole runs as that takes."""
    found = Outcome()

    def arguments(out: Path) -> list[str]:
        return verb.command.format(out=out, **ground).split()

    whole = place / "whole"
    whole.mkdir(parents=True)
    code, seconds = run(arguments(whole), place / "whole.log", verb.unit, None)
    if code != 0:
        found.wrong.append(f"the unbroken run ended with {code}: {(place / 'whole.out').read_text()[-2000:]}")
        return found
    expected, found.units = verb.numbers(whole), _size(place / "whole.log")
    while found.kills < kills and not found.wrong:
        out, log = place / f"round{found.rounds}", place / f"round{found.rounds}.log"
        out.mkdir()
        for attempt in range(8):
            last = attempt == 7 or found.kills >= kills
            saved, before = verb.saved(out), _size(log)
            limit = None if last else draw.uniform(LEAST_LEFT, 0.9 * seconds)
            resume = verb.resume.split() if saved else []
            code, took = run([*arguments(out), *resume], log, verb.unit, limit)
            if code == 0 and attempt == 0:
                seconds = min(seconds, took)  # the first run was slower: later ones find files in memory
            found.attempts += 1
            found.wrong += check_whole(out)
            if code is None:
                found.kills += 1
            done = _size(log) - before
            if code == 0 and verb.saved is not Verb.saved:
                found.redone += max(0, done - (found.units - saved))
            elif code == 2 and any(said in _said(log) for said in FINISHED):
                pass  # the kill fell after the end of the work
            elif code is not None and code != 0:
                found.wrong.append(f"ended with {code}: {log.with_suffix('.out').read_text()[-2000:]}")
            if code is not None:
                break
        found.rounds += 1
        if not found.wrong and (where := first_difference(expected, verb.numbers(out))) is not None:
            found.wrong.append(f"the final numbers differ from those of an unbroken run: {where}")
        unfinished = [*out.glob(".*.part"), *out.glob(".*.old"), *out.glob("*.partial")]
        left = [path.name for path in unfinished]
        found.wrong += [f"left behind: {name}" for name in left]
        if not found.wrong:
            shutil.rmtree(out)
    if found.redone:
        found.wrong.append(f"{found.redone} pieces of work were done again")
    return found


def _said(log: Path) -> str:
    return log.with_suffix(".out").read_text().rstrip().rpartition("\n")[2]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def lay(place: Path) -> dict[str, str]:
    """Model, data, checkpoint and sensitivities; what needs a command is made by one, in a child."""
    import yaml
    from ground import lay_ground

    ground = lay_ground(place)
    config = yaml.safe_dump({"seed_everything": 0, **json.loads(ground.pop("settings"))})
    (place / "config.yaml").write_text(config)
    ground["config"] = str(place / "config.yaml")
    fit = f"fit --config {ground['config']} --trainer.default_root_dir {place} --trainer.max_steps 2"
    measured = f"sensitivity --model {ground['base']} --data {ground['train']} --limit 8 --output {place}/s.json"
    for line in (fit, f"{measured} --logdir {place}/log"):
        code, _ = run(line.split(), place / "ground.log", "switchq.cli._dispatch", None)
        assert code == 0, (place / "ground.out").read_text()[-3000:]
    ckpt = place / "lightning_logs/version_0/checkpoints/last.ckpt"
    return {**ground, "ckpt": str(ckpt), "sensitivity": str(place / "s.json")}


def main() -> int:
    """The command line; exit code 1 if anything was wrong, and the outcome as JSON in the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verbs", nargs="*", default=[], help="all by default")
    parser.add_argument("--kills", type=int, default=20, help="of each verb")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    for module in ("cli", *(f"commands.{name}" for name in COMMANDS)):
        importlib.import_module(f"switchq.{module}")
    ctypes.CDLL(None).prctl(36, 1)  # children of killed children are ours to reap
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        ground = lay(Path(folder) / "ground")
        for name in options.verbs or VERBS:
            began = time.perf_counter()
            draw = random.Random(f"{options.seed} {name}")
            outcome = torment(VERBS[name], ground, Path(folder) / name, options.kills, draw)
            outcomes[name] = vars(outcome)
            print(f"{name:<12} {json.dumps(vars(outcome))} {time.perf_counter() - began:.0f} s", flush=True)
    print(json.dumps(outcomes))
    return int(any(outcome["wrong"] for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
