"""Reading a request's body, and the bounds of what it may ask."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from langwright.generate import CANDIDATES
from langwright.serve.config import ServeConfig
from langwright.serve.errors import ApiError, from_validation
from langwright.serve.openai_types import Sampled

Model = TypeVar("Model", bound=BaseModel)

MOST_CONTAINERS = 100_000  # lists and tables in a body: each takes 64 bytes and more


async def read_body(request: Request, model: type[Model], config: ServeConfig) -> Model:
    """The body of a request as `model`; nothing is read beyond the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > config.body_bytes:
        raise _too_large(config)
    try:
        async with asyncio.timeout(config.body_seconds):
            data = await _read(request, config)
    except TimeoutError:
        raise ApiError(408, "the body did not come in time") from None
    except ClientDisconnect:
        raise ApiError(400, "the client left while it sent the body") from None
    if data.count(b"{") + data.count(b"[") > MOST_CONTAINERS:
        raise ApiError(413, f"the body holds more than {MOST_CONTAINERS} lists and tables")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise from_validation(error) from None


async def _read(request: Request, config: ServeConfig) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > config.body_bytes:
            raise _too_large(config)
        parts.append(part)
    return b"".join(parts)


def _too_large(config: ServeConfig) -> ApiError:
    return ApiError(413, f"the body is larger than {config.body_bytes:,} bytes")


def check_count(values: Any, most: int, param: str) -> None:
    """At most so many entries."""
    if values is not None and len(values) > most:
        raise ApiError(400, f"{param}: {len(values)} entries; at most {most}", param=param)


def check_number(value: int | None, most: int, param: str) -> None:
    """At most so much."""
    if value is not None and value > most:
        raise ApiError(400, f"{param}: {value} is more than {most}", param=param)


def check_search(body: Sampled, config: ServeConfig) -> None:
    """Beams and candidates go through the model like answers: no more of them than of these."""
    if body.beam is not None:
        check_number(body.beam.beams, config.max_answers, "beam.beams")
    if body.penalty_alpha is None:
        return
    if body.top_k is not None and body.top_k < 1:
        raise ApiError(400, "top_k: a contrastive search needs 1 candidate or more", param="top_k")
    check_number(body.top_k or CANDIDATES, config.max_answers, "top_k")


def check_texts(values: list[str], config: ServeConfig, param: str) -> list[str]:
    """Stop strings and bad words: few, short, not empty."""
    check_count(values, config.max_stops, param)
    for text in values:
        if not text:
            raise ApiError(400, f"{param}: an empty text", param=param)
        if len(text.encode("utf-8", "replace")) > config.max_stop_bytes:
            raise ApiError(
                400, f"{param}: a text of more than {config.max_stop_bytes} bytes", param=param
            )
    return values


def check_form(value: Any, config: ServeConfig, param: str) -> None:
    """A schema or grammar: short, and not nested deep."""
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text.encode("utf-8", "replace")) > config.max_form_bytes:
        raise ApiError(400, f"{param}: more than {config.max_form_bytes} bytes", param=param)
    if depth(value) > config.max_form_depth:
        raise ApiError(
            400, f"{param}: nested deeper than {config.max_form_depth} levels", param=param
        )


def depth(value: Any) -> int:
    """How deep lists and tables are nested."""
    level, deepest = [value], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        deepest += 1
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
    return deepest
