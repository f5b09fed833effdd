"""Evaluation: how good a model is, beside what simple means reach, with error bars."""

from langwright.evaluate.answering import complete_prompts
from langwright.evaluate.classics import Classic, classics, classics_of_many, join_documents
from langwright.evaluate.config import EvaluateConfig
from langwright.evaluate.documents import DocumentLosses, bits_per_byte, document_losses
from langwright.evaluate.intervals import bootstrap_interval, ratio_standard_error
from langwright.evaluate.loss import Loss, evaluate_rows, row_losses, token_losses
from langwright.evaluate.memorisation import Copies, verbatim_copies
from langwright.evaluate.ngram import ByteNgram
from langwright.evaluate.questions import (
    Answer,
    answer_questions,
    assistant_loss,
    summarise_answers,
    token_f1,
)
from langwright.evaluate.stage import evaluate

__all__ = [
    "Answer",
    "ByteNgram",
    "Classic",
    "Copies",
    "DocumentLosses",
    "EvaluateConfig",
    "Loss",
    "answer_questions",
    "assistant_loss",
    "bits_per_byte",
    "bootstrap_interval",
    "classics",
    "classics_of_many",
    "complete_prompts",
    "document_losses",
    "evaluate",
    "evaluate_rows",
    "join_documents",
    "ratio_standard_error",
    "row_losses",
    "summarise_answers",
    "token_f1",
    "token_losses",
    "verbatim_copies",
]
