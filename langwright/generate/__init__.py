"""Generation: logits to text. Sampling, the decoding loop with its cache, stop strings, chat."""

from langwright.generate.decoding.beam import BeamParams, Hypothesis, beam_search
from langwright.generate.decoding.constraint import Matcher, compile_constraint
from langwright.generate.decoding.contrastive import contrastive_search
from langwright.generate.decoding.decoder import Decoder, Drawn, RowError
from langwright.generate.decoding.draft_model import DraftModel
from langwright.generate.decoding.draw import draw, row_seeds, uniform_for
from langwright.generate.decoding.forced import ForcedProposer
from langwright.generate.decoding.guided import (
    Source,
    contrast_logits,
    generate_guided,
    guide_logits,
)
from langwright.generate.decoding.logprobs import TokenLogprobs, token_logprobs
from langwright.generate.decoding.min_p import min_p_mask
from langwright.generate.decoding.ngram import NgramProposer
from langwright.generate.decoding.penalties import apply_count_penalties, apply_repetition_penalty
from langwright.generate.decoding.proposals import Proposal, Proposer
from langwright.generate.decoding.row import DecodingRow
from langwright.generate.decoding.scores import score_tokens
from langwright.generate.decoding.settings import SamplingRows, filter_logits, process_logits
from langwright.generate.decoding.several import choose_best, fan_out, generate_several
from langwright.generate.decoding.speculative import SpeculationCounts, speculative_step
from langwright.generate.decoding.temperature import apply_temperature
from langwright.generate.decoding.top_k import top_k_mask
from langwright.generate.decoding.top_p import top_p_mask
from langwright.generate.decoding.typical import typical_mask
from langwright.generate.decoding.verify import Verified, verify
from langwright.generate.engine import Engine
from langwright.generate.engine_config import EngineConfig
from langwright.generate.language_model import LanguageModel, load, parse_sampling
from langwright.generate.loop import (
    generate_tokens,
    generate_uncached,
    next_probabilities,
)
from langwright.generate.modes import evaluating
from langwright.generate.output import Completion, Output, Piece
from langwright.generate.params import (
    CANDIDATES,
    Beams,
    Constraint,
    Guidance,
    SamplingParams,
)
from langwright.generate.quality import compare_quality, own_text, read_bytes
from langwright.generate.requests import Event, Request, RequestOutput
from langwright.generate.sampling import Sampling, sample
from langwright.generate.stats import EngineStats
from langwright.generate.stops import StopFinder
from langwright.generate.weights import load_packed, pack_model, stored_blocks

__all__ = [
    "CANDIDATES",
    "BeamParams",
    "Beams",
    "Completion",
    "Constraint",
    "Decoder",
    "DecodingRow",
    "DraftModel",
    "Drawn",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "Event",
    "ForcedProposer",
    "Guidance",
    "Hypothesis",
    "LanguageModel",
    "Matcher",
    "NgramProposer",
    "Output",
    "Piece",
    "Proposal",
    "Proposer",
    "Request",
    "RequestOutput",
    "RowError",
    "Sampling",
    "SamplingParams",
    "SamplingRows",
    "Source",
    "SpeculationCounts",
    "StopFinder",
    "TokenLogprobs",
    "Verified",
    "apply_count_penalties",
    "apply_repetition_penalty",
    "apply_temperature",
    "beam_search",
    "choose_best",
    "compare_quality",
    "compile_constraint",
    "contrast_logits",
    "contrastive_search",
    "draw",
    "evaluating",
    "fan_out",
    "filter_logits",
    "generate_guided",
    "generate_several",
    "generate_tokens",
    "generate_uncached",
    "guide_logits",
    "load",
    "load_packed",
    "min_p_mask",
    "next_probabilities",
    "own_text",
    "pack_model",
    "parse_sampling",
    "process_logits",
    "read_bytes",
    "row_seeds",
    "sample",
    "score_tokens",
    "speculative_step",
    "stored_blocks",
    "token_logprobs",
    "top_k_mask",
    "top_p_mask",
    "typical_mask",
    "uniform_for",
    "verify",
]
