"""Scoring a switchable model: answers, EM and F1, perplexities, memory, speed, and their report."""

from switchq.evaluation.decode import Decoded, decode
from switchq.evaluation.evaluate import evaluate
from switchq.evaluation.memory import WeightBytes, peak_memory, reset_peak_memory, weight_bytes
from switchq.evaluation.perplexity import (
    TokenPerplexity,
    answer_batch,
    answer_batches,
    answer_nll,
    answer_perplexity,
    answer_rows,
    text_perplexity,
    token_nll,
)
from switchq.evaluation.provenance import run_record, sha256
from switchq.evaluation.result import EvalResult, read_results, write_predictions, write_results
from switchq.evaluation.squad_score import QuestionScore, SquadMetric, question_scores, summarise, without_phrase
from switchq.evaluation.tables import before_after_table, results_table, show_table
from switchq.files import check_writable, write_bytes, write_json, write_text

__all__ = [
    "Decoded",
    "EvalResult",
    "QuestionScore",
    "SquadMetric",
    "TokenPerplexity",
    "WeightBytes",
    "answer_batch",
    "answer_batches",
    "answer_nll",
    "answer_perplexity",
    "answer_rows",
    "before_after_table",
    "check_writable",
    "decode",
    "evaluate",
    "peak_memory",
    "question_scores",
    "read_results",
    "reset_peak_memory",
    "results_table",
    "run_record",
    "sha256",
    "show_table",
    "summarise",
    "text_perplexity",
    "token_nll",
    "weight_bytes",
    "without_phrase",
    "write_bytes",
    "write_json",
    "write_predictions",
    "write_results",
    "write_text",
]
