"""The loop with its cache against the plain forward; batches against single prompts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.generate import (
    Piece,
    Sampling,
    generate_tokens,
    generate_uncached,
    next_probabilities,
    row_seeds,
)
from langwright.generate.loop import cropped_tokens

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1, 2], [3, 3], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1]]
GREEDY = Sampling(temperature=0.0, max_tokens=20)
WARM = Sampling(temperature=0.9, top_k=9, top_p=0.95, max_tokens=20, seed=11)
PENALISED = Sampling(temperature=1.1, repetition_penalty=1.3, min_p=0.05, max_tokens=20, seed=11)


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal", "none"])
@pytest.mark.parametrize("sampling", [GREEDY, WARM, PENALISED])
def test_cached_equals_uncached(tiny_model, position: str, sampling: Sampling) -> None:
    model = tiny_model(position)
    seeds = row_seeds([sampling.seed or 0] * len(PROMPTS), PROMPTS)
    found = generate_tokens(model, PROMPTS, sampling, seeds=seeds)
    for prompt, seed, done in zip(PROMPTS, seeds, found, strict=True):
        assert done.ids == generate_uncached(model, prompt, 20, sampling, seed)
        assert done.finish_reason == "length"


@pytest.mark.parametrize("sampling", [GREEDY, WARM, PENALISED])
def test_ragged_batch_equals_one_by_one(tiny_model, sampling: Sampling) -> None:
    """Also where rows end at different times and leave the batch."""
    model = tiny_model()
    together = generate_tokens(model, PROMPTS, sampling, stop_ids=[7, 12])
    alone = [generate_tokens(model, [p], sampling, stop_ids=[7, 12])[0] for p in PROMPTS]
    assert together == alone
    assert len({len(done.ids) for done in together}) > 1
    small = generate_tokens(model, PROMPTS, sampling, stop_ids=[7, 12], batch_rows=2)
    assert small == together


def test_settings_per_row(tiny_model) -> None:
    model = tiny_model()
    each = [GREEDY, WARM, PENALISED]
    together = generate_tokens(model, PROMPTS[:3], each)
    assert together == [
        generate_tokens(model, [p], s)[0] for p, s in zip(PROMPTS[:3], each, strict=True)
    ]


def test_seeds(tiny_model) -> None:
    model = tiny_model()
    first = generate_tokens(model, [[1], [1], [1]], WARM)
    assert first == generate_tokens(model, [[1], [1], [1]], WARM)
    assert len({tuple(done.ids) for done in first}) == 3  # equal prompts draw different texts
    other = generate_tokens(model, [[1]], WARM.replace(seed=12))
    assert other[0].ids != first[0].ids


def test_draws_follow_the_distribution(tiny_model) -> None:
    """First tokens of 4,000 rows against the exact probabilities (chi-square)."""
    model = tiny_model()
    sampling = Sampling(temperature=1.5, top_p=1.0, max_tokens=1, seed=0)
    expected = next_probabilities(model, [1, 2], sampling) * 4000
    found = generate_tokens(model, [[1, 2]] * 4000, sampling, batch_rows=4000)
    drawn = torch.bincount(torch.tensor([done.ids[0] for done in found]), minlength=16)
    likely = expected >= 5
    chi_square = ((drawn - expected) ** 2 / expected)[likely].sum().item()
    assert likely.sum() >= 5
    assert chi_square < 45  # 15 degrees of freedom: one in ten thousand


def test_stop_id_ends_a_row_and_stays_outside(tiny_model, tokenizer) -> None:
    model = tiny_model()
    free = generate_tokens(model, [[1, 2, 3]], GREEDY)[0]
    stop = free.ids[4]
    cut = free.ids.index(stop)
    done = generate_tokens(model, [[1, 2, 3]], GREEDY, stop_ids=[stop])[0]
    assert (done.ids, done.stop_id, done.finish_reason) == (free.ids[:cut], stop, "stop")
    ignored = GREEDY.replace(ignore_eos=True)
    assert generate_tokens(model, [[1, 2, 3]], ignored, stop_ids=[stop])[0].ids == free.ids


def test_stop_string_across_tokens(tiny_model, tokenizer) -> None:
    model = tiny_model()
    free = generate_tokens(model, [[1, 2, 3]], WARM, tokenizer=tokenizer)[0]
    stop = free.text[5:8]
    cut = free.text.index(stop)
    assert 0 < cut < len(free.text) - 3
    sampling = WARM.replace(stop=[stop])
    done = generate_tokens(model, [[1, 2, 3]], sampling, tokenizer=tokenizer)[0]
    assert (done.text, done.finish_reason, done.stop_id) == (free.text[:cut], "stop", None)
    assert done.ids == free.ids[: len(done.ids)]
    assert len(done.ids) < len(free.ids)
    pieces: list[Piece] = []
    generate_tokens(model, [[1, 2, 3]], sampling, tokenizer=tokenizer, on_token=pieces.append)
    assert "".join(piece.text for piece in pieces) == done.text
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    with pytest.raises(ValueError, match="tokenizer"):
        generate_tokens(model, [[1]], sampling)


def test_symbols_beyond_the_tokenizer_are_never_drawn(tiny_model, tokenizer) -> None:
    model = tiny_model(vocab_size=64, tied=False)
    with torch.no_grad():
        model.head.weight[tokenizer.vocab_size :] = 100 * model.head.weight[:1].sign()
    hot = Sampling(temperature=5.0, top_p=1.0, max_tokens=40, seed=1)
    done = generate_tokens(model, [[1]] * 8, hot, tokenizer=tokenizer)
    assert max(max(one.ids) for one in done) < tokenizer.vocab_size


def test_context_limit_and_long_prompts(tiny_model) -> None:
    model = tiny_model(context_length=16)
    long = [token % 10 for token in range(40)]
    done = generate_tokens(model, [long[:12], long, long[:16]], GREEDY)
    assert [len(one.ids) for one in done] == [4, 8, 8]  # half of the context stays the prompt's
    assert [one.cropped for one in done] == [0, 32, 8]
    assert [one.finish_reason for one in done] == ["length"] * 3
    assert done[1].ids == generate_uncached(model, long[32:], 8)
    few = generate_tokens(model, [long, long[:15]], GREEDY.replace(max_tokens=3))
    assert [(one.cropped, len(one.ids)) for one in few] == [(27, 3), (0, 1)]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_what_is_cropped_makes_room(length: int, max_tokens: int, context: int) -> None:
    cropped = cropped_tokens(length, max_tokens, context)
    kept = length - cropped
    assert 1 <= kept <= max(1, context - 1)
    assert (cropped > 0) == (length > max(1, context - 1))
    if cropped:
        assert 2 * kept >= context
        assert kept + max_tokens == context or 2 * kept <= context + 1


def test_uncached_goes_on_past_the_context(tiny_model) -> None:
    model = tiny_model(context_length=16)
    ids = generate_uncached(model, [1, 2], 30)
    assert len(ids) == 30
    assert ids[29] == generate_uncached(model, ([1, 2] + ids[:29])[-16:], 1)[0]


def test_empty_prompt_starts_from_the_separator(tiny_model, tokenizer) -> None:
    model = tiny_model()
    eos = tokenizer.eos_id
    done = generate_tokens(model, [[], [eos]], GREEDY, tokenizer=tokenizer)
    assert done[0].ids == done[1].ids
    assert generate_tokens(model, [[]], GREEDY, start_id=eos)[0].ids == done[1].ids
    with pytest.raises(UserError, match="empty prompt"):
        generate_tokens(model, [[]], GREEDY)


def test_logprobs_are_those_of_the_model(tiny_model) -> None:
    model = tiny_model()
    done = generate_tokens(model, [[1, 2, 3], [4]], WARM, logprobs=True)
    for prompt, one in zip([[1, 2, 3], [4]], done, strict=True):
        assert one.logprobs is not None
        for place, (token, logprob) in enumerate(zip(one.ids, one.logprobs, strict=True)):
            exact = next_probabilities(model, prompt + one.ids[:place])[token].log().item()
            assert logprob == pytest.approx(exact, abs=1e-4)


def test_on_token_sees_every_piece(tiny_model) -> None:
    seen: list[Piece] = []
    done = generate_tokens(tiny_model(), [[1], [2]], GREEDY, on_token=seen.append)
    for row in (0, 1):
        assert [piece.id for piece in seen if piece.row == row] == done[row].ids


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sampling", [GREEDY, WARM, PENALISED])
def test_gpu_gives_the_same_text(tiny_model, sampling: Sampling) -> None:
    model = tiny_model()
    expected = generate_tokens(model, PROMPTS, sampling, stop_ids=[7, 12], logprobs=True)
    found = generate_tokens(model.to("cuda"), PROMPTS, sampling, stop_ids=[7, 12], logprobs=True)
    assert [done.ids for done in found] == [done.ids for done in expected]
