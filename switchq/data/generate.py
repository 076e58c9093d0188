"""Training data that the model writes itself (LLM-QAT, Liu et al. 2023, arXiv:2305.17888, section 3.1).

The model continues SQuAD prompts, or single random tokens. The first few tokens are its most likely ones, the rest are
drawn from its distribution: the paper found that mix better than either alone (greedy text repeats itself, sampled text
strays from the start).

Batch n is a pure function of the settings and n, and is written as soon as it is done: an interrupted run goes on where
it stopped and ends with the same data. Processes that work together share the batches out.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from switchq import parallel
from switchq.data.batches import LengthGroupedBatches, left_pad
from switchq.data.generated import SETTINGS_FILE, UNFINISHED, read_settings
from switchq.data.parts import Parts
from switchq.data.prompt import Prompt, leading_special_tokens
from switchq.data.squad import read_squad
from switchq.errors import UserError
from switchq.mishaps import lost
from switchq.models import context_window
from switchq.models.inference import COLDEST, eval_mode, own_generation_config
from switchq.progress import progress_bar


@dataclass(frozen=True)
class Generation:
    """How data is generated; written beside it.

    Attributes:
        prompts: `squad` continues context and question, `random` a random token.
        source: SQuAD file or Hub name of the prompts (its training split).
        count: sequences to write; prompts are drawn without repetition while they last.
        max_new_tokens: most tokens that the model adds.
        greedy_tokens: how many of these, from the first, are the most likely one.
        temperature: of the sampled rest.
        top_k: sample among so many most likely tokens; 0 among all.
        batch_size: sequences a batch.
        seed: of prompts and sampling.
        teacher_top_k: keep so many most likely tokens with their log-probabilities at each position; 0 keeps none.
        base_hash: content hash of the model, for the record.
    """

    prompts: Literal["squad", "random"] = "squad"
    source: str = "rajpurkar/squad"
    count: int = 1000
    max_new_tokens: int = 64
    greedy_tokens: int = 4
    temperature: float = 1.0
    top_k: int = 0
    batch_size: int = 16
    seed: int = 0
    teacher_top_k: int = 0
    base_hash: str = ""

    def __post_init__(self) -> None:
        least = {"count": 1, "max_new_tokens": 1, "batch_size": 1, "greedy_tokens": 0, "top_k": 0, "teacher_top_k": 0}
        for name, value in {**least, "seed": 0}.items():
            if getattr(self, name) < value:
                raise UserError(f"{name} must be at least {value}, not {getattr(self, name)}.")
        if self.temperature <= 0:
            raise UserError(
                f"temperature must be above 0, not {self.temperature}; for greedy text raise greedy_tokens."
            )
        if self.prompts not in ("squad", "random"):
            raise UserError(f"prompts must be squad or random, not {self.prompts!r}.")


def generate_dataset(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output: str | Path,
    settings: Generation = Generation(),
    *,
    resume: bool = True,
    show_progress: bool = True,
) -> Path:
    """Writes a folder of generated sequences for `SquadData` or `TextData` to train on.

    Args:
        model: full precision, on its device.
        tokenizer: the model's.
        output: folder to appear; its layout is described in `switchq.data.generated`.
        settings: what to generate.
        resume: go on from the finished parts of an interrupted run with the same settings; otherwise start over.
        show_progress: a progress bar with the time left.

    Returns:
        The folder. If it is already there, made with the same settings, nothing is done.

    Raises:
        UserError: the folder holds something else, cannot be written, prompts do not fit the context window, or more of
            the teacher's tokens are to be kept than there are.
    """
    if settings.teacher_top_k > model.config.vocab_size:
        raise UserError(
            f"teacher_top_k {settings.teacher_top_k} is more than the model's {model.config.vocab_size:,} tokens."
        )
    output = Path(output)
    record = {**vars(settings), "format": 1}
    if settings.prompts == "squad" and Path(settings.source).is_file():
        record["source_sha256"] = hashlib.sha256(Path(settings.source).read_bytes()).hexdigest()
    if output.exists():
        if resume and (output / SETTINGS_FILE).is_file() and read_settings(output) == record:
            shutil.rmtree(output.with_name(output.name + UNFINISHED), ignore_errors=True)
            return output
        made = (output / SETTINGS_FILE).is_file()
        what = "was made with other settings or from another source" if made else "holds something else"
        raise UserError(f"{output} already exists and {what}: remove it or choose another --output.")
    prompts = _prompts(model, tokenizer, settings)
    batches = LengthGroupedBatches([len(ids) for ids in prompts], settings.batch_size, settings.seed).batches(0)
    try:
        parts = parallel.in_turn(lambda: Parts(output, record, resume or not parallel.is_first()))
        with progress_bar(show_progress) as progress:
            task = progress.add_task("generating", total=len(prompts))
            for number, rows in parallel.take(batches):
                if not parts.path(number).exists():
                    parts.write(number, _continue(model, tokenizer, [prompts[row] for row in rows], settings, number))
                progress.update(task, completed=sum(map(len, batches[: number + 1])))
        parallel.gather(None)  # each has written its last part
        if parallel.is_first():
            parts.join(len(batches))
    except OSError as error:
        if lost(error):
            raise
        raise UserError(f"{output} cannot be written ({error.strerror or error}): choose another --output.") from None
    return output


def _prompts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Generation) -> list[list[int]]:
    generator = np.random.default_rng(settings.seed)
    window = context_window(model)
    if settings.prompts == "random":
        first_ids = leading_special_tokens(tokenizer)
        if len(first_ids) + 1 + settings.max_new_tokens > window:
            raise UserError(
                f"max_new_tokens {settings.max_new_tokens} do not fit the context window of {window} tokens."
            )
        ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        return [[*first_ids, int(token)] for token in generator.choice(ordinary, settings.count)]
    questions = read_squad(settings.source, split="train")
    rounds = -(-settings.count // len(questions))
    order = np.concatenate([generator.permutation(len(questions)) for _ in range(rounds)])[: settings.count]
    chosen = [questions[i] for i in order]
    return [e.prompt_ids for e in Prompt().encode_all(chosen, tokenizer, window, reserve=settings.max_new_tokens)]


class _GreedyFirst(LogitsProcessor):
    """Leaves only the most likely token in the first `greedy` steps; keeps each step's `top_k` log-probabilities."""

    def __init__(self, greedy: int, top_k: int) -> None:
        self.greedy = greedy
        self.top_k = top_k
        self.step = 0
        self.ids_SBK: list[Tensor] = []
        self.logprobs_SBK: list[Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Tensor:
        if self.top_k:
            logprobs_BK, ids_BK = scores.float().log_softmax(-1).topk(self.top_k)
            self.ids_SBK.append(ids_BK.cpu())
            self.logprobs_SBK.append(logprobs_BK.cpu())
        self.step += 1
        if self.step > self.greedy:
            return scores
        best_B1 = scores.argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, best_B1, scores.gather(1, best_B1))


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    settings: Generation,
    number: int,
) -> list[dict[str, Any]]:
    """Batch `number`: one row of the data set per prompt, ending with eos where the model did."""
    eos = tokenizer.eos_token_id
    ids_BT, mask_BT = left_pad(prompts, eos, model.device)
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=True,
        temperature=max(settings.temperature, COLDEST),
        top_k=settings.top_k,
        top_p=1.0,
        use_cache=True,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    chooser = _GreedyFirst(settings.greedy_tokens, settings.teacher_top_k)
    devices = [model.device] if model.device.type == "cuda" else []
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    with torch.random.fork_rng(devices), eval_mode(model), own_generation_config(model, config):
        torch.manual_seed(seed)
        output_BT = cast(Any, model).generate(
            ids_BT,
            attention_mask=mask_BT,
            generation_config=config,
            logits_processor=LogitsProcessorList([chooser]),
        )
    if chooser.top_k:
        topk_ids, topk_logprobs = torch.stack(chooser.ids_SBK, 1), torch.stack(chooser.logprobs_SBK, 1)
    sequences = []
    for row, (prompt, new) in enumerate(zip(prompts, output_BT[:, ids_BT.shape[1] :].tolist(), strict=True)):
        length = new.index(eos) + 1 if eos in new else len(new)
        sequence: dict[str, Any] = {"input_ids": prompt + new[:length], "prompt_length": len(prompt)}
        if chooser.top_k:
            sequence["topk_ids"] = topk_ids[row, :length].tolist()
            sequence["topk_logprobs"] = topk_logprobs[row, :length].tolist()
        sequences.append(sequence)
    return sequences
