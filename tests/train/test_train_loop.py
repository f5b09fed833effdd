"""The loop: it learns, it keeps what it should, and it goes on where it stopped."""

import json
import os
import random
import signal
import threading

import pytest
import torch
from train_small import (
    PatternRows,
    run_with_kills,
    same_weights,
    small_config,
    small_model,
    small_trainer,
    weights_of,
)

from langwright.base import UserError, read_json
from langwright.tokenizer import CharTokenizer
from langwright.train import TrainConfig, language_model_loss, newest_checkpoint, open_checkpoint
from langwright.train.checkpoint import model_tensors


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _updates(folder):
    return [record for record in _lines(folder) if "loss" in record]


class Stop(Exception):
    """Stands for a crash at some call."""


class CrashAt:
    """The usual objective, until call number `call`."""

    def __init__(self, call, error=Stop):
        self.left, self.error = call, error

    def __call__(self, model, batch):
        self.left -= 1
        if self.left < 0:
            raise self.error()
        return language_model_loss(model, batch)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_loss_goes_down_and_is_reported(tmp_path, name):
    lr = {"adamw": 5e-3, "muon": 0.03}[name]
    model = small_model()
    trainer = small_trainer(
        tmp_path,
        model,
        steps=80,
        batch_tokens=256,
        micro_batch_rows=16,
        lr=None,
        optimizer={"name": name, "lr": lr},
        valid={"a": PatternRows(seed=0), "b": PatternRows(seed=0, epoch_rows=32)},
    )
    metrics = trainer.run()
    updates = _updates(tmp_path)
    assert [record["step"] for record in updates] == list(range(1, 81))
    assert updates[0]["loss"] == pytest.approx(2.56, abs=0.25)  # ln 13, nothing known
    assert metrics["train_loss"] < 1.3 and metrics["valid_loss"] < 1.3
    assert metrics["best_valid_loss"] <= metrics["valid_loss"]
    assert metrics["tokens"] == 80 * 256 == updates[-1]["tokens"]
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    looks = [record for record in _lines(tmp_path) if "valid_loss" in record]
    assert [record["step"] for record in looks] == list(range(8, 81, 8))
    assert {"valid_a", "valid_b", "valid_perplexity"} <= looks[0].keys()
    assert updates[1]["lr"] == pytest.approx(lr) and updates[0]["lr"] == pytest.approx(lr / 2)
    assert not model.training
    assert json.loads(json.dumps(metrics)) == metrics


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path):
    settings = {"steps": 12, "checkpoint_every": 5, "optimizer": {"name": "muon"}, "lr": 0.02}
    whole = small_model(dropout_residual=0.2)
    small_trainer(tmp_path / "whole", whole, **settings).run()
    for call in (3, 11, 9, 13):  # two micro-batches per step
        model = small_model(dropout_residual=0.2)
        with pytest.raises(Stop):
            small_trainer(tmp_path / "cut", model, objective=CrashAt(call), **settings).run()
    model = small_model(dropout_residual=0.2)
    metrics = small_trainer(tmp_path / "cut", model, **settings).run()
    assert same_weights(weights_of(whole), weights_of(model))
    assert metrics["resumes"] >= 2
    assert [r["step"] for r in _updates(tmp_path / "cut")] == list(range(1, 13))
    for a, b in zip(_updates(tmp_path / "whole"), _updates(tmp_path / "cut")):
        assert (a["loss"], a["grad_norm"], a["lr"]) == (b["loss"], b["grad_norm"], b["lr"])


def _kill_test(folder, kills, **settings):
    settings = {"checkpoint_every": 4, "evaluate_every": 15, **settings}
    reference = run_with_kills(folder / "reference", [], **settings)
    moments = [(random.randint(1, 20), random.uniform(0.0, 0.02)) for _ in range(kills)]
    cut = run_with_kills(folder / "cut", moments, **settings)
    assert same_weights(reference, cut)
    steps = [record["step"] for record in _updates(folder / "cut")]
    assert steps == list(range(1, settings["steps"] + 1))
    looks = [r["step"] for r in _lines(folder / "cut") if "valid_loss" in r]
    assert looks == list(range(15, settings["steps"] + 1, 15))


