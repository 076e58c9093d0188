"""Which decoder runs a model here."""

from typing import Any

from switchq.inference.gpu.decode import GraphDecoder, available
from switchq.inference.steps.decoder import Decoder
from switchq.inference.steps.gpt2 import GPT2Step, is_plain_gpt2
from switchq.inference.steps.llama import LlamaStep, is_plain_llama

STEPS = ((is_plain_gpt2, GPT2Step), (is_plain_llama, LlamaStep))


def decoder_for(lm: Any) -> Decoder | None:
    """The decoder of a `SwitchableLM`; None for a model that only `generate` runs."""
    if lm.model.device.type != "cpu":
        return GraphDecoder(lm) if available(lm) else None
    return next((Decoder(lm, step(lm.model)) for runs, step in STEPS if runs(lm.model)), None)
