"""Validation and test of a switchable module: one evaluation per bitmap, by the same `evaluate` as the command line.

A loader gives one `ScoringSet`, the whole of what is to be scored; batching happens inside. Every switch is inside
`at`, so nothing of it reaches the next training step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.scoring_set import ScoringSet
from switchq.evaluation import EvalResult, evaluate, run_record
from switchq.training.devices import DevicesMixin
from switchq.training.identity import BaseIdentity


class ScoringMixin(DevicesMixin):
    """`validation_step` and `test_step`, which log `F1/8`, `EM/8`, `answer perplexity/8`, ...

    Attributes:
        bitmaps: what to score, as written by the user.
        results: of the latest evaluation, one per bitmap.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: BaseIdentity
    bitmaps: tuple[str, ...]
    results: Sequence[EvalResult] = ()

    def score(self, scoring_set: ScoringSet, **options: Any) -> list[EvalResult]:
        """Evaluate at every bitmap; devices share the questions out, and all get all figures.

        `options` are those of `evaluate`.
        """
        record = run_record(
            self.model,
            base=self.identity.name,
            base_hash=self.identity.sha256,
            data=scoring_set.source,
            settings=dict(self.hparams),
        )
        with self.in_step(), torch.compiler.set_stance("force_eager"):  # with a cache each block would be a graph
            options = {"progress": self.global_rank == 0, **options}
            return evaluate(self.model, self.tokenizer, scoring_set, self.bitmaps, run=record, **options)

    def validation_step(self, batch: ScoringSet, batch_idx: int) -> None:
        """Score, and log every figure."""
        alone = self.trainer.state.fn != "fit" and self.global_rank == 0  # in training the bar is that of its steps
        self.results = self.score(batch, progress=alone, keep_predictions=True)
        for result in self.results:
            self.log_dict(result.figures(), batch_size=1, sync_dist=self.devices > 1)

    test_step = validation_step
