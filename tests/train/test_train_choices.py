"""Automatic choices: each by its rule or its measurement, with a reason."""

import time

import pytest
import torch
from train_small import PatternRows, small_model, small_trainer

from langwright.base import UserError
from langwright.optim import OptimConfig, build_optimizer
from langwright.train import Updater, language_model_loss, probe, update
from langwright.train.choices import Choices, choose_device, choose_micro_rows
from langwright.train.compiling import blocks_of, undo_compile


@pytest.fixture
def small_probe():
    model = small_model()
    optimizer = build_optimizer(model, OptimConfig())
    updater = Updater(
        model,
        optimizer,
        language_model_loss,
        device=torch.device("cpu"),
        micro_rows=2,
        clip=1.0,
        seed=0,
    )
    return probe.Probe(updater, PatternRows(), batch_rows=4)


@pytest.fixture
def choices():
    made = Choices("key")
    made.decide("device", "cpu", "test")
    return made


def _fake_compiler(change):
    def compile_blocks(model):
        for block in blocks_of(model):
            plain = block._call_impl
            block._compiled_call_impl = lambda *a, plain=plain, **k: change(plain, *a, **k)

    return compile_blocks


def _broken(plain, *arguments, **options):
    raise RuntimeError("no C++ compiler\nand much more")


def _slower(plain, *arguments, **options):
    time.sleep(0.05)
    return plain(*arguments, **options)


def test_a_compiler_that_fails_is_told_and_undone(small_probe, choices, monkeypatch):
    monkeypatch.setattr(update, "compile_blocks", _fake_compiler(_broken))
    common = {"steps": None, "seconds": 3600.0}
    assert probe.choose_compile("auto", choices, small_probe, **common) is False
    assert choices.values["compile"]["reason"] == (
        "the compiler failed: RuntimeError: no C++ compiler"
    )
    assert small_probe.micro_seconds(2) > 0  # runs again as plain Python
    with pytest.raises(UserError, match="no C\\+\\+ compiler") as error:
        probe.choose_compile(True, choices, small_probe, **common)
    assert "compile = false" in error.value.fix


def test_compiling_must_pay(small_probe, choices, monkeypatch):
    def decide(wanted="auto", steps=None, seconds=None):
        value = probe.choose_compile(wanted, choices, small_probe, steps=steps, seconds=seconds)
        return value, choices.values["compile"]["reason"]

    assert decide(seconds=20.0)[0] is False and "win back" in decide(seconds=20.0)[1]
    assert decide(steps=3)[0] is False and "win back" in decide(steps=3)[1]
    monkeypatch.setattr(update, "compile_blocks", _fake_compiler(_slower))
    value, reason = decide(seconds=3600.0)
    assert value is False and "ms compiled" in reason
    assert all(block._compiled_call_impl is None for block in blocks_of(small_probe.updater.model))

    def quicker(plain, x, *arguments, **options):
        return x + 0.0

    monkeypatch.setattr(update, "compile_blocks", _fake_compiler(quicker))
    assert decide(seconds=3600.0)[0] is True
    undo_compile(small_probe.updater.model)
    assert decide(False) == (False, "as asked")


def test_precision_by_measurement(small_probe, choices, monkeypatch):
    def decide(fp32, bf16):
        times = {torch.float32: fp32, torch.bfloat16: bf16}
        model = small_probe.updater.model
        monkeypatch.setattr(small_probe, "micro_seconds", lambda rows: times[model.compute_dtype])
        return probe.choose_precision("auto", choices, True, small_probe)

    assert decide(fp32=1.0, bf16=0.5) == "bf16"
    assert decide(fp32=0.5, bf16=1.0) == "fp32"
    assert "fp32 500.0 ms against bf16 1000.0 ms" in choices.values["precision"]["reason"]
    assert probe.choose_precision("auto", choices, False, small_probe) == "fp32"
    choices.decide("device", "cuda", "test")
    assert probe.choose_precision("auto", choices, True, small_probe) == "bf16"


def test_steps_for_a_time_leave_room_for_evaluations(small_probe, choices, monkeypatch):
    monkeypatch.setattr(small_probe, "update_seconds", lambda at_least: 0.1)

    def steps(extra):
        return probe.choose_steps_for_time(100.0, extra, choices, small_probe)

    assert steps(lambda total, seconds: 0.0) == 970  # 3 % are kept back
    assert steps(lambda total, seconds: 47.0) == 500
    assert steps(lambda total, seconds: total * seconds) == 485
    assert steps(lambda total, seconds: 1000.0) == 1


def test_a_time_for_few_updates_is_told_with_what_to_do(small_probe, choices, monkeypatch):
    said = []
    choices.say = said.append

    def steps(step_seconds):
        said.clear()
        monkeypatch.setattr(small_probe, "update_seconds", lambda at_least: step_seconds)
        return probe.choose_steps_for_time(97.0, lambda total, s: 0.0, choices, small_probe)

    assert steps(4.7) == 20 and not any("warning" in line for line in said)
    assert steps(19.85) == 4
    # 20 updates are 397 s, with 3 % kept back 409 s: 312 s more than there are, so 6 minutes.
    assert "only 4 updates" in said[-1]
    assert "give more minutes (about 6 more for 20 updates)" in said[-1]
    assert steps(1000.0) == 1 and "only 1 update in" in said[-1]


def test_micro_batches(choices):
    def choose(wanted=None, rows=64, length=256, fits=lambda rows: True):
        return choose_micro_rows(wanted, rows, length, choices, fits)

    assert choose(rows=256) == 64  # 16,384 tokens
    assert choose(wanted=5) == 5 and choose(wanted=500) == 64
    assert choose(length=100_000) == 1
    choices.decide("device", "cuda", "test")
    tried = []

    def fits(rows):
        tried.append(rows)
        return rows <= 17

    assert choose(rows=100, fits=fits) == 13 and tried == [100, 50, 25, 13]
    with pytest.raises(UserError, match="one row does not fit"):
        choose(fits=lambda rows: False)


def test_a_device_that_is_not_there(choices):
    with pytest.raises(UserError, match="no such device"):
        choose_device("tpu", choices)
    assert choose_device("cpu", choices) == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_training_is_the_same_training(tmp_path, precision):
    losses = {}
    for compiled in (False, True):
        trainer = small_trainer(
            tmp_path / str(compiled), compile=compiled, precision=precision, steps=20
        )
        losses[compiled] = trainer.run()["train_loss"]
    assert losses[True] == pytest.approx(losses[False], rel=1e-4 if precision == "fp32" else 1e-2)
