"""Statistics and traces that were asked for; figures that arrive without being waited for."""

import gzip
import json

import pytest
import torch
from torch import nn
from train_small import LENGTH, PatternRows, small_model, small_trainer

from langwright.dataset import Batch
from langwright.optim import OptimConfig, build_optimizer
from langwright.train import Updater, language_model_loss
from langwright.train.arrivals import Arrivals
from langwright.train.inspection import Inspection
from langwright.train.statistics import Statistics

CPU = torch.device("cpu")


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _updater(model, name="adamw", clip=1.0):
    optimizer = build_optimizer(model, OptimConfig(name=name, lr=1e-2))
    return Updater(
        model, optimizer, language_model_loss, device=CPU, micro_rows=2, clip=clip, seed=0
    )


def _rms(x):
    return float(x.double().square().mean().sqrt())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_statistics_are_those_of_the_update(tmp_path, name):
    model = small_model()
    updater, batch = _updater(model, name), PatternRows().batch(0, 4)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    _, factor = updater.accumulate(0, batch)
    updater.form.clip(updater.optimizer, updater.clip, factor)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    statistics = Statistics(updater, tmp_path, 0)
    with statistics.of({"step": 1}, batch):
        updater.update(0, batch, 1.0)
    (record,) = _lines(tmp_path / "statistics.jsonl")
    assert record["step"] == 1 and record["parameters"].keys() == before.keys()
    for key, row in record["parameters"].items():
        after = dict(model.named_parameters())[key].detach()
        assert row["weight"] == pytest.approx(_rms(before[key]), rel=1e-5)
        assert row["gradient"] == pytest.approx(_rms(gradients[key]), rel=1e-4)
        assert row["gradient_max"] == pytest.approx(float(gradients[key].abs().max()), rel=1e-4)
        change = _rms(after - before[key]) / _rms(before[key])
        assert row["update"] == pytest.approx(change, rel=1e-4)
    assert not any(o._optimizer_step_pre_hooks for o in updater.optimizer.optimizers)
    assert not any(module._forward_hooks for module in model.modules())


def test_activations_are_those_of_the_first_micro_batch_without_dropout(tmp_path):
    model = small_model(dropout_residual=0.5)
    updater, batch = _updater(model), PatternRows().batch(0, 4)
    with Statistics(updater, tmp_path, 0).of({"step": 1}, batch):
        pass
    found = _lines(tmp_path / "statistics.jsonl")[0]["activations"]
    expected = {}
    model.eval()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Module)]
    hooks = [
        model.get_submodule(n).register_forward_hook(
            lambda m, i, o, n=n: expected.__setitem__(n, o)
        )
        for n in names
    ]
    with torch.no_grad():
        model.hidden(batch.inputs[:2])
    for hook in hooks:
        hook.remove()
    assert {"tokens", "blocks.0", "blocks.1.attention", "blocks.1.feedforward", "norm"} <= set(
        found
    )
    for name, row in found.items():
        x = expected[name].detach()
        assert row["rms"] == pytest.approx(_rms(x), rel=1e-5), name
        assert row["max"] == pytest.approx(float(x.abs().max()), rel=1e-6)
        assert row["zeros"] == pytest.approx(float((x == 0).float().mean()))
    assert model.training is False  # as it was found


def test_numbers_that_are_not_finite_are_null(tmp_path):
    model = small_model()
    updater, batch = _updater(model, clip=None), PatternRows().batch(0, 4)
    with Statistics(updater, tmp_path, 0).of({"step": 1}, batch):
        updater.accumulate(0, batch)
        model.norm.weight.grad.fill_(float("nan"))
        updater.optimizer.step()
    row = _lines(tmp_path / "statistics.jsonl")[0]["parameters"]["norm.weight"]
    assert row["gradient"] is None and row["gradient_max"] is None and row["weight"] > 0


def test_statistics_and_traces_by_config_and_by_request(tmp_path, monkeypatch):
    monkeypatch.setattr("langwright.train.inspection.LOOK_SECONDS", 0.0)
    asked = {"statistics": 20, "profile": 26}

    class Asking:
        """Puts a request into the run's folder in the middle of it."""

        calls = 0

        def __call__(self, model, batch):
            if torch.is_grad_enabled() and model.training:
                self.calls += 1
                for name, call in asked.items():
                    if call == self.calls:
                        (tmp_path / name).touch()
            return language_model_loss(model, batch)

    small_trainer(
        tmp_path,
        steps=20,
        statistics_every=8,
        profile_at=4,
        profile_steps=2,
        objective=Asking(),
    ).run()
    steps = [record["step"] for record in _lines(tmp_path / "statistics.jsonl")]
    assert steps == [8, 11, 16]  # two micro-batches per update: asked for during update 10
    names = sorted(path.name for path in (tmp_path / "profiles").iterdir())
    assert names == [f"step-{s:07d}.{end}" for s in (4, 14) for end in ("json.gz", "txt")]
    with gzip.open(tmp_path / "profiles" / "step-0000004.json.gz") as file:
        trace = json.load(file)
    told = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("Optimizer.step#") for name in told) == 2  # two updates
    assert "aten::mm" in (tmp_path / "profiles" / "step-0000004.txt").read_text()
    assert not (tmp_path / "statistics").exists() and not (tmp_path / "profile").exists()


