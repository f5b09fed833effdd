"""Each processor against the one of the same name in Transformers, and closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.generate import (
    Decoder,
    DecodingRow,
    RowError,
    SamplingParams,
    apply_count_penalties,
    apply_repetition_penalty,
    apply_temperature,
    draw,
    filter_logits,
    min_p_mask,
    row_seeds,
    token_logprobs,
    top_k_mask,
    top_p_mask,
    typical_mask,
)
from langwright.generate.decoding.settings import SamplingRows

VOCAB = 40
PLAIN = {"temperature": 1.0, "top_p": 1.0}


def logits(rows: int = 5, vocab: int = VOCAB, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def row(prompt: tuple[int, ...] | list[int] = (1,), seed: int = 0, **values: object) -> DecodingRow:
    params = SamplingParams.parse({**PLAIN, **values})
    return DecodingRow(params, prompt, vocab_size=VOCAB, seed=seed, stop_ids=[0])


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("transformers.generation.logits_process")


def test_warpers_are_those_of_transformers(theirs) -> None:
    x, ids = logits(), torch.zeros(5, 1, dtype=torch.int64)
    full = x.new_full((5,), 1.0)
    pairs = [
        (apply_temperature(x, full * 0.7), theirs.TemperatureLogitsWarper(0.7)),
        (top_k_mask(x, torch.full((5,), 7)), theirs.TopKLogitsWarper(7)),
        (top_p_mask(x, full * 0.8), theirs.TopPLogitsWarper(0.8)),
        (min_p_mask(x, full * 0.2), theirs.MinPLogitsWarper(0.2)),
    ]
    for mass in (0.2, 0.5, 0.9, 0.99):
        pairs.append((typical_mask(x, full * mass), theirs.TypicalLogitsWarper(mass)))
    for found, warper in pairs:
        torch.testing.assert_close(found, warper(ids, x), rtol=1e-6, atol=1e-6)


def test_the_chain_is_that_of_transformers(theirs) -> None:
    x, ids = logits(), torch.randint(0, VOCAB, (5, 9), generator=torch.Generator().manual_seed(1))
    chain = theirs.LogitsProcessorList(
        [
            theirs.RepetitionPenaltyLogitsProcessor(1.3),
            theirs.TemperatureLogitsWarper(1.4),
            theirs.TopKLogitsWarper(15),
            theirs.TopPLogitsWarper(0.9),
            theirs.MinPLogitsWarper(0.05),
            theirs.TypicalLogitsWarper(0.8),
        ]
    )
    values = {
        "repetition_penalty": 1.3,
        "temperature": 1.4,
        "top_k": 15,
        "top_p": 0.9,
        "min_p": 0.05,
        "typical_p": 0.8,
    }
    rows = [row(one, **values) for one in ids.tolist()]
    found = Decoder().process(x, rows).final
    assert 1 < found[0].isfinite().sum() < 15
    torch.testing.assert_close(found, chain(ids, x), rtol=1e-6, atol=1e-6)


def test_bad_ids_are_those_of_transformers(theirs) -> None:
    bad = [[3], [4, 5], [6, 7, 8], [4, 4, 9]]
    processor = theirs.NoBadWordsLogitsProcessor(bad, eos_token_id=None)
    x = logits(1)
    for text in ([4], [6, 7], [1, 6, 7], [4, 4], [7, 6], [4, 6, 7, 4]):
        one = row(bad_ids=bad)
        for token in text:
            one.take(token)
        found = Decoder().process(x, [one]).final
        expected = processor(torch.tensor([text]), x.clone())
        assert torch.equal(found.isfinite(), expected.isfinite())
        assert not found.isfinite()[0, 3]


def test_min_tokens_is_that_of_transformers(theirs) -> None:
    processor = theirs.MinNewTokensLengthLogitsProcessor(1, 3, eos_token_id=0, device="cpu")
    one, text = row([1], min_tokens=3), [1]
    for _ in range(5):
        expected = processor(torch.tensor([text]), logits(1))
        assert torch.equal(Decoder().process(logits(1), [one]).final, expected)
        one.take(2)
        text.append(2)


def test_count_penalties_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, -1.0]])
    counts = torch.tensor([[0, 1, 3, 2]])
    found = apply_count_penalties(x, counts, torch.tensor([0.5]), torch.tensor([0.25]))
    assert found.tolist() == [[1.0, 1.25, 1.75, -2.0]]


def test_only_the_answer_counts_for_presence_and_frequency() -> None:
    one = row([5, 5, 6], presence_penalty=1.0, frequency_penalty=0.5)
    x = logits(1)
    decoder = Decoder()
    assert torch.equal(decoder.process(x, [one]).final, x)
    for token in (7, 7, 8):
        one.take(token)
    expected = x.clone()
    expected[0, 7] -= 1.0 + 2 * 0.5
    expected[0, 8] -= 1.0 + 0.5
    torch.testing.assert_close(decoder.process(x, [one]).final, expected)


def test_the_repetition_penalty_sees_the_prompt_and_the_answer() -> None:
    one, x = row([5], repetition_penalty=2.0), logits(1)
    one.take(7)
    seen = torch.zeros(1, VOCAB, dtype=torch.bool)
    seen[0, [5, 7]] = True
    expected = apply_repetition_penalty(x, seen, torch.tensor([2.0]))
    torch.testing.assert_close(Decoder().process(x, [one]).final, expected)
    one.take(9)  # the state grows with the text
    assert not torch.equal(Decoder().process(x, [one]).final[0, 9], x[0, 9])


def test_texts_of_different_lengths_are_penalised_side_by_side() -> None:
    """The shorter text's first token stands in for what it lacks: it must not count twice."""
    values = {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.7}
    rows = [row([4], **values), row([7, 8, 9, 10], **values)]
    for one, answer in zip(rows, ([4, 4, 4], [7, 11, 12]), strict=True):
        for token in answer:
            one.take(token)
    x = logits(2)
    found = Decoder().process(x, rows).final
    for index, one in enumerate(rows):
        seen = torch.zeros(1, VOCAB, dtype=torch.bool)
        seen[0, one.prompt + one.ids] = True
        counts = torch.bincount(torch.tensor(one.ids), minlength=VOCAB)[None]
        expected = apply_repetition_penalty(x[index][None], seen, torch.tensor([1.5]))
        half, seven = torch.tensor([0.5]), torch.tensor([0.7])
        expected = apply_count_penalties(expected, counts, half, seven)
        torch.testing.assert_close(found[index][None], expected)


