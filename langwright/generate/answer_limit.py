"""What a prompt must be, and how long its answer can get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from langwright.base import UserError
from langwright.generate.decoding.contrastive import check_prompt, longest_text
from langwright.generate.language_model import LanguageModel
from langwright.generate.params import Guidance, SamplingParams


def start_id(lm: LanguageModel) -> int:
    """What an empty prompt starts from."""
    tokenizer, start = lm.tokenizer, None
    if tokenizer is not None:
        start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is None:
        raise UserError(
            "an empty prompt, and the tokenizer has no token for the beginning of a text",
            fix="give at least one character of prompt",
        )
    return start


def negative_ids(lm: LanguageModel, guidance: Guidance) -> list[int]:
    """What an answer is guided away from."""
    given = guidance.negative
    ids = lm.encode_prompt(given) if isinstance(given, str) and given else given
    return [int(one) for one in ids] or [start_id(lm)]


class Fits(Protocol):
    """As `Scheduler.fits`."""

    def __call__(self, tokens: int, beside: Sequence[tuple[int, int]] = ()) -> bool: ...


def request_limit(
    lm: LanguageModel, prompt: Sequence[int], params: SamplingParams, fits: Fits
) -> int:
    """As `answer_limit`, for all texts that an answer needs: those of a beam search share the
    prompt, a guided one has another beside it."""
    if params.beam is not None:
        beside, length = params.beam.beams - 1, len(prompt)
        return answer_limit(
            lm, prompt, params, lambda tokens: fits(tokens, [(length, tokens)] * beside)
        )
    if params.penalty_alpha is not None:
        _check_candidates(lm, params)
        count = params.candidates - 1  # they share all but their last token
        most = answer_limit(
            lm, prompt, params, lambda tokens: fits(tokens, [(tokens - 1, tokens)] * count)
        )
        check_prompt(lm.config, prompt)
        return min(most, longest_text(lm.config) - len(prompt))
    if params.guidance is None:
        return answer_limit(lm, prompt, params, fits)
    negative = negative_ids(lm, params.guidance)
    alone = answer_limit(lm, negative, params, fits, "guidance.negative")
    more = len(negative) - len(prompt)
    both = answer_limit(lm, prompt, params, lambda tokens: fits(tokens, [(0, tokens + more)]))
    return min(both, alone)


def answer_limit(
    lm: LanguageModel,
    prompt: Sequence[int],
    params: SamplingParams,
    fits: Callable[[int], bool],
    where: str = "prompt",
) -> int:
    """The most tokens that the answer can have: what was asked for, what the context and the
    cache's memory leave.

    Args:
        lm: the model.
        prompt: at least one id.
        params: the request's settings.
        fits: whether a text of so many tokens fits the cache's memory.
        where: what the prompt is called in an error.

    Raises:
        UserError: no answer is possible.
    """
    _check(lm, prompt, params, where)
    if not fits(len(prompt) + 1):
        raise UserError(
            "the prompt does not fit the memory for keys and values",
            where=where,
            found=f"{len(prompt)} tokens",
            fix="give the engine more cache_bytes",
        )
    most = min(params.max_tokens, max(1, lm.config.context_length - len(prompt)))
    if fits(len(prompt) + most):
        return most
    low, high = 1, most  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(len(prompt) + middle):
            low = middle
        else:
            high = middle
    return low


def _check_candidates(lm: LanguageModel, params: SamplingParams) -> None:
    vocab = lm.config.vocab_size if lm.tokenizer is None else lm.tokenizer.vocab_size
    if params.candidates > vocab:
        raise UserError(
            "more candidates than the model has tokens",
            where="top_k",
            found=params.candidates,
            expected=f"at most {vocab}",
        )


def _check(lm: LanguageModel, prompt: Sequence[int], params: SamplingParams, where: str) -> None:
    """Raise where the model cannot take the prompt or the settings."""
    vocab, context = lm.config.vocab_size, lm.config.context_length
    wrong = next((token for token in prompt if not 0 <= token < vocab), None)
    if wrong is not None:
        raise UserError(
            "token id outside the model's vocabulary",
            where=where,
            found=wrong,
            expected=f"0 ... {vocab - 1}",
        )
    if len(prompt) >= max(2, context):
        raise UserError(
            "the prompt is longer than the model's context",
            where=where,
            found=f"{len(prompt)} tokens",
            expected=f"at most {context - 1}, so that one can follow",
            fix="shorten it",
        )
    if params.stop and lm.tokenizer is None:
        raise UserError("stop strings need the tokenizer", fix="use stop_ids")
