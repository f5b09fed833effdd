"""From a request's fields to the engine's settings, within the server's limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from langwright.base import UserError
from langwright.generate import Constraint, SamplingParams
from langwright.serve.config import ServeConfig
from langwright.serve.errors import ApiError, from_user_error, from_validation
from langwright.serve.limits import (
    check_count,
    check_form,
    check_number,
    check_search,
    check_texts,
)
from langwright.serve.openai_types import Sampled

FORMS = {  # fields, and what kind of constraint each is
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
_INTEGER = re.compile(r"[0-9]{1,9}")


def sampling_params(
    body: Sampled,
    config: ServeConfig,
    *,
    max_tokens: int,
    logprobs: int | None = None,
    best_of: int | None = None,
    constraint: Constraint | None = None,
) -> SamplingParams:
    """The settings of one request; OpenAI's defaults (temperature 1, no filters).

    Raises:
        ApiError: 400, naming the field.
    """
    check_number(body.n, config.max_answers, "n")
    check_number(best_of, config.max_answers, "best_of")
    check_search(body, config)
    check_number(logprobs, config.max_logprobs, "top_logprobs")
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    stop_ids = body.stop_token_ids or []
    check_count(stop_ids, config.max_stops, "stop_token_ids")
    given: dict[str, Any] = {
        "max_tokens": max_tokens,
        "min_tokens": body.min_tokens,
        "temperature": body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "top_k": None if body.top_k is None else max(0, body.top_k),
        "min_p": body.min_p,
        "typical_p": body.typical_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "logit_bias": _biases(body.logit_bias, config),
        "bad_words": check_texts(body.bad_words or [], config, "bad_words"),
        "n": body.n,
        "best_of": None if best_of == (body.n or 1) else best_of,
        "stop": check_texts(stop, config, "stop"),
        "stop_ids": stop_ids,
        "ignore_eos": body.ignore_eos,
        "seed": None if body.seed is None else body.seed % 2**63,  # theirs may be negative
        "logprobs": logprobs,
        "constraint": constraint,
        "beam": body.beam,
        "penalty_alpha": body.penalty_alpha,
        "guidance": body.guidance,
    }
    with named_as_sent(body):
        try:
            return SamplingParams.model_validate({k: v for k, v in given.items() if v is not None})
        except ValidationError as error:
            raise from_validation(error) from None


@contextmanager
def named_as_sent(body: Sampled) -> Iterator[None]:
    """Mistakes in a form get the name of the field that the client has sent it in."""
    try:
        yield
    except ApiError as error:
        if error.param == "constraint":
            error.param = _form(body)
            error.args = (str(error).replace("constraint", error.param),)
        raise


def _form(body: Sampled) -> str:
    """The field that a form for the answer comes from."""
    given = (one for one in FORMS if getattr(body, one) is not None)
    other = "tool_choice" if body.response_format is None else "response_format"
    return next(given, other)


def constraint_of(body: Sampled, config: ServeConfig) -> Constraint | None:
    """The form that a request asks for; one at most."""
    found: dict[str, tuple[str, Any]] = {}
    wanted = body.response_format
    if wanted is not None and wanted.type == "json_object":
        found["response_format"] = ("json_object", None)
    elif wanted is not None and wanted.type == "json_schema":
        if wanted.json_schema is None or wanted.json_schema.schema_ is None:
            param = "response_format.json_schema.schema"
            raise ApiError(400, f"{param}: missing", param=param)
        found["response_format"] = ("json_schema", wanted.json_schema.schema_)
    for name, kind in FORMS.items():
        value = getattr(body, name)
        if value is not None:
            found[name] = (kind, value)
    if len(found) > 1:
        raise ApiError(400, f"several forms for one answer: {', '.join(found)}")
    for param, (kind, value) in found.items():
        check_form(value, config, param)
        try:
            return Constraint.parse({"kind": kind, "value": value}, where=param)
        except UserError as error:
            raise from_user_error(error) from None
    return None


def token_limit(asked: int | None, default: int | None, config: ServeConfig, context: int) -> int:
    """Most tokens of an answer: what was asked for, or the default (none = all that fits).

    More than the context is no mistake, as it could not be reached; more than the server's own
    limit is.
    """
    limit = config.max_tokens or context
    if asked is None:
        return min(default or limit, limit)
    if config.max_tokens is not None:
        check_number(asked, config.max_tokens, "max_tokens")
    return min(asked, limit)


def _biases(given: dict[str, float] | None, config: ServeConfig) -> dict[int, float] | None:
    check_count(given, config.max_biases, "logit_bias")
    for name, bias in (given or {}).items():
        if not _INTEGER.fullmatch(name):
            raise ApiError(
                400, f"logit_bias: {name[:40]!r} is not a token's id", param="logit_bias"
            )
        if not -100 <= bias <= 100:
            raise ApiError(400, f"logit_bias: {bias} is not in -100 ... 100", param="logit_bias")
    return None if given is None else {int(name): bias for name, bias in given.items()}