def test_logit_bias() -> None:
    one, x = row(logit_bias={3: 2.5, 4: -1.0, 5: -100}), logits(1)
    found = Decoder().process(x, [one]).final[0]
    assert found[3] == x[0, 3] + 2.5
    assert found[4] == x[0, 4] - 1.0
    assert found[5] == -torch.inf
    greedy = row(temperature=0.0, logit_bias={11: 100})
    assert Decoder().draw(x, [greedy]).tokens.item() == 11


def test_settings_come_from_json_keys() -> None:
    assert SamplingParams.parse({"logit_bias": {"50": -3}}).logit_bias == {50: -3.0}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"logit_bias": {40: 1.0}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"bad_ids": [[1, 99]]}, "bad_ids"),
        ({"stop_ids": [40]}, "stop_ids"),
        ({"bad_words": ["a"]}, "tokenizer"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"min_tokens": 300}, "min_tokens"),
        ({"bad_words": [""]}, "bad_words"),
        ({"typical_p": 0.0}, "typical_p"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"constraint": {"kind": "regex"}}, "regex"),
        ({"constraint": {"kind": "choice", "value": []}}, "choice"),
        ({"logit_bias": {3: 5000.0}}, "logit_bias"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        row(**values)


@pytest.mark.parametrize("at_once", [VOCAB, 2 * VOCAB, 200_000])
def test_a_dead_end_names_its_rows_and_changes_nothing(at_once: int, monkeypatch) -> None:
    """Also where the batch is worked off in parts."""
    monkeypatch.setattr("langwright.generate.decoding.decoder.AT_ONCE", at_once)
    rows = [row(), row(bad_ids=[[token] for token in range(VOCAB)]), row()]
    with pytest.raises(RowError) as error:
        Decoder().draw(logits(3), rows)
    assert error.value.rows == [1]
    assert Decoder().draw(logits(3), [rows[0]] * 3).tokens.shape == (3,)
    assert [one.ids for one in rows] == [[], [], []]


def test_a_padded_vocabulary_is_never_drawn() -> None:
    x = logits(2)
    x[:, 30:] += 50
    rows = [row(temperature=0.0), row(temperature=2.0, logprobs=5)]
    drawn = Decoder(30).draw(x, rows)
    assert drawn.tokens.max() < 30
    assert drawn.logprobs[1] is not None
    assert all(token < 30 for token, _ in drawn.logprobs[1].top)
    expected = x[1, :30].log_softmax(-1)[drawn.tokens[1]].item()
    assert drawn.logprobs[1].logprob == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logprobs_raw_and_processed(temperature: float) -> None:
    x = logits(2)
    values = {"temperature": temperature, "top_k": 4, "logit_bias": {3: 4.0}, "logprobs": 6}
    rows = [row(**values), row(**values, logprobs_mode="processed")]
    drawn = Decoder().draw(x, rows)
    raw, processed = drawn.logprobs
    assert raw is not None
    assert processed is not None
    own = x[0].log_softmax(-1)
    assert raw.logprob == pytest.approx(own[drawn.tokens[0]].item(), abs=1e-6)
    assert [token for token, _ in raw.top] == own.topk(6).indices.tolist()
    changed = x[1].clone()
    changed[3] += 4.0
    if temperature:
        kept = changed.topk(4).indices
        changed = torch.full_like(changed, -torch.inf).index_copy(0, kept, changed[kept] / 0.7)
    changed = changed.log_softmax(-1)
    assert processed.logprob == pytest.approx(changed[drawn.tokens[1]].item(), abs=1e-6)
    assert len(processed.top) == (4 if temperature else 6)  # the impossible are left out
    for token, value in processed.top:
        assert value == pytest.approx(changed[token].item(), abs=1e-6)


def test_zero_alternatives_still_give_the_tokens_own() -> None:
    found = token_logprobs(torch.zeros(2, 4), torch.tensor([1, 2]), [0, 1])
    assert [one.logprob for one in found] == pytest.approx([-1.386294, -1.386294], abs=1e-6)
    assert [len(one.top) for one in found] == [0, 1]


def test_the_nucleus_of_a_large_vocabulary_needs_no_full_sort() -> None:
    """Flat and steep rows side by side: the look at the first tokens has to go on for some."""
    x = logits(3, 9000) * torch.tensor([[0.01], [1.0], [4.0]])
    p = torch.tensor([0.95, 0.9, 0.5])
    ordered, order = x.sort(dim=-1, descending=True, stable=True)
    before = ordered.double().softmax(-1).cumsum(-1).roll(1, dims=-1)
    before[:, 0] = 0
    expected = torch.zeros_like(x, dtype=torch.bool).scatter(-1, order, before <= p[:, None])
    found = top_p_mask(x, p).isfinite()
    assert expected.sum(-1)[0] > 8000 > expected.sum(-1)[2]
    assert (found != expected).sum() <= 2  # rounding of the sums at the very border
    for index in range(3):
        alone = top_p_mask(x[index : index + 1], p[index : index + 1])
        assert torch.equal(alone[0].isfinite(), found[index])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_row_is_the_same_alone_and_in_a_batch(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 4))
    x = logits(count, seed=data.draw(st.integers(0, 99)))

    def settings_of(index: int) -> dict[str, object]:
        return {
            "temperature": data.draw(st.sampled_from([0.0, 0.5, 1.5])),
            "top_k": data.draw(st.sampled_from([0, 3, 20])),
            "top_p": data.draw(st.sampled_from([0.3, 0.9, 1.0])),
            "typical_p": data.draw(st.sampled_from([0.5, 1.0])),
            "repetition_penalty": data.draw(st.sampled_from([1.0, 1.5])),
            "presence_penalty": data.draw(st.sampled_from([0.0, -1.0, 2.0])),
            "logit_bias": data.draw(st.sampled_from([{}, {2: 5.0}, {3: -100.0}])),
            "bad_ids": data.draw(st.sampled_from([[], [[1], [2, 3]]])),
            "logprobs": data.draw(st.sampled_from([None, 0, 3])),
            "min_tokens": index,
        }

    values = [settings_of(index) for index in range(count)]
    text = data.draw(st.lists(st.integers(0, VOCAB - 1), max_size=4))

    def rows() -> list[DecodingRow]:
        made = [row([index, 5], seed=index, **one) for index, one in enumerate(values)]
        for one in made:
            for token in text:
                one.take(token)
        return made

    together, decoder = Decoder().draw(x, rows()), Decoder()
    for index, one in enumerate(rows()):
        alone = decoder.draw(x[index : index + 1], [one])
        assert alone.tokens[0] == together.tokens[index]
        assert alone.logprobs[0] == together.logprobs[index]


