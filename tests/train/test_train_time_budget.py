"""A run that was given a time keeps it: with a clock that the test turns, nothing is timed."""

import itertools
import random
import time
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_small import LENGTH, PatternRows, same_weights, small_model, small_trainer, weights_of

from langwright.base import read_json
from langwright.optim import ScheduleConfig, schedule
from langwright.parallel import Alone
from langwright.train import MetricsLog, choosing, language_model_loss
from langwright.train.change_config import ChangeConfig
from langwright.train.changes import Changes
from langwright.train.time_budget import LATE, TimeBudget
from langwright.train.timeline import Timeline

ROWS = 4
STEP_TOKENS = ROWS * LENGTH
EVERY = 50  # updates between evaluations


def _run(folder, speed, *, steps=1000, seconds=1000.0, look=0.0, planned=(), resume=0, begun=0.0):
    """A run with a clock of its own: an update takes `speed(now)` seconds for four rows, an
    evaluation `look` times as long. Returns (seconds it took, what was told, its changes)."""
    timeline = Timeline(PatternRows(), ROWS, steps, by_tokens=True)
    configs = [ChangeConfig.parse(change) for change in planned]
    changes = Changes(configs, timeline, 1e-3, folder, Alone(None))
    changes.resume(resume, [])

    class Plan:
        row_tokens = LENGTH
        total_steps = property(lambda self: timeline.total_steps)
        tokens = staticmethod(timeline.tokens)

    plan = Plan()
    plan.timeline, plan.changes = timeline, changes
    budget = TimeBudget(seconds, plan, look * ROWS, EVERY if look else None)
    now, step, told = begun, resume, []
    while step < timeline.total_steps:
        took = speed(now) * timeline.span(step)[2] / ROWS
        now, step = now + took, step + 1
        budget.trained(timeline.tokens(step) - timeline.tokens(step - 1), took)
        if (shorter := budget.late(step, now)) is not None:
            told.append((step, *shorter))
            changes.shorten(step, shorter)
        if look and (step % EVERY == 0 or step == timeline.total_steps):
            now += look * speed(now)
            budget.paused(look * speed(now), looked=True)
    return now, told, changes


def test_a_steady_machine_is_left_alone(tmp_path):
    took, told, changes = _run(tmp_path, lambda now: 0.97)
    assert took == pytest.approx(970) and not told and not changes.effective
    noise = random.Random(0)
    took, told, _ = _run(tmp_path, lambda now: noise.uniform(0.6, 1.4), steps=970)
    assert not told and took < 1000
    _, told, _ = _run(tmp_path, lambda now: 0.5, look=2.0, steps=1000)
    assert not told
    assert not (tmp_path / "changes.json").exists()


def test_a_quicker_machine_does_no_more_than_was_planned(tmp_path):
    took, told, changes = _run(tmp_path, lambda now: 0.97 if now < 200 else 0.2)
    assert changes.timeline.total_steps == 1000 and took < 400 and not told


@settings(max_examples=80, deadline=None)
@given(
    begin=st.floats(0.0, 970.0),
    factor=st.floats(1.0, 8.0),
    step_seconds=st.sampled_from([0.05, 0.3, 1.0, 4.0]),
    look=st.sampled_from([0.0, 3.0]),
    again=st.floats(0.2, 4.0),
)
def test_a_machine_that_becomes_slower(tmp_path_factory, begin, factor, step_seconds, look, again):
    """Slower at any moment, then once more slower or quicker: late by 5 % at most, and a moment."""
    folder = tmp_path_factory.mktemp("run")

    def speed(now):
        slower = 1.0 if now < begin else factor
        return step_seconds * (slower if now < (begin + 1000) / 2 else max(1.0, again * slower))

    steps = int(970 / step_seconds / (1 + look / EVERY))
    took, told, changes = _run(folder, speed, steps=steps, look=look)
    slowest = step_seconds * factor * max(1.0, again)
    # The speed is measured for 5 s at least, and what is in the window may be older than the news.
    unseen = 3 * slowest + look * slowest + 5.0 * max(1.0, again) * factor
    assert took <= 1000 * (1 + LATE) + unseen
    assert len(told) <= 25
    timeline = changes.timeline
    assert timeline.total_steps <= steps
    assert timeline.place(timeline.total_steps) == pytest.approx(steps)
    lengths = [tokens for _, tokens, _ in told]
    assert lengths == sorted(lengths, reverse=True)  # it only ever becomes shorter


@pytest.mark.parametrize("factor", [1.04, 1.15, 1.5, 2.0, 4.0])
def test_slower_from_the_middle_on(tmp_path, factor):
    took, told, changes = _run(tmp_path, lambda now: 0.97 if now < 500 else 0.97 * factor)
    assert took <= 1050
    assert took >= 930  # the time is made use of
    assert bool(told) == (factor > 1.15)
    for step, _, reason in told:
        assert step > 515 and "s per step now, so all 1,000 steps would take" in told[0][2]
        assert reason in {made.reason for made in changes.effective}


