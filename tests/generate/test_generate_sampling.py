"""Sampling: the facts' toy vocabulary, and laws that hold for any logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.generate import (
    Sampling,
    SamplingRows,
    apply_repetition_penalty,
    apply_temperature,
    draw,
    min_p_mask,
    parse_sampling,
    process_logits,
    row_seeds,
    sample,
    top_k_mask,
    top_p_mask,
    uniform_for,
)

WORDS = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
LOGITS = torch.tensor([[4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]])


def probabilities(logits: torch.Tensor) -> dict[str, float]:
    return dict(zip(WORDS, logits.softmax(-1)[0].tolist(), strict=True))


def counts(logits: torch.Tensor, draws: int = 1000) -> list[int]:
    torch.manual_seed(123)
    found = [torch.multinomial(logits[0].softmax(-1), 1).item() for _ in range(draws)]
    return torch.bincount(torch.tensor(found), minlength=len(WORDS)).tolist()


def row(**values: float) -> SamplingRows:
    defaults = {"temperature": 1.0, "top_p": 1.0}
    return SamplingRows.of([Sampling(**{**defaults, **values})])


def test_plain_distribution_and_draws() -> None:
    assert LOGITS.argmax().item() == 3
    exact = probabilities(LOGITS)
    assert exact["forward"] == pytest.approx(0.5721, abs=5e-5)
    assert exact["toward"] == pytest.approx(0.3576, abs=5e-5)
    assert exact["closer"] == pytest.approx(0.0609, abs=5e-5)
    torch.manual_seed(123)
    assert torch.multinomial(LOGITS[0].softmax(-1), 1).item() == 3
    assert counts(LOGITS) == [73, 0, 0, 582, 2, 0, 0, 343, 0]


def test_low_temperature() -> None:
    cold = apply_temperature(LOGITS, torch.tensor([0.1]))
    assert probabilities(cold)["forward"] == pytest.approx(0.9910, abs=5e-5)
    assert probabilities(cold)["toward"] == pytest.approx(0.0090, abs=5e-5)
    assert probabilities(cold)["pizza"] == pytest.approx(3e-38, rel=0.2)
    assert counts(cold) == [0, 0, 0, 985, 0, 0, 0, 15, 0]


def test_high_temperature() -> None:
    hot = apply_temperature(LOGITS, torch.tensor([5.0]))
    expected = [0.1546, 0.0750, 0.0429, 0.2421, 0.0869, 0.0454, 0.0430, 0.2203, 0.0898]
    torch.testing.assert_close(hot.softmax(-1)[0], torch.tensor(expected), atol=5e-5, rtol=0)
    assert counts(hot) == [165, 75, 42, 239, 71, 46, 32, 227, 103]


def test_top_3() -> None:
    masked = top_k_mask(LOGITS, torch.tensor([3]))
    assert masked.topk(3).indices.tolist() == [[3, 7, 0]]
    expected = torch.tensor([0.0615, 0, 0, 0.5775, 0, 0, 0, 0.3610, 0])
    torch.testing.assert_close(masked.softmax(-1)[0], expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.5, {"forward": 1.0}),
        (0.9, {"forward": 0.6154, "toward": 0.3846}),
        (0.95, {"forward": 0.5775, "toward": 0.3610, "closer": 0.0615}),
    ],
)
def test_nucleus(p: float, expected: dict[str, float]) -> None:
    found = probabilities(top_p_mask(LOGITS, torch.tensor([p])))
    assert {word: chance for word, chance in found.items() if chance > 0} == pytest.approx(
        expected, abs=5e-5
    )


def test_defaults_are_those_of_the_source() -> None:
    default = Sampling()
    assert (default.max_tokens, default.temperature, default.top_p) == (200, 1.0, 0.9)


def test_temperature_and_k_commute_and_p_comes_after_k() -> None:
    k, t = torch.tensor([4]), torch.tensor([2.5])
    one = apply_temperature(top_k_mask(LOGITS, k), t)
    assert torch.equal(one, top_k_mask(apply_temperature(LOGITS, t), k))
    # At T=5 the mass before "closer" is .4624 among all and .7494 among the three likeliest.
    both = process_logits(LOGITS, row(temperature=5.0, top_k=3, top_p=0.6))
    assert both.isfinite().nonzero()[:, 1].tolist() == [3, 7]
    alone = process_logits(LOGITS, row(temperature=5.0, top_p=0.6))
    assert 0 in alone.isfinite().nonzero()[:, 1].tolist()


def test_min_p() -> None:
    # toward has .3576/.5721 = .625 of forward, closer .1065
    kept = min_p_mask(LOGITS, torch.tensor([0.5])).isfinite().nonzero()[:, 1].tolist()
    assert kept == [3, 7]
    assert min_p_mask(LOGITS, torch.tensor([0.1])).isfinite().sum().item() == 3
    assert torch.equal(min_p_mask(LOGITS, torch.tensor([0.0])), LOGITS)


def test_repetition_penalty_by_sign() -> None:
    seen = torch.tensor([[True, False, True] + [False] * 6])
    found = apply_repetition_penalty(LOGITS, seen, torch.tensor([2.0]))
    assert found[0, 0].item() == pytest.approx(2.255)
    assert found[0, 2].item() == pytest.approx(-3.80)
    assert torch.equal(found[0, [1, 3]], LOGITS[0, [1, 3]])


def test_penalty_acts_on_greedy_and_before_temperature() -> None:
    seen = torch.zeros_like(LOGITS, dtype=torch.bool)
    seen[0, 3] = True
    rows = row(temperature=0.0, repetition_penalty=1.2)  # 6.75 / 1.2 < 6.28
    assert sample(LOGITS, rows, torch.tensor([0.5]), seen).item() == 7
    warm = process_logits(LOGITS, row(temperature=2.0, repetition_penalty=1.2), seen)
    assert warm[0, 3].item() == pytest.approx(6.75 / 1.2 / 2, rel=1e-6)


def test_top_k_keeps_exactly_k_on_ties_and_per_row() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 2.0, 0.0]])
    kept = top_k_mask(logits, torch.tensor([2, 3, 0])).isfinite()
    assert kept.tolist() == [
        [False, True, True, False],  # the lower ids of three equals
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_top_p_ties_take_the_lower_ids() -> None:
    kept = top_p_mask(torch.zeros(1, 4), torch.tensor([0.3])).isfinite()
    assert kept.tolist() == [[True, True, False, False]]  # mass before: 0, .25, .5
    assert top_p_mask(torch.zeros(1, 4), torch.tensor([0.0])).isfinite().sum().item() == 1


def test_temperature_zero_is_greedy_in_a_mixed_batch() -> None:
    rows = SamplingRows.of([Sampling(temperature=0.0), Sampling(temperature=5.0, top_p=1.0)])
    found = sample(LOGITS.expand(2, -1), rows, torch.tensor([0.999999, 0.999999]))
    assert found.tolist() == [3, 8]  # greedy ignores the uniform; the last word ends the CDF


def test_k_of_one_is_greedy_whatever_the_uniform() -> None:
    for uniform in (0.0, 0.5, 0.999999):
        assert sample(LOGITS, row(top_k=1), torch.tensor([uniform])).item() == 3


def test_draw_inverts_the_cumulative_distribution() -> None:
    chances = torch.tensor([[0.25, 0.0, 0.5, 0.25]])
    uniforms = [0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999]
    found = draw(chances.expand(len(uniforms), -1), torch.tensor(uniforms, dtype=torch.float64))
    assert found.tolist() == [0, 0, 2, 2, 3, 3]


def test_draw_never_takes_a_masked_token() -> None:
    chances = torch.tensor([[0.3, 0.7, 0.0, 0.0]])
    top = torch.tensor([1.0 - 2.0**-53], dtype=torch.float64)
    assert draw(chances * (1 + 1e-7), top).item() == 1
    assert draw(torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1)).item() == 2


def test_uniforms_are_uniform_and_depend_on_seed_and_position() -> None:
    values = torch.tensor([uniform_for(7, position) for position in range(4000)])
    assert values.min() >= 0
    assert values.max() < 1
    histogram = torch.histc(values, 10, 0, 1)
    chi_square = ((histogram - 400) ** 2 / 400).sum().item()
    assert chi_square < 33.7  # 9 degrees of freedom, one in ten thousand
    assert uniform_for(7, 3) == uniform_for(7, 3) != uniform_for(8, 3)


def test_row_seeds_follow_the_prompt_not_the_place() -> None:
    seeds = row_seeds([5, 5, 5], [[1, 2], [3], [1, 2]])
    assert len(set(seeds)) == 3
    assert row_seeds([5], [[3]]) == [seeds[1]]
    assert row_seeds([5], [[1, 2]]) == [seeds[0]]
    assert row_seeds([6], [[1, 2]]) != [seeds[0]]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(UserError, match="temperature"):
        parse_sampling({"temprature": 1.0})
    with pytest.raises(UserError, match="top_p"):
        parse_sampling({"top_p": 1.5})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_filter_keeps_a_prefix_of_the_order(data: st.DataObject) -> None:
    """Whatever the settings: something is kept, the likeliest among it, and nothing likelier than
    a kept token is dropped; each row is treated as if it were alone."""
    batch, vocab = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    values = st.integers(-6, 6)  # few values: many ties
    table = data.draw(
        st.lists(st.lists(values, min_size=vocab, max_size=vocab), min_size=batch, max_size=batch)
    )
    logits = torch.tensor(table, dtype=torch.float32)
    each = [
        Sampling(
            temperature=data.draw(st.sampled_from([0.3, 1.0, 3.0])),
            top_k=data.draw(st.integers(0, vocab + 2)),
            top_p=data.draw(st.sampled_from([0.0, 0.4, 0.9, 1.0])),
            min_p=data.draw(st.sampled_from([0.0, 0.2, 1.0])),
        )
        for _ in range(batch)
    ]
    together = process_logits(logits, SamplingRows.of(each))
    for index, one in enumerate(each):
        alone = process_logits(logits[index : index + 1], SamplingRows.of([one]))[0]
        assert torch.equal(alone, together[index])
        kept = alone.isfinite()
        assert kept[logits[index].argmax()]
        if one.top_k:
            assert kept.sum() <= one.top_k
        if (~kept).any():
            assert logits[index][kept].min() >= logits[index][~kept].max()


def test_a_diverged_model_still_gives_a_token() -> None:
    broken = torch.full((1, 5), torch.nan)
    for temperature in (0.0, 1.0):
        token = sample(
            broken, row(temperature=temperature, top_k=3, top_p=0.9), torch.tensor([0.5])
        )
        assert 0 <= token.item() < 5
