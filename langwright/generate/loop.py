"""The generation loop: prefill ragged prompts once, then one token per row and step.

    prompts ──prefill──▶ logits (B, V) ──sample──▶ ids (B,) ──decode step──▶ logits ...

Prompts are padded on the right. A pad stands later than every real token of its row, so nothing
real attends to it, and the row's next token overwrites its place in the cache: ragged batches are
exact. Rows that are finished leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from secrets import randbits

import torch
from torch import Tensor

from langwright.base import UserError
from langwright.generate.decoding.decoder import Decoder, RowError
from langwright.generate.decoding.draw import row_seeds, uniform_for
from langwright.generate.decoding.logprobs import TokenLogprobs
from langwright.generate.decoding.proposals import Proposer
from langwright.generate.decoding.row import DecodingRow
from langwright.generate.decoding.settings import SamplingRows, process_logits
from langwright.generate.decoding.speculative import SpeculationCounts, speculative_step
from langwright.generate.modes import evaluating
from langwright.generate.output import Completion, Output, Piece
from langwright.generate.padding import padded_ids
from langwright.generate.sampling import Sampling, sample
from langwright.model import KVCache, Transformer
from langwright.tokenizer import Tokenizer


def generate_tokens(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | Sequence[Sampling],
    stop_ids: Collection[int] = (),
    *,
    tokenizer: Tokenizer | None = None,
    start_id: int | None = None,
    seeds: Sequence[int] | None = None,
    logprobs: bool = False,
    batch_rows: int = 64,
    on_token: Callable[[Piece], None] | None = None,
    proposer: Proposer | None = None,
    counts: SpeculationCounts | None = None,
) -> list[Completion]:
    """Continue each prompt; the result does not depend on which others are in the batch.

    Args:
        model: any mode; it is evaluated without dropout and gradients and left as it was.
        prompts: token ids. Of one that fills the context the beginning is dropped, so that there
            is room for the answer (`cropped_tokens`; `Completion.cropped` says how many).
        sampling: settings, one for all or one per prompt.
        stop_ids: tokens that end a row.
        tokenizer: gives `Completion.text`; needed for stop strings.
        start_id: what an empty prompt starts from; None takes the tokenizer's bos or eos.
        seeds: one per prompt; None derives them from `sampling.seed` (see `row_seeds`).
        logprobs: also give the log-probability (nats) of each token.
        batch_rows: most rows at a time.
        on_token: called with every `Piece` as it comes.
        proposer: guesses tokens ahead, which the model checks several at a time (`speculative`).
        counts: told how well the guesses did.

    Returns:
        One `Completion` per prompt. Reason "length" means max_tokens or the end of the context.
    """
    rows = _outputs(model, prompts, sampling, stop_ids, tokenizer, start_id, seeds, logprobs)
    for first in range(0, len(rows), batch_rows):
        batch = rows[first : first + batch_rows]
        for pieces in run_rows(model, batch, tokenizer, proposer=proposer, counts=counts):
            if on_token is not None:
                for piece in pieces:
                    on_token(piece)
    return [row.completion for row in rows]


def run_rows(
    model: Transformer,
    outputs: Sequence[Output],
    tokenizer: Tokenizer | None = None,
    *,
    proposer: Proposer | None = None,
    counts: SpeculationCounts | None = None,
) -> Iterator[list[Piece]]:
    """Run the rows of one batch to their ends, giving the pieces of each step."""
    rows = list(outputs)
    device = next(model.parameters()).device
    # A padded output layer may have more symbols than the tokenizer: those are never drawn.
    vocab = min(model.config.vocab_size, tokenizer.vocab_size) if tokenizer else None
    decoder = Decoder(vocab)
    with evaluating(model):
        cache, logits = _prefill(model, rows)
    new = _draw(decoder, logits, [row.decoding for row in rows])
    while True:
        pieces = []
        for row, pairs in zip(rows, new, strict=True):
            for token, logprobs in pairs:
                if not row.finished:  # a stop string may end it amid accepted guesses
                    pieces.append(row.take(token, logprobs))
        yield pieces
        alive = [index for index, row in enumerate(rows) if not row.finished]
        if not alive:
            return
        if len(alive) < len(rows):
            rows = [rows[index] for index in alive]
            cache.select(alive)
        states = [row.decoding for row in rows]
        if proposer is not None:
            left = [row.limit - len(row.decoding.ids) for row in rows]
            found = speculative_step(model, cache, decoder, states, proposer, left, counts)
            for index, one in enumerate(found):
                if one.error is not None:
                    raise RowError([rows[index].row], one.error.message, one.error.fix)
            new = [list(zip(one.ids, one.logprobs, strict=True)) for one in found]
            continue
        tokens = torch.tensor([[state.ids[-1]] for state in states], device=device)  # (B, 1)
        with evaluating(model):
            hidden = model.hidden(tokens, cache=cache)  # (B, 1, D)
            cache.advance(1)
            logits = model.logits(hidden[:, 0])  # (B, V)
        new = _draw(decoder, logits, states)


def cropped_tokens(length: int, max_tokens: int, context: int) -> int:
    """How many tokens of a prompt's beginning must go: none if at least one more fits the context.

    Where it does not, room is made for the whole answer of `max_tokens`; but at least half of the
    context stays for the prompt.
    """
    if length <= max(1, context - 1):
        return 0
    room = min(max_tokens, context // 2)
    return length - max(1, context - room)


def generate_uncached(
    model: Transformer,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> list[int]:
    """The plain loop: the whole text through the model for every token, no cache, no batch.

    The reference that the cached loop is tested against. Unlike it, this one goes on past the
    context: each forward sees the last context_length tokens.

    Args:
        prompt: at least one id.
        sampling: settings; None is greedy. Its max_tokens and stops are not looked at.
        seed: the row's seed.
    """
    sampling = sampling or Sampling(temperature=0.0)
    device = next(model.parameters()).device
    rows = SamplingRows.of([sampling], device)
    ids = list(prompt)
    for position in range(max_tokens):
        with evaluating(model):
            window = torch.tensor([ids[-model.config.context_length :]], device=device)  # (1, T)
            logits = model(window)[:, -1].float()  # (1, V): only the last position counts
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[0, ids] = True
        uniform = torch.tensor([uniform_for(seed, position)], dtype=torch.float64)
        ids.append(int(sample(logits, rows, uniform, seen)))
    return ids[len(prompt) :]


def next_probabilities(
    model: Transformer, prompt: Sequence[int], sampling: Sampling | None = None
) -> Tensor:
    """The distribution (V,) that the next token after `prompt` would be drawn from.

    `sampling` None gives the model's own distribution; otherwise after penalty, temperature, k, p
    and min-p. Temperature 0 has no distribution to show and is read as 1.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        logits = model.logits(model.hidden(torch.tensor([list(prompt)], device=device))[:, -1])
    if sampling is None:
        return logits[0].softmax(-1)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[0, list(prompt)] = True
    return process_logits(logits, SamplingRows.of([sampling], device), seen)[0].softmax(-1)