def test_the_first_update_tells_nothing(tmp_path):
    """Blocks are compiled in it: 100 s, and then all is in time."""
    took, told, _ = _run(tmp_path, lambda now: 100.0 if now == 0.0 else 0.85)
    assert not told and took == pytest.approx(100 + 999 * 0.85)


def test_nothing_is_left_to_be_taken_from_the_last_update(tmp_path):
    _, told, changes = _run(tmp_path, lambda now: 30.0, steps=3, seconds=40.0)
    assert not told and not changes.effective


def test_only_evaluations_become_slow(tmp_path):
    """Guessed as 2 updates each, then measured as 12: 20 of them do not fit."""
    timeline = Timeline(PatternRows(), ROWS, 900, by_tokens=True)
    plan = SimpleNamespace(
        row_tokens=LENGTH, total_steps=900, tokens=timeline.tokens, timeline=timeline
    )
    plan.changes = SimpleNamespace(last_shortened=0, length_is_wished=False)
    budget = TimeBudget(1000.0, plan, 2.0 * ROWS, EVERY)
    for _ in range(101):
        budget.trained(STEP_TOKENS, 1.0)
    assert budget.late(100, 101.0) is None  # 800 updates, 16 looks of 2: 933 s
    budget.paused(12.0, looked=True)
    tokens, _ = budget.late(100, 114.0)  # 800 + 16 * 12 = 992 s
    left = tokens // STEP_TOKENS - 100
    looks = -(-(100 + left) // EVERY) - 2
    assert left + 12 * looks <= 0.97 * 886 < left + 1 + 12 * (looks + 1)


def test_a_ramp_that_is_still_to_come_counts_by_its_tokens(tmp_path):
    planned = [{"at": 0.5, "batch_factor": 4}]
    took, told, changes = _run(tmp_path, lambda now: 0.97, planned=planned)
    assert not told and took == pytest.approx(970, rel=0.01)
    took, told, changes = _run(tmp_path, lambda now: 0.97 * (1 + (now > 300)), planned=planned)
    assert told and 930 <= took <= 1050
    assert [made.change.what for made in changes.effective][-1] == {"batch_factor": 4.0}


def test_it_is_shortened_again_at_the_same_place_without_measuring(tmp_path):
    took, told, changes = _run(tmp_path, lambda now: 0.97 if now < 300 else 3.0)
    kept = read_json(tmp_path / "changes.json")
    assert [(k["step"], k["change"]["run_tokens"], k["reason"]) for k in kept] == told
    assert [set(k["change"]) for k in kept] == [{"run_tokens"}] * len(told)
    # A quick machine goes on from before the change, at a moment when all is long late.
    took, again, other = _run(tmp_path, lambda now: 0.01, resume=100, begun=99.0)
    assert not again and took < 99 + 0.97 * 1000
    spans = [changes.timeline.span(s)[1:] for s in range(changes.timeline.total_steps)]
    assert spans == [other.timeline.span(s)[1:] for s in range(other.timeline.total_steps)]
    places = [changes.timeline.place(s) for s in range(len(spans))]
    assert places == [other.timeline.place(s) for s in range(len(spans))]
    # A still slower one: nothing is measured before the known change, and then it is.
    _, slower, _ = _run(tmp_path, lambda now: 9.0, resume=100, begun=99.0)
    assert slower and slower[0][0] >= told[-1][0]


def test_the_schedule_ends_at_the_new_end(tmp_path):
    _, told, changes = _run(tmp_path, lambda now: 0.97 if now < 300 else 3.0)
    timeline, step = changes.timeline, told[-1][0]
    rate = schedule(ScheduleConfig.parse({"kind": "cosine", "floor": 0.1}), timeline.places)
    rates = [rate(timeline.place(s)) for s in range(step - 1, timeline.total_steps)]
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert rates[0] - rates[1] < 0.01  # no jump
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_a_wish_by_hand_is_stronger_than_the_time(tmp_path):
    planned = [{"at_step": 100, "run_tokens": 2000 * STEP_TOKENS}]
    took, told, changes = _run(tmp_path, lambda now: 0.97, planned=planned)
    assert not told and changes.timeline.total_steps == 2000 and took == pytest.approx(1940)


def test_what_cannot_be_written_down_is_not_done(tmp_path):
    (tmp_path / "file").write_text("no folder")
    timeline = Timeline(PatternRows(), ROWS, 100, by_tokens=True)
    said = []
    changes = Changes([], timeline, 1e-3, tmp_path / "file", Alone(None), said.append)
    changes.shorten(10, (20 * STEP_TOKENS, "slow"))
    assert timeline.total_steps == 100 and not changes.effective
    assert len(said) == 1 and "changes.json cannot be written" in said[0]


# -- whole runs -----------------------------------------------------------------------------------


class Clock:
    """In place of time.perf_counter: every forward pass turns it on."""

    def __init__(self, monkeypatch, slow_after=10**9, factor=1.0):
        self.now, self.passes, self.after, self.factor = 0.0, 0, slow_after, factor
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def __call__(self, model, batch):
        if torch.is_grad_enabled():
            self.passes += 1
            self.now += 0.5 * (self.factor if self.passes > self.after else 1.0)
        return language_model_loss(model, batch)


@pytest.fixture
def planned(monkeypatch):
    """A plan of 60 updates (of two passes, so 1 s each) in 62 s, without a measurement."""

    def choose(seconds, extra, choices, probe):
        return choices.decide("total_steps", 60, "test")

    monkeypatch.setattr(choosing, "choose_steps_for_time", choose)
    monkeypatch.setattr(choosing, "peak_rate", lambda choices: None)
    monkeypatch.setattr("langwright.train.report.peak_rate", lambda choices: None)


OPTIONS = {"steps": None, "minutes": 62 / 60, "checkpoint_minutes": 100.0, "evaluate_every": 20}


def _trainer(folder, model, clock, **options):
    valid = {"held out": PatternRows(seed=1, epoch_rows=8)}
    return small_trainer(folder, model, objective=clock, valid=valid, **{**OPTIONS, **options})


def _lines(folder):
    return list(MetricsLog(folder / "metrics.jsonl").read())


def test_a_steady_run_ends_as_planned(tmp_path, monkeypatch, planned):
    clock = Clock(monkeypatch)
    metrics = _trainer(tmp_path, small_model(), clock).run()
    assert metrics["steps"] == 60 and metrics["seconds"] == 60.0
    assert not (tmp_path / "changes.json").exists()


class Killed(Exception):
    pass


def test_a_slowed_run_ends_in_time_and_a_killed_one_alike(tmp_path, monkeypatch, planned):
    whole = small_model()
    metrics = _trainer(tmp_path / "whole", whole, Clock(monkeypatch, 40, 3.0)).run()
    assert 58 <= metrics["seconds"] <= 1.05 * 62 and metrics["steps"] < 45
    records = _lines(tmp_path / "whole")
    told = [record for record in records if "change" in record]
    assert told and all("s per step now" in record["reason"] for record in told)
    assert told[-1]["change"]["run_tokens"] == metrics["tokens"]
    updates = [record for record in records if "loss" in record]
    before, last = (record["lr"] for record in updates[-2:])
    # Linear to a floor of a tenth: one more update would find it.
    assert last - 3e-4 == pytest.approx(before - last)
    assert [r["step"] for r in records if "valid_loss" in r][-1] == metrics["steps"]

    # Killed behind the first change, it goes on from before it, on a machine that is quick again.
    class Kill(Clock):
        def __call__(self, model, batch):
            if self.passes == 2 * (told[0]["step"] + 3):
                raise Killed
            return super().__call__(model, batch)

    cut, often = tmp_path / "cut", {"checkpoint_every": 10}
    assert told[0]["step"] % 10 and told[-1]["step"] < told[0]["step"] + 3
    with pytest.raises(Killed):
        _trainer(cut, small_model(), Kill(monkeypatch, 40, 3.0), **often).run()
    assert read_json(cut / "changes.json") == read_json(tmp_path / "whole" / "changes.json")
    model = small_model()
    trainer = _trainer(cut, model, Clock(monkeypatch), **often)
    again = trainer.run()
    assert again["resumes"] == 1 and again["steps"] == metrics["steps"]
    assert same_weights(weights_of(whole), weights_of(model))
    kept = ("step", "tokens", "loss", "lr", "change", "reason")
    both = [_lines(cut), records]
    cut_records, whole_records = [[{k: r[k] for k in kept if k in r} for r in rs] for rs in both]
    assert cut_records == whole_records
    assert read_json(cut / "changes.json") == read_json(tmp_path / "whole" / "changes.json")
    assert trainer.setup.choices["total_steps"] == 60


def test_the_person_is_told_in_one_line(tmp_path, monkeypatch, planned):
    trainer = _trainer(tmp_path, small_model(), Clock(monkeypatch, 40, 3.0))
    said = []
    trainer._say = said.append
    metrics = trainer.run()
    lines = [line for line in said if "run_tokens" in line]
    assert len(lines) == len(read_json(tmp_path / "changes.json"))
    assert f"{metrics['steps']:,} steps in all" in lines[-1] and "s per step now" in lines[-1]
    assert trainer.report.bar.total == metrics["tokens"]
