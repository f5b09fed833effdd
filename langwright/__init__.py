"""Langwright: make your own language model.

    import langwright

    lm = langwright.load("runs/quickstart/model")
    print(lm.generate("def main():", max_tokens=40))

Every stage is a plain function (`build_corpus`, `build_tokenizer`, `build_dataset`, `pretrain`,
`sft`, `evaluate.evaluate`, `write_report`); `run_recipe` joins them. Everything is imported when
it is first used, so ``import langwright`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_OFFERED = {
    "LanguageModel": "generate",
    "UserError": "base",
    "build_corpus": "corpus",
    "build_dataset": "dataset",
    "build_model": "model",
    "build_tokenizer": "tokenizer",
    "load": "generate",
    "load_tokenizer": "tokenizer",
    "pretrain": "train",
    "run_recipe": "recipe",
    "sft": "posttrain",
    "write_report": "recipe",
}
_ROOMS = (
    "base",
    "corpus",
    "tokenizer",
    "dataset",
    "model",
    "formats",
    "optim",
    "generate",
    "evaluate",
    "train",
    "posttrain",
    "recipe",
    "cli",
)

__all__ = ["__version__", *_OFFERED]


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for."""
    if name in _OFFERED:
        return getattr(importlib.import_module(f"langwright.{_OFFERED[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"langwright.{name}")
    raise AttributeError(f"module 'langwright' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