def test_sigkill_three_times_same_bytes(tmp_path):
    _kill_test(tmp_path, 3, steps=60, optimizer={"name": "muon"}, lr=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sigkill_twenty_times_same_bytes(tmp_path, precision):
    _kill_test(tmp_path, 20, steps=300, precision=precision)


def test_a_broken_checkpoint_is_passed_over(tmp_path):
    settings = {"steps": 12, "checkpoint_every": 4, "keep_last": 3}
    whole = small_model()
    small_trainer(tmp_path / "whole", whole, **settings).run()
    folder = tmp_path / "cut"
    with pytest.raises(Stop):
        small_trainer(folder, objective=CrashAt(22), **settings).run()
    newest = folder / "checkpoints" / "step-0000008"
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "model.safetensors").write_bytes(data)
    (folder / "checkpoints" / "step-0000009").mkdir()  # no state.json
    half = folder / "checkpoints" / ".step-0000010.partial"
    half.mkdir()
    told = []
    found = newest_checkpoint(folder / "checkpoints", told.append)
    assert found is not None and found.path.name == "step-0000004"
    assert len(told) == 2 and "content" in told[1] and "not found" in told[0]
    assert not half.exists()
    model = small_model()
    small_trainer(folder, model, **settings).run()
    assert same_weights(weights_of(whole), weights_of(model))

    (newest / "optimizer.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="5 bytes"):
        open_checkpoint(newest)
    (newest / "optimizer.safetensors").unlink()
    with pytest.raises(UserError, match="missing"):
        open_checkpoint(newest)


def test_checkpoints_kept_and_the_best_model(tmp_path):
    """Validation that gets worse: the best model is an early one, and can be the result."""
    rows = PatternRows(seed=0, epoch_rows=2, holes=False)  # two rows learned by heart
    settings = {
        "steps": 60,
        "checkpoint_every": 10,
        "keep_last": 2,
        "evaluate_every": 5,
        "lr": 0.02,
    }
    settings["valid"] = {"other": PatternRows(seed=7)}
    last = small_model()
    metrics = small_trainer(tmp_path / "last", last, rows, **settings).run()
    names = sorted(path.name for path in (tmp_path / "last" / "checkpoints").iterdir())
    assert names == ["best", "step-0000050", "step-0000060"]
    looks = [r for r in _lines(tmp_path / "last") if "valid_loss" in r]
    best = min(looks, key=lambda record: record["valid_loss"])
    assert metrics["best_step"] == best["step"] < 60
    assert metrics["best_valid_loss"] == best["valid_loss"] < metrics["valid_loss"]
    kept = open_checkpoint(tmp_path / "last" / "checkpoints" / "best")
    assert kept.state["step"] == best["step"]
    assert not same_weights(kept.weights(), model_tensors(last))
    result = small_model()
    small_trainer(tmp_path / "best", result, rows, final="best", **settings).run()
    assert same_weights(kept.weights(), model_tensors(result))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on(tmp_path, number):
    whole = small_model()
    small_trainer(tmp_path / "whole", whole).run()

    class Interrupt(CrashAt):
        def __call__(self, model, batch):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), number)
            return language_model_loss(model, batch)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        small_trainer(tmp_path / "cut", objective=Interrupt(9)).run()
    assert signal.getsignal(number) is before
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step-0000005"]
    model = small_model()
    small_trainer(tmp_path / "cut", model).run()
    assert same_weights(weights_of(whole), weights_of(model))


def test_training_works_outside_the_main_thread(tmp_path):
    result = {}
    thread = threading.Thread(target=lambda: result.update(small_trainer(tmp_path).run()))
    thread.start()
    thread.join(60)
    assert result["steps"] == 8


def test_another_run_in_the_folder_is_refused(tmp_path):
    small_trainer(tmp_path).run()
    for changes in ({"lr": 1e-3}, {"rows": PatternRows(seed=3)}, {"model": small_model(seed=1)}):
        with pytest.raises(UserError, match="other settings, data or model"):
            small_trainer(tmp_path, **changes).run()
    with pytest.raises(Stop):  # the same before there is a checkpoint
        small_trainer(tmp_path / "new", objective=CrashAt(2)).run()
    with pytest.raises(UserError, match="this folder holds a training run"):
        small_trainer(tmp_path / "new", lr=1e-3).run()
    metrics = small_trainer(tmp_path, evaluate_every=3, keep_last=5).run()  # nothing left to do
    assert metrics["steps"] == 8
    assert len(_updates(tmp_path)) == 8


