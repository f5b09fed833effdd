"""Looking at the model while it trains: validation losses and samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from langwright.base import seed_for
from langwright.dataset import Rows
from langwright.evaluate import Loss, row_losses
from langwright.generate import Sampling, generate_tokens
from langwright.parallel import Alone
from langwright.train.choosing import evaluation_interval
from langwright.train.compiling import uncompiled
from langwright.train.config import TrainConfig
from langwright.train.metrics import Record, finite, perplexity
from langwright.train.report import Report
from langwright.train.saver import Saver
from langwright.train.setup import Setup


class Looks:
    """The looks of a run: when they are due, and taking them. All processes call this together.

    Args:
        setup: the run.
        config: its settings.
        report: told of every look.
        saver: saves the best weights.
        valid: rows to validate on, by name.
        tokenizer: needed for samples.
        say: told the losses and the samples.
    """

    def __init__(
        self,
        setup: Setup,
        config: TrainConfig,
        report: Report,
        saver: Saver,
        valid: Mapping[str, Rows],
        tokenizer: Any,
        say: Callable[[str], None],
    ) -> None:
        self.setup, self.config, self.report, self.saver = setup, config, report, saver
        self.valid, self.tokenizer = valid, tokenizer
        self._say = say

    def due(self, step: int) -> bool:
        """Whether something is to be looked at after `step` updates."""
        return self._evaluation_due(step) or self._samples_due(step)

    def take(self, step: int) -> None:
        """Evaluate and draw samples. The record is written when all is done, so that a look that
        was cut short is made again after a resume."""
        form, report = self.setup.form, self.report
        record = report.place(step)
        if self._evaluation_due(step):
            losses = evaluate_all(form, self.valid, self.config.evaluate_rows)
            record |= losses
            if form.agree(report.history.is_best(losses["valid_loss"])):
                self.saver.save_best(step, losses)
            self._say(f"step {step:,}: " + told(losses))
        if self._samples_due(step) and not form.whole:
            self._say("no samples: the weights are spread over processes")
        elif self._samples_due(step) and form.first:
            record["samples"] = draw_samples(form.model, self.tokenizer, self.config)
            for sample in record["samples"]:
                self._say("sample: " + " ".join((sample["prompt"] + sample["text"]).split()))
        report.add(record)
        if "valid_loss" in record:
            self.setup.changes.evaluated(step, form.agree(record["valid_loss"]))

    def catch_up(self, step: int) -> None:
        """The look that was due at the checkpoint may not have been taken before the kill."""
        if step == 0 or not self.due(step):
            return
        looks = (r for r in self.report.log.read() if "valid_loss" in r or "samples" in r)
        if self.setup.form.agree(not any(record["step"] == step for record in looks)):
            self.take(step)

    def _evaluation_due(self, step: int) -> bool:
        every = evaluation_interval(self.config, self.setup.changes.planned_steps)
        return bool(self.valid) and self._turn(step, every)

    def _samples_due(self, step: int) -> bool:
        every = self.config.sample_every
        if every == 0 or not self.config.sample_prompts:
            return False
        if every is None:
            every = evaluation_interval(self.config, self.setup.changes.planned_steps)
        return self._turn(step, every)

    def _turn(self, step: int, every: int) -> bool:
        return step == self.setup.total_steps or (every > 0 and step % every == 0)


def evaluate_all(form: Alone, valid: Mapping[str, Rows], max_rows: int | None) -> Record:
    """Validation losses in nats per token, over each set and over all tokens of all sets.

    The processes of `form` share out the rows; the result is the same on all.

    Returns:
        ``valid_loss``, ``valid_perplexity``; with several sets also ``valid_<name>`` for each; and
        bits per byte where the rows know how many bytes they are.
    """
    own = form.inside(_sums, valid, max_rows, form.look_part)
    parts: dict[int, dict[str, tuple[float, int]]] = {}
    for part, sums in form.gather([form.look_part[0], own]):
        parts.setdefault(part, sums)  # those who took the same rows found the same
    record: Record = {}
    total, tokens = 0.0, 0
    for name, rows in valid.items():
        nats, counts = zip(*(parts[part][name] for part in sorted(parts)))
        loss = Loss.from_sums(np.array(nats), np.array(counts))
        total += loss.nats_per_token * loss.tokens
        tokens += loss.tokens
        if len(valid) > 1:
            record[f"valid_{name}"] = finite(loss.nats_per_token)
        if (bytes_per_token := getattr(rows, "bytes_per_target", None)) is not None:
            bits = loss.nats_per_token / math.log(2) / bytes_per_token
            record[f"valid_{name}_bits_per_byte"] = finite(bits)
    mean = total / max(1, tokens)
    return {"valid_loss": finite(mean), "valid_perplexity": perplexity(mean), **record}


def _sums(
    model: Any, valid: Mapping[str, Rows], max_rows: int | None, place: tuple[int, int]
) -> dict[str, tuple[float, int]]:
    """(nats, counted targets) of each set's rows of a part; `place`: its number, how many."""
    found = {}
    for name, rows in valid.items():
        with uncompiled():
            nats, tokens = row_losses(model, rows, max_rows, part=place[0], parts=place[1])
        found[name] = float(nats.sum(dtype=np.float64)), int(tokens.sum())
    return found


def draw_samples(model: Any, tokenizer: Any, config: TrainConfig) -> list[dict[str, str]]:
    """A continuation of each of the config's prompts; the same draws at every step."""
    prompts = config.sample_prompts
    sampling = Sampling.parse({"max_tokens": config.sample_tokens})
    seeds = [seed_for(config.seed, "sample", i) for i in range(len(prompts))]
    with uncompiled():
        answers = generate_tokens(
            model,
            [tokenizer.encode(prompt) for prompt in prompts],
            sampling,
            tokenizer.stop_ids,
            tokenizer=tokenizer,
            seeds=seeds,
        )
    return [{"prompt": p, "text": answer.text} for p, answer in zip(prompts, answers)]


def told(losses: Record) -> str:
    """The losses as a person reads them."""
    loss, confusion = losses["valid_loss"], losses["valid_perplexity"]
    if loss is None or confusion is None:
        return "validation loss is not finite"
    return f"validation loss {loss:.4f}, perplexity {confusion:,.1f}"