def _outputs(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | Sequence[Sampling],
    stop_ids: Collection[int],
    tokenizer: Tokenizer | None,
    start_id: int | None,
    seeds: Sequence[int] | None,
    logprobs: bool,
) -> list[Output]:
    """Check and crop the prompts and give each its settings and seed."""
    settings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    if len(settings) != len(prompts):
        raise ValueError(f"{len(settings)} settings for {len(prompts)} prompts")
    if seeds is None:
        fresh = randbits(62)
        asked = [fresh if each.seed is None else each.seed for each in settings]
        seeds = row_seeds(asked, prompts)
    context = model.config.context_length
    rows = []
    for index, (prompt, each) in enumerate(zip(prompts, settings, strict=True)):
        if each.stop and tokenizer is None:
            raise ValueError("stop strings need the tokenizer")
        if each.n > 1 or each.best_of is not None:
            raise UserError(
                "one answer per prompt here, but several are asked for",
                found=f"n = {each.n}, best_of = {each.best_of}",
                fix="call generate_several",
            )
        if (each.guidance, each.beam, each.penalty_alpha) != (None, None, None):
            raise UserError(
                "guidance and searches are the engine's",
                fix="use an Engine, or call generate_guided, beam_search or contrastive_search",
            )
        ids = list(prompt) or [_start(tokenizer, start_id)]
        cropped = cropped_tokens(len(ids), each.max_tokens, context)
        ids = ids[cropped:]
        if logprobs and each.logprobs is None:
            each = each.replace(logprobs=0)
        state = DecodingRow(
            each,
            ids,
            vocab_size=model.config.vocab_size,
            seed=seeds[index],
            stop_ids=stop_ids,
            tokenizer=tokenizer,
        )
        limit = max(1, min(each.max_tokens, context - len(ids)))
        rows.append(Output(index, state, limit=limit, tokenizer=tokenizer, cropped=cropped))
    return rows


def _start(tokenizer: Tokenizer | None, start_id: int | None) -> int:
    """The token that stands for "the beginning of a text"."""
    if start_id is None and tokenizer is not None:
        start_id = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start_id is None:
        raise UserError(
            "an empty prompt, and the tokenizer has no token for the beginning of a text",
            fix="give at least one character of prompt",
        )
    return start_id


def _prefill(model: Transformer, rows: Sequence[Output]) -> tuple[KVCache, Tensor]:
    """Run the prompts; give the filled cache and each row's logits (B, V) after its last token."""
    device = next(model.parameters()).device
    lengths = [len(row.prompt) for row in rows]
    capacity = max(len(row.prompt) + row.limit for row in rows)
    ids = padded_ids([row.prompt for row in rows]).to(device)  # (B, T)
    cache = KVCache(model.config, len(rows), capacity, device, model.compute_dtype)
    cache.ids[:] = ids[:, :1]  # where a row has no ids yet, its own stand for them: `padded_ids`
    if cache.history is not None:
        cache.history.ids[:] = ids[:, :1].cpu()
    counts = torch.tensor(lengths, device=device)
    hidden = model.hidden(ids, cache=cache, counts=counts)  # (B, T, D)
    cache.advance(lengths)
    ends = counts - 1
    last = hidden[torch.arange(len(rows), device=device), ends]  # (B, D)
    return cache, model.logits(last)


def _draw(
    decoder: Decoder, logits: Tensor, states: Sequence[DecodingRow]
) -> list[list[tuple[int, TokenLogprobs | None]]]:
    """One token of each row, as a list of one pair each."""
    drawn = decoder.draw(logits, states)
    pairs = list(zip(drawn.tokens.tolist(), drawn.logprobs, strict=True))
    for state, (token, _) in zip(states, pairs, strict=True):
        state.take(token)
    return [[pair] for pair in pairs]
