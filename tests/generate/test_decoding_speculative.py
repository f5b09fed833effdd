"""Speculation changes neither the text (guesses without a distribution) nor its distribution."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.generate import (
    Decoder,
    DecodingRow,
    DraftModel,
    NgramProposer,
    Proposal,
    SamplingParams,
    SpeculationCounts,
    draw,
    generate_tokens,
    uniform_for,
    verify,
)
from langwright.generate.decoding.ngram import find_continuation
from langwright.generate.decoding.verify import accept_probability, residual

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [4, 4, 4], [5, 6, 7, 8, 9, 1, 2], [3]]
PARAMS = {
    "greedy": SamplingParams(temperature=0.0, max_tokens=25),
    "warm": SamplingParams(temperature=0.7, top_p=0.95, max_tokens=25, seed=5, logprobs=2),
    "penalised": SamplingParams(
        temperature=0.6,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        bad_ids=[[2, 3]],
        max_tokens=25,
        seed=5,
        logprobs=0,
        logprobs_mode="processed",
    ),
}


def fields(done) -> list[tuple]:
    return [(one.ids, one.text, one.finish_reason, one.stop_id) for one in done]


def same_logprobs(first, second) -> None:
    for one, other in zip(first, second, strict=True):
        if one.logprobs is not None:
            assert one.logprobs == pytest.approx(other.logprobs, abs=2e-4)


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize(
    "changes", [{}, {"position": "learned"}, {"window": 6, "reach": ["local", "global"]}]
)
def test_ngram_speculation_gives_the_same_text(tiny_model, name: str, changes: dict) -> None:
    """Ragged rows, windows, learned positions up to the end of the context, end tokens."""
    model = tiny_model(**changes)
    params = [PARAMS[name], PARAMS[name].replace(max_tokens=60), PARAMS["warm"], PARAMS[name]]
    plain = generate_tokens(model, PROMPTS, params, stop_ids=[7])
    counts = SpeculationCounts()
    proposer = NgramProposer(tokens=5, longest=3, shortest=1)
    found = generate_tokens(model, PROMPTS, params, stop_ids=[7], proposer=proposer, counts=counts)
    assert fields(found) == fields(plain)
    same_logprobs(found, plain)
    assert counts.proposed > counts.accepted
    if name != "penalised":  # texts that repeat themselves
        assert counts.tokens_per_step > 1


@pytest.mark.parametrize("name", PARAMS)
def test_a_draft_model_in_the_same_text_mode(tiny_model, name: str) -> None:
    model, draft = tiny_model(), tiny_model(layers=1, window=8)
    plain = generate_tokens(model, PROMPTS, PARAMS[name], stop_ids=[7])
    proposer = DraftModel(draft, 16, tokens=3, same_text=True)
    found = generate_tokens(model, PROMPTS, PARAMS[name], stop_ids=[7], proposer=proposer)
    assert fields(found) == fields(plain)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_that_guesses_for_itself_is_always_right(
    tiny_model, window: int | None, temperature: float
) -> None:
    """Both rules accept all: p = q. So the draft's cache is right too."""
    model = tiny_model() if window is None else tiny_model(window=window)
    params = SamplingParams(temperature=temperature, max_tokens=21, seed=2)
    for same_text in (True, False):
        counts = SpeculationCounts()
        proposer = DraftModel(model, 16, tokens=4, same_text=same_text)
        generate_tokens(model, PROMPTS, params, proposer=proposer, counts=counts)
        assert counts.accepted == counts.proposed
        assert counts.tokens_per_step == 5  # 20 tokens after the prefill's


def test_stop_strings_amid_accepted_guesses(tiny_model, tokenizer) -> None:
    model = tiny_model()
    params = SamplingParams(temperature=0.0, max_tokens=40)
    whole = generate_tokens(model, PROMPTS, params, tokenizer=tokenizer)
    stops = [one.text[9:11] for one in whole]
    params = params.replace(stop=[stop for stop in stops if stop], logprobs=1)
    plain = generate_tokens(model, PROMPTS, params, tokenizer=tokenizer)
    assert any(len(one.ids) < 40 for one in plain)
    proposer = DraftModel(model, 16, tokens=4)
    found = generate_tokens(model, PROMPTS, params, tokenizer=tokenizer, proposer=proposer)
    assert fields(found) == fields(plain)
    assert [len(one.logprobs) for one in found] == [len(one.ids) for one in found]