def test_draws_follow_the_distribution() -> None:
    """Chi-square of 4,000 draws against softmax of the processed logits."""
    x = logits(1)
    draws = 4000
    seeds = row_seeds([1] * draws, [[1]] * draws)
    rows = [row(seed=seed, temperature=1.5, top_k=8) for seed in seeds]
    tokens = Decoder().draw(x.expand(draws, -1), rows).tokens
    chances = filter_logits(x, SamplingRows.of([rows[0].params]))[0].softmax(-1)
    kept = chances > 0
    found = torch.bincount(tokens, minlength=VOCAB).double()
    assert found[~kept].sum() == 0
    expected = chances[kept].double() * draws
    chi_square = ((found[kept] - expected) ** 2 / expected).sum().item()
    assert chi_square < 29.9  # 7 degrees of freedom, one in ten thousand


def test_draws_in_a_large_vocabulary_invert_the_cumulative_distribution() -> None:
    """Against one cumulative sum over the whole row; also where most tokens are impossible."""
    generator = torch.Generator().manual_seed(0)
    for vocab, keep in ((1000, 1.0), (6400, 0.01), (64, 0.5), (65, 1.0)):
        chances = torch.rand(50, vocab, generator=generator) ** 4
        chances[torch.rand(50, vocab, generator=generator) > keep] = 0.0
        chances[:, 3] = 0.1
        uniforms = torch.rand(50, generator=generator, dtype=torch.float64)
        uniforms[:2] = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
        cumulative = chances.double().cumsum(-1)
        target = uniforms[:, None] * cumulative[:, -1:]
        expected = torch.searchsorted(cumulative, target, right=True)[:, 0]
        expected = torch.minimum(expected, (chances > 0).long().cumsum(-1).argmax(-1))
        found = draw(chances, uniforms)
        assert torch.equal(found, expected)
        assert (chances.gather(-1, found[:, None]) > 0).all()
        for index in (0, 1, 7):
            assert draw(chances[index : index + 1], uniforms[index : index + 1]) == found[index]
