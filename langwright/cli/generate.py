"""``langwright generate``: continue a text, shown as it comes."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import langwright
from langwright.base import UserError, say
from langwright.generate import LanguageModel, load_packed

SAMPLING = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "penalty_alpha",
    "seed",
    "stop",
)


def generate(arguments: argparse.Namespace) -> None:
    """Print the prompt and what the model adds."""
    if arguments.count < 1:
        raise UserError("--count must be at least 1", found=arguments.count)
    sampling = chosen(arguments)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    lm = open_model(arguments)
    for number in range(arguments.count):
        if number:
            print("\n" + "-" * 40)
            if "seed" in sampling:
                sampling = {**sampling, "seed": sampling["seed"] + 1}
        pieces = lm.stream(prompt, **sampling)
        sys.stdout.write(prompt)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()


def chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampling options that were given."""
    values = {name: getattr(arguments, name) for name in SAMPLING}
    return {name: value for name, value in values.items() if value is not None}


def open_model(arguments: argparse.Namespace, weights: str = "auto") -> LanguageModel:
    """The model that was named; its notices go to standard error.

    `weights` are those of the engine's config: quantised blocks of a file are taken as they are.
    """
    if weights in ("int8", "int4") and arguments.device in (None, "auto", "cpu"):
        lm = load_packed(arguments.folder, weights)  # type: ignore[arg-type]
    else:
        lm = langwright.load(arguments.folder, device=arguments.device, dtype=arguments.dtype)
    lm.notice = lambda text: say(f"note: {text}")
    return lm
