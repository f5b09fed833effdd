"""What quantisation costs in quality and gains in speed, measured on a text."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langwright.base import UserError
from langwright.generate.language_model import LanguageModel
from langwright.generate.modes import evaluating
from langwright.generate.sampling import Sampling
from langwright.model import KVCache, Transformer


@dataclass(frozen=True)
class QualityReport:
    """One model beside its quantised form, over `tokens` predicted tokens."""

    tokens: int
    perplexity: float  # of the original
    perplexity_quantised: float
    kl: float  # mean KL(original || quantised) of the next token, nats
    kl_p99: float  # its 99th percentile
    same_first: float  # share of places where the likeliest token is the same
    weight_bytes: int  # read in a decoding step
    weight_bytes_quantised: int
    decode_seconds: float  # processor time of one step of one text
    decode_seconds_quantised: float

    def lines(self) -> list[str]:
        """The report in words."""
        speed = self.decode_seconds / self.decode_seconds_quantised
        return [
            f"tokens compared        {self.tokens:,}",
            f"perplexity             {self.perplexity:.3f} -> {self.perplexity_quantised:.3f} "
            f"({self.perplexity_quantised / self.perplexity - 1:+.2%})",
            f"KL of the next token   {self.kl:.5f} nats in the mean, {self.kl_p99:.4f} at the "
            "99th percentile",
            f"same likeliest token   {self.same_first:.2%}",
            f"bytes read for a token {self.weight_bytes:,} -> {self.weight_bytes_quantised:,} "
            f"({self.weight_bytes / self.weight_bytes_quantised:.2f} times fewer)",
            f"time of a token        {1e3 * self.decode_seconds:.2f} -> "
            f"{1e3 * self.decode_seconds_quantised:.2f} ms of processor ({speed:.2f} times faster)",
        ]


def compare_quality(
    original: Transformer, quantised: Transformer, ids: Sequence[int], window: int = 512
) -> QualityReport:
    """Both models over the same ids, in rows of `window` tokens; the first of a row is not judged.

    Raises:
        UserError: fewer than 2 ids.
    """
    if len(ids) < 2:
        raise UserError("too little text to compare on", found=f"{len(ids)} tokens", expected="2")
    window = min(window, original.config.context_length)
    losses = torch.zeros(2, dtype=torch.float64)
    divergences, same = [], 0
    with evaluating(original), evaluating(quantised):
        for row in _rows(torch.tensor(ids), window):
            one, two = _logprobs(original, row), _logprobs(quantised, row)  # (T - 1, V)
            index = torch.arange(len(row) - 1)
            targets = row[1:]
            losses += torch.stack((-one[index, targets].sum(), -two[index, targets].sum())).double()
            divergences.append((one.exp() * (one - two)).sum(-1))
            same += int((one.argmax(-1) == two.argmax(-1)).sum())
        kl = torch.cat(divergences)
        seconds = _step_seconds(original, quantised, ids)
    count = len(kl)
    before, after = (math.exp(float(total) / count) for total in losses)
    return QualityReport(
        tokens=count,
        perplexity=before,
        perplexity_quantised=after,
        kl=float(kl.mean()),
        kl_p99=float(kl.quantile(0.99)),
        same_first=same / count,
        weight_bytes=read_bytes(original),
        weight_bytes_quantised=read_bytes(quantised),
        decode_seconds=seconds[0],
        decode_seconds_quantised=seconds[1],
    )


def own_text(lm: LanguageModel, tokens: int, seed: int = 0) -> list[int]:
    """A text that the model writes itself, drawn at temperature 1: a sample of what it will be
    used on where there is no other text."""
    rows = max(1, tokens // 256)
    start = lm.text_tokenizer.bos_id or lm.text_tokenizer.eos_id or 0
    sampling = Sampling(max_tokens=-(-tokens // rows), temperature=1.0, seed=seed)
    silent = LanguageModel(lm.model, None, notice=lambda _: None)  # no end token, no notice
    done = silent.complete_ids([[start]] * rows, sampling)
    return [token for one in done for token in (start, *one.ids)][:tokens]


def read_bytes(model: Transformer) -> int:
    """Bytes of weights that one decoding step of one text reads; of experts all count."""
    own = getattr(model, "read_bytes", None)
    if own is not None:
        return int(own)
    table = 0 if model.config.tied else model.tokens.weight.nbytes
    return sum(parameter.nbytes for parameter in model.parameters()) - table


def _rows(ids: Tensor, window: int) -> Iterator[Tensor]:
    return (row for row in ids.split(window) if len(row) > 1)


def _logprobs(model: Transformer, row: Tensor) -> Tensor:
    """Of each next token: (T - 1, V) fp32 on the CPU."""
    hidden = model.hidden(row[None, :-1].to(model.device))
    return model.logits(hidden)[0].float().log_softmax(-1).cpu()


def _step_seconds(one: Transformer, two: Transformer, ids: Sequence[int]) -> tuple[float, float]:
    """Least processor time of a decoding step, the models taking turns."""
    start = torch.tensor([list(ids[:32])])
    caches = []
    for model in (one, two):
        size = min(128, model.config.context_length)
        cache = KVCache(model.config, 1, size, model.device, model.compute_dtype)
        begin = start[:, : size // 2].to(model.device)
        model.hidden(begin, cache=cache)
        cache.advance(begin.shape[1])
        caches.append(cache)
    best = [math.inf, math.inf]
    token = start[:, :1].to(one.device)
    for _ in range(8):
        for index, (model, cache) in enumerate(zip((one, two), caches, strict=True)):
            begun = time.process_time()
            model.logits(model.hidden(token, cache=cache))
            best[index] = min(best[index], time.process_time() - begun)
    return best[0], best[1]
