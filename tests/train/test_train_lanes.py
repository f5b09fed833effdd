"""Micro-batches that run at the same time give what one after another gives."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from train_small import PatternRows, same_weights, small_model, small_trainer, weights_of

from langwright.base import read_json
from langwright.model import prepare_compiler
from langwright.optim import OptimConfig, build_optimizer
from langwright.train import Updater, lane_choice, language_model_loss
from langwright.train.choices import Choices
from langwright.train.compiling import blocks_of, compile_blocks, undo_compile
from langwright.train.lane_choice import choose_lanes, reconsider_lanes
from langwright.train.lanes import Lanes
from langwright.train.probe import Probe

lanes_module = sys.modules["langwright.train.lanes"]


def _updater(model, micro_rows: int, lanes: int) -> Updater:
    updater = Updater(
        model,
        build_optimizer(model, OptimConfig(name="adamw", lr=1e-2)),
        language_model_loss,
        device=torch.device("cpu"),
        micro_rows=micro_rows,
        clip=1.0,
        seed=0,
    )
    updater.use_lanes(lanes)
    return updater


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("lanes", "micro_rows"), [(2, 4), (2, 1), (3, 3)])
def test_gradients_of_lanes_equal_the_big_batch(tied: bool, lanes: int, micro_rows: int) -> None:
    batch = PatternRows().batch(0, 8)
    model = small_model(tied=tied)
    whole_loss, _ = _updater(model, 8, 1).accumulate(0, batch)
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    updater = _updater(model, micro_rows, lanes)
    for _ in range(2):  # gradients must not be left in the lanes
        model.zero_grad()
        loss, _ = updater.accumulate(0, batch)
        assert float(loss) == pytest.approx(float(whole_loss), rel=1e-6)
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.grad, whole[name], rtol=1e-5, atol=1e-8)


def test_lanes_see_every_update_and_repeat_to_the_bit() -> None:
    ends = []
    for lanes in (1, 2, 2):
        model = small_model()
        updater = _updater(model, 2, lanes)
        for step in range(5):
            updater.update(step, PatternRows().batch(8 * step, 8), multiplier=1.0)
        ends.append(weights_of(model))
    assert same_weights(ends[1], ends[2])
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6)


def test_compiled_lanes_equal_plain_ones(monkeypatch) -> None:
    """Traced for the compiler, its C++ left out. Its passes go from lane to lane once, then side
    by side, and back: `undo_compile` reaches every lane."""
    traced = []

    def compile_blocks(model):
        prepare_compiler()
        for block in blocks_of(model):
            block.compile(backend="aot_eager", fullgraph=True, dynamic=False)
        traced.append(model)

    monkeypatch.setattr(lanes_module, "compile_blocks", compile_blocks)
    batch = PatternRows().batch(0, 8)
    model = small_model()
    updater = _updater(model, 4, 2)
    plain = {}
    for compiled in (False, True, True, False):
        model.zero_grad()
        if compiled and not traced:
            updater.compile()
            assert traced == updater.lanes.models
        elif not compiled:
            updater.undo_compile()
        updater.accumulate(0, batch)
        blocks = [block for one in updater.lanes.models for block in blocks_of(one)]
        assert all((block._compiled_call_impl is not None) == compiled for block in blocks)
        for name, p in model.named_parameters():
            expected = plain.setdefault(name, p.grad.clone())
            torch.testing.assert_close(p.grad, expected, rtol=1e-5, atol=1e-8)


def test_compiled_lanes_have_the_compiler_s_settings() -> None:
    """Torch's settings are each thread's own; without a compiled block they are left alone."""
    lanes = Lanes(small_model(), 2)
    found = []

    def tags(model, index):
        found.append(torch.compiler.config.cache_key_tag)

    with torch.compiler.config.patch(cache_key_tag=""):  # in torch 2.11 that of all threads
        lanes.map(tags, 2)
        lanes.compile()
        lanes.map(tags, 2)
    lanes.close()
    assert [tag.count("langwright-") for tag in found] == [0, 0, 1, 1]


@pytest.mark.parametrize("forms", [1, 8, 50])
def test_the_compiler_is_prepared_once(forms: int) -> None:
    def prepare() -> None:
        limit = torch._dynamo.config.recompile_limit
        for _ in range(2):
            prepare_compiler(forms)
        found.append((limit, torch._dynamo.config.recompile_limit))
        found.append(torch.compiler.config.cache_key_tag.count("langwright-"))

    found: list[object] = []
    thread = threading.Thread(target=prepare)
    thread.start()
    thread.join()
    before, after = found[0]
    assert after == max(before, forms) and found[1] == 1


def test_blocks_and_the_final_norm_are_compiled() -> None:
    model = small_model()
    parts = [*blocks_of(model), model.norm]
    compile_blocks(model)
    assert all(part._compiled_call_impl is not None for part in parts)
    undo_compile(model)
    assert all(part._compiled_call_impl is None for part in parts)


@pytest.mark.parametrize(("asked", "rows"), [(None, 8), (None, 64), (6, 6), (40, 8)])
def test_rows_of_a_lane(monkeypatch, asked: int | None, rows: int) -> None:
    """At most 8,192 tokens each, at most its part of the batch, and no more than asked for."""
    model = small_model()
    updater = _updater(model, asked or rows, 1)
    probe = Probe(updater, PatternRows(), batch_rows=16)
    choices = Choices("key")
    monkeypatch.setattr(lane_choice.rules, "LANE_TOKENS", 4 * probe.rows.sequence_length)
    choose_lanes(2, choices, probe, asked)
    assert choices["lanes"] == 2 and choices["micro_batch_rows"] == (rows if asked else 4)
    updater.use_lanes(1)


def test_the_compiler_sees_one_lane_at_a_time() -> None:
    """The first pass after `compile` runs in one lane after another, the next ones do not wait."""
    lanes = Lanes(small_model(), 2)
    lanes.compile()
    lanes.undo_compile()  # the order of the passes only
    both = threading.Barrier(2)
    running = []

    def alone(model, index):
        running.append(index)
        time.sleep(0.02)
        assert running == [index]
        running.remove(index)

    lanes.map(alone, 2)
    lanes.map(lambda model, index: both.wait(timeout=10), 2)
    lanes.close()


def test_a_run_with_lanes_goes_on_exactly(tmp_path: Path) -> None:
    whole = small_trainer(tmp_path / "whole", lanes=2)
    whole.run()
    choices = read_json(tmp_path / "whole" / "choices.json")["choices"]
    assert choices["lanes"]["value"] == 2
    assert choices["micro_batch_rows"]["value"] == 2
    part = small_trainer(tmp_path / "part", lanes=2, checkpoint_every=3)
    update = part._housekeeping

    def stop_at_five(step: int) -> None:
        update(step)
        if step == 5:
            raise RuntimeError("as if killed")

    part._housekeeping = stop_at_five
    with pytest.raises(RuntimeError, match="as if killed"):
        part.run()
    again = small_trainer(tmp_path / "part", lanes=2, checkpoint_every=3)
    again.run()
    assert again.resumes == 1
    assert same_weights(weights_of(whole.model), weights_of(again.model))


def test_dropout_forbids_lanes(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, model=small_model(dropout_residual=0.1), lanes=2, steps=3)
    trainer.run()
    choice = read_json(tmp_path / "choices.json")["choices"]["lanes"]
    assert choice["value"] == 1
    assert "dropout" in choice["reason"]


def test_compiled_lanes_must_pay(monkeypatch) -> None:
    """In a long run the way without lanes is measured too, compiled, and the quicker one stays."""
    monkeypatch.setattr(lanes_module, "compile_blocks", lambda model: None)
    monkeypatch.setattr("langwright.train.update.compile_blocks", lambda model: None)

    def reconsidered(several: float, one: float, **length: object) -> tuple[object, ...]:
        updater = _updater(small_model(), 2, 2)
        probe = Probe(updater, PatternRows(), batch_rows=4)
        measured = iter([several, one])
        monkeypatch.setattr(probe, "batch_seconds", lambda batch: next(measured))
        choices = Choices("key")
        choices.decide("compile", True, "test")
        choices.decide("lanes", 2, "test")
        choices.decide("micro_batch_rows", 2, "test")
        reconsider_lanes(None, choices, probe, 4, **{"steps": None, "seconds": None, **length})
        count = 1 if updater.lanes is None else updater.lanes.count
        assert choices["lanes"] == count and choices["micro_batch_rows"] == updater.micro_rows
        return count, updater.micro_rows

    assert reconsidered(1.0, 0.9, seconds=3600.0) == (1, 4)
    assert reconsidered(1.0, 0.99, seconds=3600.0) == (2, 2)
    assert reconsidered(1.0, 0.5, seconds=100.0) == (2, 2)  # too short to compile anew
    assert reconsidered(1.0, 0.5, steps=100) == (2, 2)
    assert reconsidered(1.0, 0.9, steps=3600) == (1, 4)
