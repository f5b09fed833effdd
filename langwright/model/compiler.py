"""What torch.compile has to be told, in each thread."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import torch.compiler
from torch._subclasses import FakeTensorMode

OPERATORS = ("grouped_linear.py", "sliced_attention.py")
FORMS = 8  # of one function, after which torch compiles no more; its own default


def prepare_compiler(forms: int = FORMS) -> None:
    """To be called in every thread that runs compiled code, for torch's settings are each thread's
    own: up to `forms` forms of one function are compiled, and those on disk are found again only
    by the same operators.

    Torch's cache goes by an operator's name. Code compiled for another layout of its results, by
    an earlier release, would be taken for good and then fail.
    """
    _hold_device_guard()
    if torch._dynamo.config.recompile_limit < forms:
        torch._dynamo.config.recompile_limit = forms
    tag = f"langwright-{_digest()}"
    if tag not in torch.compiler.config.cache_key_tag:
        torch.compiler.config.cache_key_tag += tag


@lru_cache(maxsize=1)
def _hold_device_guard() -> None:
    """Let the first thread that compiles, which outlives its lanes, own torch's stand-in for CUDA.

    Where torch is built for CUDA and no card is found, the first thread to trace makes a stand-in
    that all threads use and that goes with its thread: a later trace in another one would crash.
    """
    with FakeTensorMode():
        pass


@lru_cache(maxsize=1)
def _digest() -> str:
    """Of the operators' files."""
    digest = hashlib.sha256()
    for name in OPERATORS:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]
