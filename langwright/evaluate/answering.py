"""Texts for measurement, drawn by the engine."""

from __future__ import annotations

from collections.abc import Sequence

from langwright.base import UserError
from langwright.generate import Completion, Engine, EngineConfig, LanguageModel, SamplingParams

MOST_RUNNING = 64


def complete_prompts(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], params: SamplingParams
) -> list[Completion]:
    """One continuation of each prompt, all prompts through one engine, in their order.

    The engine's memory for keys and values is free again afterwards.

    Args:
        prompts: token ids, at most context_length - 1 each.
        params: of one answer (n = 1).

    Raises:
        UserError: a prompt does not fit, or the model failed on one: a measurement with some
            answers missing would not be the one that was asked for.
    """
    if not prompts:
        return []
    engine = Engine(lm, EngineConfig(max_running=min(len(prompts), MOST_RUNNING)))
    outputs = engine.generate(prompts, params)
    for number, output in enumerate(outputs, start=1):
        if output.finish_reasons[0] not in ("stop", "length"):
            raise UserError(
                "the model could not answer", where=f"prompt {number}", found=output.error
            )
    return [output.answers[0] for output in outputs]
