"""The folder of self-generated data: a `datasets` folder of token sequences, and a JSON file on how they were made.

Columns: `input_ids` (T tokens: prompt, then what the model wrote), `prompt_length` (P, the tokens that are not the
model's) and, where the teacher's distribution was kept, `topk_ids` and `topk_logprobs`, T - P rows of K: row i is the
distribution of token P + i.
"""

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from switchq.data.batches import IGNORED, Example
from switchq.data.local import parse_json, read_text
from switchq.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

SETTINGS_FILE = "generation.json"

UNFINISHED = ".partial"
"""What the name of a folder ends with until all of it is there."""


def is_generated(source: str | Path) -> bool:
    """Whether `source` is a folder written by `generate_dataset`."""
    return os.path.isfile(Path(source) / SETTINGS_FILE)


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What a generated folder was made with.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(folder) / SETTINGS_FILE
    settings = parse_json(read_text(path), str(path))
    if not isinstance(settings, dict):
        raise UserError(f"{path} is damaged: it holds no settings.")
    return settings


class GeneratedExamples(Sequence[Example]):
    """Training examples of a generated folder, read from disk when asked for; the loss is on the continuation only.

    Args:
        folder: written by `generate_dataset`.
        max_length: sequences are cut at their end to this many tokens; those of which that leaves the prompt alone are
            left out.
        vocabulary: how many tokens there are.

    Raises:
        UserError: not such a folder, damaged, empty, of another vocabulary, or of prompts alone.
    """

    def __init__(self, folder: str | Path, max_length: int, vocabulary: int) -> None:
        import datasets
        import pyarrow.compute as pc

        try:
            self.table: Dataset = datasets.load_from_disk(str(folder))
            ids = self.table.data.column("input_ids")
            full, highest = pc.list_value_length(ids).to_numpy(), pc.max(pc.list_flatten(ids)).as_py()
            prompts = self.table.data.column("prompt_length").to_numpy()
        except Exception as error:  # datasets and pyarrow raise many kinds for a damaged folder
            if Path(folder).name.endswith(UNFINISHED):
                done = str(folder).rstrip("/").removesuffix(UNFINISHED)
                raise UserError(
                    f"{folder} is not finished: run `switchq gendata` again as before, then train on {done}"
                ) from None
            reason = " ".join(str(error).split())
            raise UserError(f"{folder} is not a readable folder of `switchq gendata` ({reason}).") from None
        if len(self.table) == 0:
            raise UserError(f"{folder} is an empty data set: it holds no sequences.")
        if highest >= vocabulary:
            raise UserError(
                f"{folder} holds token {highest}, and the model has {vocabulary}: another model wrote it, with another "
                f"tokenizer"
            )
        kept = prompts < max_length
        if not kept.any():
            raise UserError(
                f"{folder} has prompts of {prompts.min()} tokens and more, which leaves no room for what follows: "
                f"raise data.max_length, {max_length} now"
            )
        if not kept.all():
            self.table, full = self.table.select(np.flatnonzero(kept)), full[kept]
        self.max_length = max_length
        self.lengths = np.minimum(full, max_length)
        self.cut = int((full > max_length).sum())

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self.table[index]
        ids, prompt = row["input_ids"][: self.max_length], row["prompt_length"]
        example: dict[str, Any] = {"input_ids": ids, "labels": [IGNORED] * min(prompt, len(ids)) + ids[prompt:]}
        for key in ("topk_ids", "topk_logprobs"):
            if key in row:
                rows = np.asarray(row[key])
                example[key] = np.concatenate([np.zeros((prompt, rows.shape[1]), rows.dtype), rows])[: len(ids)]
        return example