def test_the_acceptance_rule_gives_p_exactly() -> None:
    """Sum over all guesses: q(x) a(x) [x = t] + q(x) (1 - a(x)) r(t) = p(t), in fp64."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        p, q = (torch.rand(7, generator=generator, dtype=torch.float64) ** 3 for _ in range(2))
        p, q = p / p.sum(), q / q.sum()
        q[2], p[3] = 0.0, 0.0
        q, p = q / q.sum(), p / p.sum()
        accept = [accept_probability(p, q, x) for x in range(7)]
        accept = torch.tensor(accept, dtype=torch.float64)
        rest = residual(p, q)
        rest = rest / rest.sum()
        found = q * accept + (q * (1 - accept)).sum() * rest
        torch.testing.assert_close(found, p, atol=1e-9, rtol=0)
        assert (q * accept).sum() == pytest.approx(1 - (p - q).abs().sum().item() / 2)


@pytest.mark.parametrize("rejection", [True, False])
def test_distribution_of_two_tokens_by_chi_square(rejection: bool) -> None:
    """5,000 texts of up to two tokens from fixed tables against the product of probabilities."""
    vocab, draws = 4, 5000
    generator = torch.Generator().manual_seed(1)
    target = 1.5 * torch.randn(1 + vocab, vocab, generator=generator)  # behind nothing, behind t
    draft = 1.5 * torch.randn(1 + vocab, vocab, generator=generator)
    params = SamplingParams(temperature=1.3, top_k=3, top_p=1.0)
    decoder, counts = Decoder(), torch.zeros(vocab, vocab)
    warm = DecodingRow(params, [0], vocab_size=vocab, seed=0)
    p = decoder.process(target, [warm] * (1 + vocab)).final.softmax(-1).double()
    q = decoder.process(draft, [warm] * (1 + vocab)).final.softmax(-1)
    for seed in range(draws):
        row = DecodingRow(params, [0], vocab_size=vocab, seed=seed)
        if rejection:
            number = torch.tensor([uniform_for(seed, 0, "draft")])
            guess = int(draw(q[:1], number))
            proposal = Proposal([guess], q[:1])
        else:
            guess = seed % vocab
            proposal = Proposal([guess])
        done = verify(decoder, row, target[[0, 1 + guess]], proposal)
        if len(done.ids) == 1:  # rejected: the second token comes from a step of its own
            last = int(done.ids[0])
            row.take(int(decoder.draw(target[1 + last][None], [row]).tokens))
        first, second = row.ids
        counts[first, second] += 1
    expected = (p[0][:, None] * p[1:] * draws)[(p[0][:, None] * p[1:]) > 0]
    found = counts[(p[0][:, None] * p[1:]) > 0].double()
    assert counts.sum() == found.sum() == draws
    chi_square = ((found - expected) ** 2 / expected).sum().item()
    assert len(expected) == 9
    assert chi_square < 31.8  # 8 degrees of freedom, one in ten thousand


def test_distribution_of_whole_texts_with_a_draft_model(tiny_model) -> None:
    """Three tokens of a real pair of models against the enumerated distribution."""
    model, draft = tiny_model(vocab_size=3), tiny_model(vocab_size=3, layers=1)
    params = SamplingParams(temperature=2.0, top_p=1.0, max_tokens=3)
    texts = list(itertools.product(range(3), repeat=3))
    with torch.no_grad():
        model.eval()
        ids = torch.tensor([[1, *text] for text in texts])
        logits = model(ids)[:, :3] / 2.0
    chances = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].sum(-1).exp().double()
    draws = 1500
    done = generate_tokens(
        model,
        [[1]] * draws,
        params,
        seeds=list(range(draws)),
        proposer=DraftModel(draft, 3, tokens=2),
        batch_rows=500,
    )
    found = torch.tensor([sum(tuple(one.ids) == text for one in done) for text in texts])
    large = chances * draws >= 4
    expected = chances[large] * draws
    chi_square = ((found[large] - expected) ** 2 / expected).sum().item()
    degrees = int(large.sum()) - 1
    assert degrees > 5
    assert chi_square < degrees + 4.5 * (2 * degrees) ** 0.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 29))
def test_the_index_finds_what_a_plain_search_finds(text: list[int], cut: int) -> None:
    prompt, rest = text[:cut], text[cut:]
    row = DecodingRow(SamplingParams(), prompt, vocab_size=3, seed=0)
    proposer = NgramProposer(tokens=4, longest=3, shortest=2)
    for token in [None, *rest]:
        if token is not None:
            row.take(token)
        found = proposer.propose([row], [3])[0].ids
        assert found == find_continuation(prompt + row.ids, 3, 2, 3)


@pytest.mark.parametrize("drawn", [True, False])
def test_a_dead_end_behind_accepted_guesses(drawn: bool) -> None:
    """What stands before it stays; the error is the row's own."""
    params = SamplingParams(temperature=1.0, bad_ids=[[0, 0], [0, 1], [0, 2], [1], [2]])
    row = DecodingRow(params, [1], vocab_size=3, seed=0)
    q = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    done = verify(Decoder(), row, torch.zeros(3, 3), Proposal([0, 1], q if drawn else None))
    assert (done.ids, done.accepted, row.ids) == ([0], 1, [0])
    assert done.error is not None


def test_models_that_cannot_be_speculated_on(tiny_model) -> None:
    with pytest.raises(UserError, match="vocabulary"):
        DraftModel(tiny_model(vocab_size=17), 16)
    scaling = {"kind": "ntk", "factor": 2.0, "original_context": 16}
    dynamic = tiny_model(rotary_scaling=scaling)
    with pytest.raises(UserError, match="speculation"):
        generate_tokens(dynamic, [[1]], PARAMS["greedy"], proposer=NgramProposer())
