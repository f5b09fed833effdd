"""The engine's threads: set, measured, and measured anew when steps become slow."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from engine_cases import GREEDY, engine_of, preset, random_model

from langwright.generate import threads
from langwright.generate.threads import Calibration, Slowdown, StepThreads, calibrate_threads


@pytest.fixture(autouse=True)
def own_threads():
    """Each test's number of threads is its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def measured(monkeypatch):
    """What a calibration finds, in turn."""
    numbers = [1, 2, 1, 2, 1]
    taken = []

    def calibrate(step):
        step()
        count = numbers[len(taken)]
        torch.set_num_threads(count)
        taken.append(count)
        return Calibration(count, {1: 0.01 * count, 2: 0.012})

    monkeypatch.setattr(threads, "calibrate_threads", calibrate)
    return taken


def test_why_a_number_was_chosen_is_told():
    assert Calibration(2, {1: 0.012, 2: 0.0081}).told() == (
        "2 threads: a token takes 8.1 ms, 12.0 ms with 1"
    )
    assert Calibration(1, {1: 0.012, 2: 0.0121, 4: 0.03}).told() == (
        "1 thread: a token takes 12.0 ms, 12.1 ms with 2, 30.0 ms with 4"
    )
    assert Calibration(1, {1: 0.012}).told() == "1 thread: there is one core"
    assert StepThreads(lambda: None, 2).told() == "2 threads: as set"
    assert StepThreads(lambda: None, None).told() == "2 threads: as PyTorch has them"
    real = StepThreads(lambda: torch.ones(4).sum(), "auto")
    assert real.last is not None and real.count == real.last.threads == torch.get_num_threads()
    assert real.told() == real.last.told() and real.calibrations == 1


def test_the_first_turn_only_warms_up(monkeypatch):
    """By a clock of the test's own: 100 s at first, then 1 s with a thread and 2 s with two."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(threads, "time", clock)
    monkeypatch.setattr(threads, "candidates", lambda cores: [1, 2])
    known = set()

    def step():
        count = torch.get_num_threads()
        clock.now += 1.0 * count if count in known else 100.0
        known.add(count)

    assert calibrate_threads(step, rounds=1) == Calibration(1, {1: 1.0, 2: 2.0})
    assert torch.get_num_threads() == 1  # though two were tried last


def test_a_step_that_fails_leaves_the_threads_as_they_were(monkeypatch):
    monkeypatch.setattr(threads, "candidates", lambda cores: [1, 2])
    torch.set_num_threads(3)

    def step():
        if torch.get_num_threads() == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_threads(step)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("slow", "told"), [(4, False), (5, True)])
def test_one_step_in_twenty_may_be_slow(slow, told):
    watch = Slowdown(100)
    assert not any(watch.add(1.0) for _ in range(100))
    assert any(watch.add(3.0 if step < slow else 1.0) for step in range(100)) == told


def test_only_like_steps_are_compared(measured):
    """More or longer texts take longer by nature."""
    watched = StepThreads(lambda: None, "auto", count=10)
    assert (watched.count, watched.calibrations) == (1, 1)
    for seconds, lengths in ((1.0, [5]), (5.0, [5] * 8), (9.0, [900]), (1.9, [7])):
        for _ in range(25):
            watched.look(lengths, seconds)
    assert watched.calibrations == 1
    for _ in range(10):
        watched.look([6], 2.5)
    assert (watched.count, watched.calibrations) == (2, 2)
    for _ in range(30):  # slow from now on: that is how it is
        watched.look([6], 2.5)
        watched.look([], 100.0)
    assert watched.calibrations == 2
    for _ in range(20):
        watched.look([6], 6.0)
    assert (watched.count, watched.calibrations) == (1, 3)


def test_all_kinds_of_steps_start_anew(measured):
    """After a measurement the times of before were those of other threads."""
    watched = StepThreads(lambda: None, "auto", count=10)
    for lengths, seconds in (([6], 1.0), ([6] * 8, 1.0), ([6], 2.5)):
        for _ in range(10):
            watched.look(lengths, seconds)
    assert watched.calibrations == 2
    for _ in range(10):
        watched.look([6] * 8, 2.5)
    assert watched.calibrations == 2


def test_slowness_that_was_told_is_where_it_starts_anew():
    watch = Slowdown(10)
    told = [any(watch.add(seconds) for _ in range(10)) for seconds in (1.0, 2.5, 2.5, 4.0, 6.0)]
    assert told == [False, True, False, False, True]


def test_a_fixed_number_stays(measured):
    fixed = StepThreads(lambda: None, 2, count=2)
    for seconds in (1.0, 1.0, 9.0, 9.0, 9.0, 9.0):
        fixed.look([1], seconds)
    assert (fixed.count, fixed.calibrations, measured) == (2, 0, [])


def test_the_running_engine_measures_anew(measured, monkeypatch):
    """A step that becomes slow in the engine itself; prompts, which take long, do not count."""
    engine = engine_of(random_model(preset("llama-2m")), threads="auto", block_tokens=16)
    engine.threads._window = 10
    assert (engine.stats().threads, engine.stats().calibrations) == (1, 1)
    clock = Clock(engine)
    monkeypatch.setattr("langwright.generate.engine.time.perf_counter", clock)
    engine.generate([[1, 2]], GREEDY.replace(max_tokens=27))  # 8 ... 15 and 16 ... 31 tokens long
    assert engine.stats().calibrations == 1 and clock.prompts == 1
    clock.slow = 3.0
    for _ in range(2):
        engine.generate([[1, 2]], GREEDY.replace(max_tokens=27))
    assert (engine.stats().threads, engine.stats().calibrations) == (2, 2)
    assert engine.stats().failures == 0


class Clock:
    """A clock by which a step takes 1 s, `slow` times as long later, and a prompt 100 s."""

    def __init__(self, engine):
        self.now, self.slow, self.prompts, self.odd = 0.0, 1.0, 0, False
        plan = engine._scheduler.plan
        self.new = 0

        def planned():
            works = plan()
            self.new = max((work.new for work in works), default=0)
            return works

        engine._scheduler.plan = planned

    def __call__(self):
        self.odd = not self.odd
        if not self.odd:  # the end of a step
            self.prompts += self.new > 1
            self.now += 100.0 if self.new > 1 else self.slow
        return self.now


def test_engines_tell_what_they_have(measured):
    model = random_model(preset("llama-2m"))
    fixed = engine_of(model, threads=2)
    assert fixed.stats().threads == 2 and fixed.stats().calibrations == 0
    assert fixed.threads.told() == "2 threads: as set" and not measured
    assert engine_of(model, threads="auto").threads.last == Calibration(1, {1: 0.01, 2: 0.012})


def test_a_thread_that_starts_later_has_the_number():
    """The server's engine runs in a thread of its own."""
    torch.set_num_threads(2)
    found = []

    def work():
        torch.ones(1 << 18).sum()
        found.append(torch.get_num_threads())

    for number in (1, 2):
        torch.set_num_threads(number)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [1, 2]