class Spoiled:
    """Not finite at the given calls."""

    def __init__(self, bad, stop_at=-1):
        self.calls, self.bad, self.stop_at = -1, bad, stop_at

    def __call__(self, model, batch):
        if not torch.is_grad_enabled():  # a second look at a bad batch
            return language_model_loss(model, batch)
        self.calls += 1
        if self.calls == self.stop_at:
            raise Stop
        loss_sum, weight = language_model_loss(model, batch)
        return loss_sum * (float("inf") if self.calls in self.bad else 1.0), weight


def test_bad_steps_are_counted_and_too_many_stop_the_run(tmp_path):
    settings = {"micro_batch_rows": 4, "max_bad_steps": 3}
    metrics = small_trainer(tmp_path / "a", objective=Spoiled({1, 2, 4}), **settings).run()
    assert metrics["non_finite_steps"] == 3
    updates = _updates(tmp_path / "a")
    assert [r["step"] for r in updates if r.get("skipped")] == [2, 3, 5]
    assert updates[1]["loss"] is None and updates[3]["loss"] is not None
    with pytest.raises(UserError, match="not finite in 3") as error:
        small_trainer(tmp_path / "b", objective=Spoiled({3, 4, 5}), **settings).run()
    assert "step" in error.value.where and "rows" in error.value.where


def test_length_of_a_run(tmp_path):
    def steps(name, rows=None, **changes):
        changes = {"steps": None, **changes}
        return small_trainer(tmp_path / name, rows=rows, **changes).run()["steps"]

    assert steps("tokens", tokens=64 * 3 + 1) == 4
    assert steps("epochs", epochs=0.5) == 8  # 64 rows, 4 per batch
    assert steps("pass") == 16
    with pytest.raises(UserError, match="no end"):
        steps("endless", rows=PatternRows(epoch_rows=None))
    with pytest.raises(UserError, match="less than one row"):
        steps("small", batch_tokens=5)
    with pytest.raises(UserError, match="one length"):
        TrainConfig.parse({"steps": 3, "minutes": 1})


def test_a_budget_of_minutes_becomes_steps_and_measuring_leaves_no_trace(tmp_path):
    settings = {"steps": None, "minutes": 2 / 60, "optimizer": {"name": "muon"}, "lr": 0.02}
    model, plain = small_model(), small_model()
    total = small_trainer(tmp_path / "budget", model, **settings).run()["steps"]
    choice = read_json(tmp_path / "budget" / "choices.json")["choices"]["total_steps"]
    assert choice["value"] == total > 2 and "measured" in choice["reason"]
    settings = {**settings, "minutes": None, "steps": total}
    small_trainer(tmp_path / "plain", plain, **settings).run()
    assert same_weights(weights_of(model), weights_of(plain))


def test_a_budget_is_measured_once(tmp_path):
    class CrashOnceChosen(CrashAt):
        def __call__(self, model, batch):
            self.left += not (tmp_path / "choices.json").exists()
            return super().__call__(model, batch)

    settings = {"steps": None, "minutes": 1 / 60}
    with pytest.raises(Stop):
        small_trainer(tmp_path, objective=CrashOnceChosen(3), **settings).run()
    choices = (tmp_path / "choices.json").read_text()
    metrics = small_trainer(tmp_path, **settings).run()
    assert (tmp_path / "choices.json").read_text() == choices
    assert metrics["steps"] == json.loads(choices)["choices"]["total_steps"]["value"]