def test_a_trace_that_the_run_ends_in_is_written(tmp_path):
    small_trainer(tmp_path, profile_at=7, profile_steps=50).run()
    assert (tmp_path / "profiles" / "step-0000007.txt").exists()


def test_statistics_of_steps_that_are_made_again_are_dropped(tmp_path):
    updater, batch = _updater(small_model()), PatternRows().batch(0, 4)
    statistics = Statistics(updater, tmp_path, 0)
    for step in (1, 2, 3):
        with statistics.of({"step": step}, batch):
            updater.update(step - 1, batch, 1.0)
    Statistics(updater, tmp_path, 2)
    assert [record["step"] for record in _lines(tmp_path / "statistics.jsonl")] == [1, 2]


def test_inspection_costs_nothing_when_nothing_is_due(tmp_path):
    updater = _updater(small_model())
    config = small_trainer(tmp_path).config
    inspection = Inspection(updater, config, tmp_path, 0, print)
    batch = Batch(torch.zeros(1, LENGTH, dtype=torch.long), torch.zeros(1, LENGTH).long())
    with inspection.around({"step": 1}, batch):
        assert not any(module._forward_hooks for module in updater.model.modules())
    assert list(tmp_path.iterdir()) == []


# -- arrivals ---------------------------------------------------------------------------------


class FakeEvent:
    """An event that is passed when the test says so."""

    clock = 0.0
    passed: set = set()

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        FakeEvent.clock += 1.0
        self.at = FakeEvent.clock

    def query(self):
        return self.at in FakeEvent.passed

    def synchronize(self):
        FakeEvent.passed.add(self.at)

    def elapsed_time(self, later):
        return 1000.0 * (later.at - self.at)


@pytest.fixture
def slow_device(monkeypatch):
    """A CUDA device that is busy until a test lets an event pass."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "passed", set())
    monkeypatch.setattr(FakeEvent, "clock", 0.0)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: empty(*a, **k))
    return torch.device("cuda")


def test_nobody_waits_for_what_is_on_its_way(slow_device):
    arrivals = Arrivals(slow_device)  # event 1
    arrivals.add("a", torch.tensor([1.0, 2.0]))
    arrivals.add("b", torch.tensor([3.0, 4.0]))
    assert arrivals.take(wait=False) == []  # sent as event 2
    arrivals.add("c", torch.tensor([5.0, 6.0]))
    assert arrivals.take(wait=False) == []  # event 3
    FakeEvent.passed.add(2.0)
    (first,) = arrivals.take(wait=False)
    assert (first.labels, first.values, first.seconds) == (["a", "b"], [[1, 2], [3, 4]], 1.0)
    (second,) = arrivals.take(wait=True)
    assert (second.labels, second.values, second.seconds) == (["c"], [[5, 6]], 1.0)
    assert arrivals.take(wait=True) == []


def test_on_a_cpu_figures_are_there_at_once():
    arrivals = Arrivals(CPU)
    arrivals.add(1, torch.tensor([1.0]))
    (only,) = arrivals.take(wait=False)
    assert only.labels == [1] and only.values == [[1.0]] and 0 <= only.seconds < 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_update_and_its_report_never_wait_for_the_device(tmp_path):
    """torch itself raises at every operation that waits."""
    model = small_model().cuda()
    optimizer = build_optimizer(model, OptimConfig(name="muon", lr=1e-2))
    device = torch.device("cuda")
    updater = Updater(
        model, optimizer, language_model_loss, device=device, micro_rows=4, clip=1.0, seed=0
    )
    arrivals, batch = Arrivals(device), PatternRows().batch(0, 4)
    updater.update(0, batch, 1.0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 4):
            arrivals.add(step, updater.update(step, batch, 1.0).stacked())
            arrivals.take(wait=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert arrivals.take(wait=True)[-1].labels[-1] == 3
