"""Learning-rate schedules against the textbook's figures and against each other."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.optim import ScheduleConfig, learning_rate_reference, schedule, warmup_length

FIGURES = {
    0: 0.0,
    1: 1e-4,
    5: 5e-4,
    10: 1e-3,
    35: 8.68198e-4,
    60: 5.5e-4,
    85: 2.31802e-4,
    110: 1e-4,
    111: 1e-4,
    5000: 1e-4,
}


@pytest.mark.parametrize(("t", "expected"), FIGURES.items())
def test_reference_has_the_printed_figures(t, expected):
    rate = learning_rate_reference(t, warmup=10, end=110, max_lr=1e-3, min_lr=1e-4)
    assert rate == pytest.approx(expected, rel=1e-6, abs=1e-15)


def test_cosine_is_the_reference_one_step_later():
    config = ScheduleConfig(kind="cosine", warmup_steps=10, floor=0.1)
    multiplier = schedule(config, total_steps=109)
    for step in range(200):
        expected = learning_rate_reference(step + 1, warmup=10, end=110, max_lr=1e-3, min_lr=1e-4)
        assert 1e-3 * multiplier(step) == pytest.approx(expected, rel=1e-12)


def test_linear_falls_evenly_to_its_floor():
    multiplier = schedule(ScheduleConfig(kind="linear", warmup_steps=0, floor=0.2), 99)
    assert [multiplier(s) for s in (0, 49, 99, 500)] == pytest.approx([0.992, 0.6, 0.2, 0.2])


def test_wsd_is_flat_and_then_falls():
    config = ScheduleConfig(kind="wsd", warmup_steps=4, floor=0.0, decay_fraction=0.25)
    multiplier = schedule(config, 100)
    assert multiplier(0) == 0.25
    assert {multiplier(s) for s in range(3, 76)} == {1.0}
    assert multiplier(76) == pytest.approx(24 / 25)
    assert multiplier(99) == pytest.approx(1 / 25)


def test_constant_and_warmup_start():
    multiplier = schedule(ScheduleConfig(kind="constant", warmup_steps=10, start=0.5), 50)
    assert multiplier(0) == pytest.approx(0.55)
    assert multiplier(9) == multiplier(49) == 1.0


@settings(deadline=None)
@given(
    kind=st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    total=st.integers(1, 400),
    fraction=st.floats(0, 0.9),
    floor=st.floats(0, 1),
    decay=st.floats(0.01, 1),
)
def test_every_schedule_rises_then_falls_and_no_update_is_wasted(
    kind, total, fraction, floor, decay
):
    config = ScheduleConfig(kind=kind, warmup_fraction=fraction, floor=floor, decay_fraction=decay)
    multiplier = schedule(config, total)
    rates = [multiplier(step) for step in range(total)]
    top = warmup_length(config, total)
    assert all(0 < rate <= 1 for rate in rates)
    assert all(a <= b for a, b in pairwise(rates[:top]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[top:]))
    assert max(rates) > 1 - 1 / (total - top + 1.5) * math.pi  # the peak is reached or neared


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match="warm-up is longer"):
        schedule(ScheduleConfig(warmup_steps=11), 10)
    with pytest.raises(UserError, match="at least one step"):
        schedule(ScheduleConfig(), 0)
