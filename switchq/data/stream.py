"""An endless stream of generated reading questions as token batches, and the tokenizer that goes with it.

Every batch is fresh, and batch i is a pure function of (seed, i), however many worker processes make it. Names are
training names, so the dev set stays unseen however long the stream runs.
"""

import random
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from switchq.data.prompt import Prompt
from switchq.data.reading import make_paragraph
from switchq.data.squad import Question

EOS = "<|endoftext|>"
PROMPT = Prompt()
PADDING, IN_PROMPT, IN_ANSWER = -1, 0, 1


def train_tokenizer(questions: Sequence[Question], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with at most `vocabulary` tokens, trained on the questions' prompts and answers."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[EOS],
        show_progress=False,
    )
    bpe.train_from_iterator((PROMPT.text(question) + PROMPT.target(question) for question in questions), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=EOS, eos_token=EOS, unk_token=EOS, clean_up_tokenization_spaces=False
    )


class ReadingStream(Dataset[tuple[Tensor, Tensor]]):
    """Item i is the batch of step i: token ids (B, T), right padded with eos, and the part each is in (B, T).

    The part is `PADDING`, `IN_PROMPT` or `IN_ANSWER` (the answer and its eos).

    Args:
        tokenizer: any tokenizer with an eos token and less than 32,768 tokens.
        steps: number of batches.
        batch: questions per batch (B), each about a paragraph of its own.
        max_length: most tokens of a prompt and its answer.
        seed: another seed gives another stream.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, steps: int, batch: int, max_length: int, seed: int) -> None:
        self.tokenizer = tokenizer
        self.steps = steps
        self.batch = batch
        self.max_length = max_length
        self.seed = seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = random.Random(f"switchq pretrain {self.seed} {step}")
        questions = []
        for _ in range(self.batch):
            paragraph = make_paragraph(rng, "train")
            fact = rng.choice(paragraph.facts)
            questions.append(Question("", paragraph.context, fact.question, (fact.answer,)))
        encoded = PROMPT.encode_all(questions, self.tokenizer, self.max_length)
        shape = len(encoded), max(map(len, encoded))
        ids_BT = torch.full(shape, int(self.tokenizer.eos_token_id), dtype=torch.int16)
        part_BT = torch.full(shape, PADDING, dtype=torch.int8)
        for row, item in enumerate(encoded):
            ids_BT[row, : len(item)] = torch.tensor(item.prompt_ids + item.answer_ids, dtype=torch.int16)
            part_BT[row, : len(item.prompt_ids)] = IN_PROMPT
            part_BT[row, len(item.prompt_ids) : len(item)] = IN_ANSWER
        return ids_BT, part_BT
