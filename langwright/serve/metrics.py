"""Counters and histograms in the text format of Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence

from langwright.generate import EngineStats

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """How often a value fell under each bound."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        """The histogram as text."""
        found, total = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            label = "+Inf" if bound == float("inf") else f"{bound:g}"
            found.append(f'{name}_bucket{{le="{label}"}} {total}')
        return [*found, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """What the server has done. Changed in the event loop's thread only."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str], int] = defaultdict(int)  # (route, outcome)
        self.rejected: defaultdict[str, int] = defaultdict(int)  # why
        self.disconnects = 0
        self.first_token = Histogram()
        self.between_tokens = Histogram()
        self.whole = Histogram()
        self.queue = Histogram()

    def text(self, engine: EngineStats, gauges: Mapping[str, float]) -> str:
        """Everything, with the engine's counts and the present state (`gauges`)."""
        lines: list[str] = []

        def family(name: str, kind: str, about: str, samples: Sequence[str]) -> None:
            full = f"langwright_{name}"
            lines.extend((f"# HELP {full} {about}", f"# TYPE {full} {kind}", *samples))

        def counted(name: str, about: str, values: Mapping[str, float]) -> None:
            samples = [f"langwright_{name}{labels} {value:g}" for labels, value in values.items()]
            family(name, "counter", about, samples)

        by_route = {
            f'{{route="{route}",outcome="{outcome}"}}': float(count)
            for (route, outcome), count in sorted(self.requests.items())
        }
        counted("requests_total", "Requests done, by route and outcome.", by_route)
        reasons = {f'{{reason="{why}"}}': float(n) for why, n in sorted(self.rejected.items())}
        counted("rejected_total", "Requests that were not let in.", reasons)
        counted("disconnects_total", "Clients that left early.", {"": self.disconnects})
        ended = {f'{{reason="{why}"}}': float(n) for why, n in sorted(engine.finished.items())}
        counted("answers_total", "Answers ended by the engine.", ended)
        for name, about, value in (
            ("prompt_tokens_total", "Tokens of prompts read.", engine.prompt_tokens),
            ("cached_tokens_total", "Tokens of prompts found in the cache.", engine.reused_tokens),
            ("generated_tokens_total", "Tokens generated.", engine.generated_tokens),
            ("preemptions_total", "Texts that gave their memory back.", engine.preemptions),
            ("evicted_blocks_total", "Blocks dropped from the cache.", engine.evicted_blocks),
            ("guessed_tokens_total", "Tokens guessed ahead.", engine.proposed_tokens),
            ("accepted_tokens_total", "Guesses that were right.", engine.accepted_tokens),
            ("engine_steps_total", "Steps of the engine.", engine.steps),
            ("engine_step_seconds_total", "Time of all steps, seconds.", engine.step_seconds),
            ("calibrations_total", "Times that threads were measured.", engine.calibrations),
            ("engine_failures_total", "Steps or texts that failed.", engine.failures),
        ):
            counted(name, about, {"": value})
        states = {
            "running": float(engine.running),
            "waiting": float(engine.waiting),
            "threads": float(engine.threads),
            "cache_pages": float(engine.cache_pages),
            "cache_used_pages": float(engine.cache_used_pages),
            "cache_bytes": float(engine.cache_bytes),
            "vector_bytes": float(engine.vector_bytes),
            **gauges,
        }
        for name, number in states.items():
            about = name.replace("_", " ").capitalize() + ", now."
            family(name, "gauge", about, [f"langwright_{name} {number:g}"])
        for name, about, histogram in (
            ("first_token_seconds", "From the request to its first token.", self.first_token),
            ("between_tokens_seconds", "From one piece to the next.", self.between_tokens),
            ("request_seconds", "From the request to its end.", self.whole),
            ("queue_seconds", "From the request to the engine.", self.queue),
        ):
            family(name, "histogram", about, histogram.lines(f"langwright_{name}"))
        return "\n".join(lines) + "\n"
