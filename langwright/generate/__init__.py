"""Generation: logits to text. Sampling, the decoding loop with its cache, stop strings, chat."""

from langwright.generate.language_model import LanguageModel, load, parse_sampling
from langwright.generate.loop import (
    generate_tokens,
    generate_uncached,
    next_probabilities,
    stream,
    stream_tokens,
)
from langwright.generate.modes import evaluating
from langwright.generate.output import Completion, Output, Piece
from langwright.generate.sampling import (
    Sampling,
    SamplingRows,
    apply_repetition_penalty,
    apply_temperature,
    draw,
    min_p_mask,
    process_logits,
    row_seeds,
    sample,
    top_k_mask,
    top_p_mask,
    uniform_for,
)
from langwright.generate.stops import StopFinder

__all__ = [
    "Completion",
    "LanguageModel",
    "Output",
    "Piece",
    "Sampling",
    "SamplingRows",
    "StopFinder",
    "apply_repetition_penalty",
    "apply_temperature",
    "draw",
    "evaluating",
    "generate_tokens",
    "generate_uncached",
    "load",
    "min_p_mask",
    "next_probabilities",
    "parse_sampling",
    "process_logits",
    "row_seeds",
    "sample",
    "stream",
    "stream_tokens",
    "top_k_mask",
    "top_p_mask",
    "uniform_for",
]
