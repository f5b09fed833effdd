"""metrics.jsonl, what is read off it, and the sinks."""

import json
import os
import sys
import types

import pytest

from langwright.base import UserError
from langwright.plan.rules import even_part
from langwright.train import History, MetricsLog
from langwright.train.config import TrainConfig
from langwright.train.sinks import Guarded, numbers, open_sinks


def test_cutting_back_drops_later_and_half_written_lines(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.cut_back(0) == []
    log.write([{"step": s, "loss": float(s)} for s in range(1, 6)])
    log.write([{"step": 3, "valid_loss": 1.0}])
    with open(log.path, "a") as file:
        file.write('{"step": 6, "lo')
    kept = log.cut_back(3)
    assert [record["step"] for record in kept] == [1, 2, 3, 3]
    log.write([{"step": 4, "loss": 0.5}])
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [
        1,
        2,
        3,
        3,
        4,
    ]


def _feed(history, pairs):
    notes = []
    for i, (train, valid) in enumerate(pairs, 1):
        history.add({"step": 10 * i, "loss": train})
        history.add({"step": 10 * i, "valid_loss": valid})
        notes.append(history.stall_note())
    return notes


def test_a_stalled_validation_is_mentioned_once():
    notes = _feed(History(), [(3, 3), (2, 2.5), (1.5, 2.6), (1, 2.7), (0.5, 2.9), (0.4, 3.0)])
    assert [note is not None for note in notes] == [False] * 4 + [True, False]
    assert "step 20" in notes[4] and "2.500" in notes[4] and "0.500" in notes[4]


def test_no_note_while_validation_improves_or_training_does_not():
    assert not any(_feed(History(), [(3 - i / 9, 3 - i / 10) for i in range(9)]))
    assert not any(_feed(History(), [(2, 2.0)] + [(2 + i / 9, 2.1) for i in range(9)]))


def test_history_counts_bad_steps():
    history = History()
    for step, bad in enumerate([0, 1, 1, 0, 1], 1):
        record = {"step": step, "loss": None if bad else 1.0}
        history.add(record | ({"skipped": True} if bad else {}))
    assert (history.bad_steps, history.bad_in_a_row, history.last_loss) == (3, 1, 1.0)
    history.add({"step": 6, "valid_loss": None})
    assert history.best_loss is None and not history.is_best(None)


def test_micro_batches_divide_evenly_where_they_can():
    assert even_part(8, 100) == 8
    assert even_part(64, 32) == 32
    assert even_part(48, 32) == 24
    assert even_part(67, 32) == 32  # a prime: a ragged end is better than rows one by one
    assert even_part(6, 1) == 1


def test_tensorboard_gets_the_numbers(tmp_path):
    loading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    (sink,) = open_sinks(TrainConfig.parse({"tensorboard": True}), tmp_path, 0)
    sink.write([{"step": 1, "loss": 2.5, "skipped": True, "lr": None}, {"step": 2, "loss": 2.0}])
    sink.write([{"step": 2, "samples": [{"prompt": "a", "text": "b"}]}])
    sink.close()
    events = loading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 2.5), (2, 2.0)]
    assert numbers({"step": 1, "a": 2, "b": True, "c": "x", "d": None}) == {"a": 2.0}


def test_a_missing_sink_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match="not installed") as error:
        open_sinks(TrainConfig.parse({"wandb": "project"}), tmp_path, 0)
    assert "pip install" in error.value.fix


def test_a_full_disk_loses_no_line(tmp_path, monkeypatch):
    told = []
    log = MetricsLog(tmp_path / "metrics.jsonl", told.append)
    log.write([{"step": 1}])
    write, full = os.write, [True]

    def failing(descriptor, data):
        if not full[0]:
            return write(descriptor, data)
        if len(data) > 5:  # a part still fits
            return write(descriptor, bytes(data[:5]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", failing)
    log.write([{"step": 2}])
    log.write([{"step": 3}])
    assert [record["step"] for record in log.read()] == [1]
    assert log.path.read_text() == '{"step": 1}\n'
    full[0] = False
    log.write([{"step": 4}])
    assert [record["step"] for record in log.read()] == [1, 2, 3, 4]
    assert len(told) == 2 and "No space left" in told[0] and "nothing was lost" in told[1]


def test_a_sink_that_fails_is_told_once_and_training_goes_on(tmp_path):
    class Broken:
        calls = 0

        def write(self, records):
            self.calls += 1
            raise ConnectionError("no network")

        def close(self):
            self.calls += 1

    told, inner = [], Broken()
    sink = Guarded(inner, "Somewhere", told.append)
    sink.write([{"step": 1}])
    sink.write([{"step": 2}])
    sink.close()
    assert inner.calls == 1
    assert len(told) == 1 and "Somewhere failed (ConnectionError: no network)" in told[0]


def test_trackio_and_wandb_get_the_numbers(tmp_path, monkeypatch):
    """Stand-ins with the two libraries' interface."""
    calls = []

    def library(name):
        def init(**options):
            calls.append((name, "init", options))
            return module

        module = types.ModuleType(name)
        module.init = init
        module.log = lambda values, step: calls.append((name, step, values))
        module.finish = lambda: calls.append((name, "finish", None))
        return module

    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, library(name))
    config = TrainConfig.parse({"wandb": "a", "trackio": "b"})
    sinks = open_sinks(config, tmp_path, 0)
    for sink in sinks:
        sink.write([{"step": 3, "loss": 1.5, "skipped": True}])
        sink.close()
    assert [(c[0], c[1]) for c in calls if c[1] == "init"] == [
        ("wandb", "init"),
        ("trackio", "init"),
    ]
    assert {c[2]["project"] for c in calls if c[1] == "init"} == {"a", "b"}
    assert [c for c in calls if c[1] == 3] == [(n, 3, {"loss": 1.5}) for n in ("wandb", "trackio")]
