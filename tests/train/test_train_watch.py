"""Watching a run: spikes, updates that were skipped, batches that are written down."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from train_small import PatternRows, same_weights, small_model, small_trainer, weights_of

from langwright.base import UserError, read_json
from langwright.optim import OptimConfig, build_optimizer
from langwright.tokenizer import CharTokenizer
from langwright.train import Updater, language_model_loss
from langwright.train.bad_batch import examine, read_bad_batch
from langwright.train.metrics import History
from langwright.train.watch import LASTING, SpikeWatch


def _record(step, loss, norm=1.0):
    return {"step": step, "loss": loss, "grad_norm": norm}


def _run(losses, norms=None, threshold=6.0):
    """(records, sentences) of a run with these losses."""
    watch = SpikeWatch(threshold)
    norms = norms or [1.0] * len(losses)
    records = [_record(i, *pair) for i, pair in enumerate(zip(losses, norms), 1)]
    told = [(r["step"], watch.see(r)) for r in records]
    return watch, records, [(step, text) for step, text in told if text]


def _noise(count, seed=0, level=2.0, scale=0.02):
    return (level + scale * np.random.default_rng(seed).standard_normal(count)).tolist()


def test_a_jump_and_its_end_are_told_once():
    losses = _noise(200)
    losses[150:153] = [3.5, 3.2, 2.9]
    watch, records, told = _run(losses)
    assert [step for step, _ in told] == [151, 154]
    assert "jumped to 3.5" in told[0][1] and "3 updates after its jump at step 151" in told[1][1]
    marked = [r["step"] for r in records if "loss_spike" in r]
    assert marked == [151, 152, 153] and watch.count == 1
    assert records[150]["loss_spike"] == pytest.approx(1.5 / 0.02, rel=0.35)


def test_a_jump_ends_where_losses_were_before_not_where_it_would_begin():
    losses = _noise(200)
    losses[150:152] = [3.5, 2.09]  # 4 to 5 deviations: less than a jump, and not back
    _, records, told = _run(losses)
    assert [step for step, _ in told] == [151, 153]
    assert [r["step"] for r in records if "loss_spike" in r] == [151, 152]


def test_a_falling_curve_with_noise_has_no_spikes():
    steps = np.arange(2000)
    for seed in range(5):
        noise = 0.03 * np.random.default_rng(seed).standard_normal(2000)
        losses = (2.0 + 5.0 * np.exp(-steps / 80) + noise).tolist()
        norms = np.exp(0.2 * np.random.default_rng(seed + 9).standard_normal(2000)).tolist()
        watch, records, told = _run(losses, norms)
        assert told == [] and watch.count == 0
        assert not any("norm_spike" in record for record in records)


def test_a_loss_that_stays_high_is_told_and_becomes_the_new_level():
    losses = _noise(100) + _noise(200, seed=1, level=2.6)
    watch, _, told = _run(losses)
    assert [step for step, _ in told] == [101, 100 + LASTING]
    assert "has not come back since step 101" in told[1][1] and "before 2.0" in told[1][1]
    assert watch.began is None and watch.count == 1


def test_norms_are_marked_without_words():
    norms = [1.0] * 60
    norms[40] = 50.0
    _, records, told = _run(_noise(60), norms)
    assert told == [] and [r["step"] for r in records if "norm_spike" in r] == [41]


def test_nothing_is_a_spike_early_or_when_switched_off():
    assert _run([2.0] * 10 + [9.0] * 5)[2] == []
    assert _run([2.0] * 50 + [9.0] * 5, threshold=None)[2] == []
    assert len(_run([2.0] * 50 + [9.0] * 5)[2]) == 1


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=80), st.integers(0, 80))
@settings(max_examples=50, deadline=None)
def test_a_resumed_watch_says_the_same(losses, cut):
    whole, records, _ = _run(losses)
    part = SpikeWatch(6.0)
    part.remember(records[:cut])
    for i, loss in enumerate(losses[cut:], cut + 1):
        part.see(_record(i, loss))
    assert (part.count, part.began) == (whole.count, whole.began)


def test_bad_steps_in_a_row_are_neighbours():
    history = History()
    for step in (4, 5, 9):  # with log_every = 10 the good steps between leave no line
        history.add({"step": step, "loss": None, "skipped": True})
    assert (history.bad_steps, history.bad_in_a_row) == (3, 1)


class SpoiledRow:
    """The usual objective; rows whose first target row sum is in `bad` have an infinite loss."""

    def __init__(self, bad, factor=math.inf):
        self.bad, self.factor = bad, factor

    def __call__(self, model, batch):
        loss_sum, weight = language_model_loss(model, batch)
        hit = any(tuple(row) in self.bad for row in batch.inputs.tolist())
        return loss_sum * (self.factor if hit else 1.0), weight


def _bad_rows(numbers):
    rows = PatternRows(epoch_rows=None)
    return {tuple(rows.batch(n, 1).inputs[0].tolist()) for n in numbers}


def _unique_row():
    """A row of the first 32 whose text no other of them has."""
    texts = [tuple(row) for row in PatternRows(epoch_rows=None).batch(0, 32).inputs.tolist()]
    return next(n for n in range(4, 28) if texts.count(texts[n]) == 1)


def test_a_bad_batch_is_written_down_with_its_worst_row(tmp_path):
    row = _unique_row()
    step = row // 4 + 1
    letters = CharTokenizer(list("abcdefghijklm"))
    spoiled = SpoiledRow(_bad_rows([row]))
    rows = PatternRows(epoch_rows=None)
    metrics = small_trainer(
        tmp_path, small_model(), rows, objective=spoiled, tokenizer=letters
    ).run()
    assert metrics["non_finite_steps"] == 1
    path = tmp_path / "bad_batches" / f"step-{step:07d}.json"
    about = read_json(path)
    assert about["reason"] == "the loss was not finite" and about["loss"] == "inf"
    assert about["rows"] == [4 * step - 4, 4 * step - 1] and about["worst_rows"][0] == row
    assert [math.isfinite(float(x)) for x in about["row_losses"]].count(False) == 1
    wanted = rows.batch(4 * step - 4, 4)
    assert about["texts"][str(row)] == letters.decode(wanted.inputs[row % 4].tolist())
    kept = read_bad_batch(path)
    assert torch.equal(kept.inputs, wanted.inputs) and torch.equal(kept.targets, wanted.targets)
    assert kept.tokens == wanted.tokens
    assert len(list(path.parent.iterdir())) == 2


def test_gradients_that_are_not_finite_are_named(tmp_path):
    """A finite loss whose gradient overflows in one parameter only."""

    class Steep:
        def __call__(self, model, batch):
            loss_sum, weight = language_model_loss(model, batch)
            if torch.is_grad_enabled() and batch.inputs[0].tolist() == first:
                scale = model.blocks[0].attention_norm.weight
                loss_sum = loss_sum + (scale - scale.detach()).abs().sum().sqrt()  # slope inf * 0
            return loss_sum, weight

    rows = PatternRows(epoch_rows=None)
    first = rows.batch(8, 1).inputs[0].tolist()  # of step 3
    small_trainer(tmp_path, small_model(), rows, objective=Steep(), micro_batch_rows=4).run()
    about = read_json(tmp_path / "bad_batches" / "step-0000003.json")
    assert about["reason"] == "the gradient was not finite"
    assert about["parameters_not_finite"] == ["blocks.0.attention_norm.weight"]


def test_the_run_stops_after_n_and_says_where_to_look(tmp_path):
    spoiled = SpoiledRow(_bad_rows(range(12, 32)))
    rows = PatternRows(epoch_rows=None)
    with pytest.raises(UserError, match="not finite in 3 updates in a row") as error:
        small_trainer(tmp_path, small_model(), rows, objective=spoiled, max_bad_steps=3).run()
    names = sorted(p.name for p in (tmp_path / "bad_batches").glob("*.json"))
    last = names[-1].removesuffix(".json")
    assert len(names) == 2 and last in error.value.found  # the first and the last of the three
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["skipped"] and lines[-1]["step"] == int(last.removeprefix("step-"))


def test_watching_changes_no_weight(tmp_path):
    """A second look at batches, statistics and traces leave the run as it was."""
    row = _unique_row()
    spoiled = SpoiledRow(_bad_rows([row]))
    settings = {"objective": spoiled, "optimizer": {"name": "muon"}, "lr": 0.02}
    seen, unseen = (small_model(dropout_residual=0.2) for _ in range(2))
    for model, name, extra in (
        (seen, "seen", {"statistics_every": 1, "profile_at": 2}),
        (unseen, "unseen", {}),
    ):
        rows = PatternRows(epoch_rows=None)
        small_trainer(tmp_path / name, model, rows, **settings, **extra).run()
    assert same_weights(weights_of(seen), weights_of(unseen))
    a, b = (
        [json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("seen", "unseen")
    )
    assert [(r["loss"], r["grad_norm"]) for r in a] == [(r["loss"], r["grad_norm"]) for r in b]


def test_a_spike_in_a_run_is_counted_and_written_down(tmp_path):
    rows = PatternRows(epoch_rows=None)
    row = 4 * 30 + 1
    spoiled = SpoiledRow(_bad_rows([row]), factor=1e4)
    metrics = small_trainer(
        tmp_path, small_model(), rows, objective=spoiled, steps=34, log_every=10, lr=1e-6
    ).run()
    hit = {i // 4 + 1 for i in range(34 * 4) if _bad_rows([i]) <= spoiled.bad}
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    spikes = [r for r in lines if r.get("loss_spike", 0) > 100]
    assert {r["step"] for r in spikes} == {s for s in hit if s > 20}
    assert metrics["loss_spikes"] >= 1 and metrics["non_finite_steps"] == 0
    about = read_json(tmp_path / "bad_batches" / f"step-{spikes[0]['step']:07d}.json")
    assert about["reason"] == "the loss jumped"


def test_a_sudden_drop_is_no_spike():
    assert _run(_noise(60) + [0.5] * 5)[2] == []


def test_a_second_look_leaves_everything_as_it_was():
    model = small_model(dropout_residual=0.5)
    updater = _updater(model)
    batch = PatternRows().batch(0, 5)
    before = weights_of(model)
    found = examine(updater, 3, batch, gradients=True)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert same_weights(before, weights_of(model))
    assert found.parameters == [] and found.note is None
    model.eval()
    with torch.no_grad():
        rows = [language_model_loss(model, row) for row in batch.split(1)]
    expected = [float(total) / count for total, count in rows]
    assert found.losses == pytest.approx(expected, rel=1e-6)  # without dropout
    assert found.worst[0] == int(np.argmax(expected))


def test_large_batches_are_looked_at_in_groups(monkeypatch):
    monkeypatch.setattr("langwright.train.bad_batch.MOST_PASSES", 3)
    found = examine(_updater(small_model()), 1, PatternRows().batch(0, 8), gradients=False)
    assert (len(found.losses), found.group) == (3, 3)  # rows 0-2, 3-5, 6-7
    assert f"row {100 + 3 * found.worst[0]}, loss" in found.told(100)


def test_running_out_of_memory_at_the_second_look_is_noted():
    def full(model, batch):
        raise torch.OutOfMemoryError

    found = examine(_updater(small_model(), full), 1, PatternRows().batch(0, 2), gradients=True)
    assert found.losses == [] and "out of memory" in found.note


def test_what_is_no_batch_is_said(tmp_path):
    with pytest.raises(UserError, match="no batch here"):
        read_bad_batch(tmp_path / "step-0000001.json")
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a batch"):
        read_bad_batch(tmp_path / "x.json")
    save_file({"weights": torch.zeros(2)}, tmp_path / "y.safetensors")
    with pytest.raises(UserError, match="not a batch"):
        read_bad_batch(tmp_path / "y.safetensors")


def _updater(model, objective=language_model_loss):
    optimizer = build_optimizer(model, OptimConfig(name="adamw", lr=1e-2))
    device = torch.device("cpu")
    return Updater(model, optimizer, objective, device=device, micro_rows=2, clip=1.0, seed=0)
