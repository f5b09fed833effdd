"""Prompts and inputs as clients send them: a text, ids, or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from langwright.generate import SamplingParams
from langwright.serve.errors import ApiError
from langwright.serve.server import Server

Prompt = str | list[int]


def as_prompts(given: str | list[int] | list[str] | list[list[int]], param: str) -> list[Prompt]:
    """Always a list of prompts; 400, naming the field, for an empty one."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise ApiError(400, f"{param}: an empty list", param=param)
    if isinstance(given[0], int):
        return [cast(list[int], given)]
    return cast(list[Prompt], given)


def encode_text(server: Server, text: str, *, special: bool, begin: bool = True) -> list[int]:
    """Ids of a text.

    Args:
        special: names of special tokens written in it are these tokens; else they are text.
        begin: put the model's beginning token first, where it has one.
    """
    tokenizer = server.tokenizer
    ids = tokenizer.encode(text, allowed_special="all" if special else ())
    bos = tokenizer.bos_id if begin else None
    return ids if bos is None else [bos, *ids]


def encode_prompts(
    server: Server, prompts: Sequence[Prompt], param: str, *, special: bool = False
) -> list[list[int]]:
    """Their ids; texts begin with the model's beginning token, ids are taken as they are.

    Raises:
        ApiError: 400 for ids that the tokenizer does not know.
    """
    found = []
    for prompt in prompts:
        if isinstance(prompt, str):
            server.check_length(prompt, param)
            found.append(encode_text(server, prompt, special=special))
        else:
            found.append(check_ids(server, prompt, param))
    return found


def with_negative(server: Server, params: SamplingParams) -> SamplingParams:
    """The same settings, what the answer is guided away from as ids."""
    guidance = params.guidance
    if guidance is None or not guidance.negative:  # nothing: the beginning of a text
        return params
    (ids,) = encode_prompts(server, [guidance.negative], "guidance.negative")
    return params.replace(guidance=guidance.replace(negative=ids))


def check_ids(server: Server, ids: list[int], param: str) -> list[int]:
    """Ids within the tokenizer's vocabulary."""
    size = server.tokenizer.vocab_size
    wrong = next((one for one in ids if one >= size), None)
    if wrong is not None:
        raise ApiError(400, f"{param}: no token {wrong}; ids are 0 ... {size - 1}", param=param)
    return ids
