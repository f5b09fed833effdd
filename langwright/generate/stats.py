"""What the engine has done and is doing, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class EngineStats:
    """Counts since the start, and the present state."""

    running: int = 0  # texts
    waiting: int = 0
    cache_pages: int = 0  # all there are
    cache_used_pages: int = 0  # of texts that are being written or read
    cache_bytes: int = 0
    vector_bytes: int = 0  # beside the cache: what contrastive searches remember of their texts
    steps: int = 0
    step_seconds: float = 0.0  # of all steps together
    prompt_tokens: int = 0  # read, those found in the cache not counted
    reused_tokens: int = 0  # of prompts, found in the cache
    generated_tokens: int = 0
    preemptions: int = 0
    evicted_blocks: int = 0
    proposed_tokens: int = 0  # guesses
    accepted_tokens: int = 0
    finished: dict[str, int] = field(default_factory=dict)  # answers, by reason
    decoding: str = "as the model is"  # how steps of one token run, and why not otherwise
    threads: int = 0  # of a step on a CPU
    calibrations: int = 0  # how often their number was measured
    failures: int = 0  # steps or callbacks that raised