def test_automatic_choices_are_explained_and_reused(tmp_path):
    settings = {"precision": "auto", "micro_batch_rows": None, "compile": "auto", "device": "auto"}
    settings["checkpoint_every"] = 2
    with pytest.raises(Stop):
        crash = CrashAt(40)
        small_trainer(tmp_path, objective=crash, steps=60, **settings).run()
    first = read_json(tmp_path / "choices.json")
    assert all(entry["reason"] for entry in first["choices"].values())
    names = ["device", "precision", "attention", "checkpointing", "micro_batch_rows", "lanes"]
    names += ["compile", "total_steps"]
    assert list(first["choices"]) == names
    assert first["choices"]["compile"]["value"] is False  # far too short to pay
    small_trainer(tmp_path, steps=60, **settings).run()
    assert read_json(tmp_path / "choices.json") == first


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_learn_and_resume(tmp_path, precision):
    settings = {"steps": 8, "precision": precision, "checkpoint_every": 3, "micro_batch_rows": 4}
    whole, model = small_model(), small_model()
    small_trainer(tmp_path / "whole", whole, objective=Spoiled({1}), **settings).run()
    losses = [record["loss"] for record in _updates(tmp_path / "whole")]
    assert losses[-1] < losses[0] < 2.8 and losses[1] is None
    assert all(p.dtype == torch.float32 for p in whole.parameters())
    with pytest.raises(Stop):
        crash = Spoiled({1}, stop_at=5)
        small_trainer(tmp_path / "cut", model, objective=crash, **settings).run()
    model = small_model()
    small_trainer(tmp_path / "cut", model, **settings).run()
    assert same_weights(weights_of(whole), weights_of(model))
    if precision == "fp16":  # halved in step 2, and still so after the resume
        scales = [record["loss_scale"] for record in _updates(tmp_path / "cut")]
        assert scales[-1] == 2.0**15


class FailingRows(PatternRows):
    """Validation rows that cannot be read at some call."""

    def __init__(self, fail_at=-1, **options):
        super().__init__(**options)
        self.calls, self.fail_at = 0, fail_at

    def gather(self, indices):
        self.calls += 1
        if self.calls == self.fail_at:
            raise Stop
        return super().gather(indices)


def test_an_evaluation_that_was_cut_short_is_made_after_the_resume(tmp_path):
    settings = {"evaluate_every": 2, "checkpoint_every": 1}
    with pytest.raises(Stop):
        valid = {"v": FailingRows(fail_at=2, seed=1)}
        small_trainer(tmp_path, valid=valid, **settings).run()
    assert [r["step"] for r in _lines(tmp_path) if "valid_loss" in r] == [2]
    valid = {"v": FailingRows(seed=1)}
    small_trainer(tmp_path, valid=valid, **settings).run()
    assert [r["step"] for r in _lines(tmp_path) if "valid_loss" in r] == [2, 4, 6, 8]
    assert valid["v"].calls == 3  # step 4's was made again, step 2's was not


def test_validation_sets_are_weighted_by_their_tokens(tmp_path):
    valid = {"few": PatternRows(seed=1, epoch_rows=2), "many": PatternRows(seed=2, epoch_rows=30)}
    metrics = small_trainer(tmp_path, valid=valid, lr=0.03).run()
    tokens = {name: rows.batch(0, rows.epoch_rows).tokens for name, rows in valid.items()}
    total = sum(metrics[f"valid_{name}"] * count for name, count in tokens.items())
    assert metrics["valid_loss"] == pytest.approx(total / sum(tokens.values()), rel=1e-6)
    plain = (metrics["valid_few"] + metrics["valid_many"]) / 2
    assert abs(metrics["valid_loss"] - plain) > 1e-4


def test_samples_on_the_way(tmp_path):
    letters = CharTokenizer(list("abcdefghijklm"))
    settings = {"sample_prompts": ["abc"], "sample_tokens": 5, "sample_every": 4}
    with pytest.raises(UserError, match="tokenizer"):
        small_trainer(tmp_path, **settings)
    model, without = small_model(), small_model()
    small_trainer(tmp_path, model, tokenizer=letters, **settings).run()
    samples = {r["step"]: r["samples"] for r in _lines(tmp_path) if "samples" in r}
    assert list(samples) == [4, 8]
    assert samples[4][0]["prompt"] == "abc" and len(samples[4][0]["text"]) == 5
    small_trainer(tmp_path / "without", without).run()
    assert same_weights(weights_of(model), weights_of(without))  # looking changes nothing


def test_shorthand_for_the_rate():
    config = small_config(lr=0.5, optimizer={"name": "muon", "lr": 0.1})
    assert config.optim.lr == 0.5 and config.optim.name == "muon"
    assert small_config(lr=None, optimizer={"lr": 0.1}).optim.lr == 0.1
