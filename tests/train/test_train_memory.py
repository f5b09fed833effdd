"""Less memory, same mathematics: checkpointing, offload, smaller micro-batches."""

import copy

import pytest
import torch
from train_small import PatternRows, same_weights, small_model, small_trainer, weights_of

from langwright.base import read_json
from langwright.model import build_model, model_config
from langwright.optim import OptimConfig, build_optimizer
from langwright.plan import rules
from langwright.train import Updater, checkpointing_choice, language_model_loss, probe
from langwright.train.activation_checkpointing import (
    METHODS,
    activation_bytes,
    checkpoint_activations,
)
from langwright.train.checkpointing_choice import choose_checkpointing
from langwright.train.choices import Choices
from langwright.train.offload import ActivationOffload, HostOptimizer, offloading

CPU = torch.device("cpu")
SHAPES = {
    "gpt2": {"norm": "layernorm", "feedforward": "gelu_tanh", "dropout_residual": 0.2},
    "llama": {"norm": "rmsnorm", "feedforward": "swiglu", "position": "rotary", "qk_norm": True},
    "experts": {
        "feedforward": "swiglu",
        "experts": {"count": 4, "chosen": 2, "selection_bias": True, "balance_loss": 0.1},
    },
    "balanced": {
        "feedforward": "swiglu",
        "experts": {"count": 4, "chosen": 2, "selection_bias": True},
    },
}


def _model(shape):
    table = {"width": 32, "layers": 4, "heads": 2, "context_length": 16, **SHAPES[shape]}
    return build_model(model_config(table, vocab_size=13)).train()


def _gradients(model, batch):
    torch.manual_seed(5)
    loss, _ = model.loss(batch.inputs, batch.targets)
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), grads


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS[1:])
def test_checkpointing_changes_no_gradient(shape, method):
    batch = PatternRows(holes=False).batch(0, 4)
    loss, wanted = _gradients(_model(shape), batch)
    model = _model(shape)
    names = list(model.state_dict())
    checkpoint_activations(model, method)
    again = copy.deepcopy(model)  # as lanes do
    for one in (model, again):
        other, grads = _gradients(one, batch)
        assert other == loss
        assert same_weights(grads, wanted)
    assert list(model.state_dict()) == names
    checkpoint_activations(model, "none")
    assert all("forward" not in block.__dict__ for block in model.blocks)


def test_a_copy_runs_its_own_blocks():
    model = _model("gpt2")
    checkpoint_activations(model, "full")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.blocks[0].feedforward.up.weight.zero_()
    ids = PatternRows().batch(0, 2).inputs
    torch.manual_seed(0)
    first = model.train()(ids)
    torch.manual_seed(0)
    assert not torch.equal(first, other.train()(ids))


def test_experts_are_counted_once():
    batch = PatternRows(holes=False).batch(0, 4)
    for method in METHODS:
        model = _model("experts")
        checkpoint_activations(model, method)
        _gradients(model, batch)
        for block in model.blocks:
            assert int(block.feedforward.load.sum()) == 2 * batch.inputs.numel()
            assert block.feedforward.router_loss is None  # none left behind, with its graph


def test_what_is_kept_shrinks():
    batch = PatternRows(holes=False).batch(0, 8)
    kept = {}
    for method in METHODS:
        model = _model("llama")
        checkpoint_activations(model, method, 0.25)
        kept[method] = activation_bytes(
            lambda model=model: model.loss(batch.inputs, batch.targets)[0], method
        )
    assert kept["full"] < kept["budget"] < kept["selective"] < kept["none"]
    inputs = 4 * batch.inputs.numel() * 32 * 4  # four blocks' inputs, fp32
    assert inputs <= kept["full"] < 3 * inputs
    assert kept["full"] < 0.25 * kept["none"]


def test_what_is_kept_is_counted_with_compiled_flex_attention():
    from torch.nn.attention.flex_attention import flex_attention

    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    q = torch.randn(1, 2, 128, 16)
    weight = torch.randn(16, 16, requires_grad=True)
    attend = torch.compile(flex_attention, backend=backend)
    kept = activation_bytes(lambda: attend(q, q, q).sum() + (q @ weight).sum(), "selective")
    assert compiled and kept >= q.nbytes


def test_activations_come_back_from_main_memory():
    batch = PatternRows().batch(0, 4)
    loss, wanted = _gradients(_model("llama"), batch)
    model = _model("llama")
    torch.manual_seed(5)
    with ActivationOffload(CPU, least_bytes=1024) as offload:
        total, _ = model.loss(batch.inputs, batch.targets)
    moved = offload.moved_bytes
    total.backward()
    assert total.item() == loss
    assert same_weights({n: p.grad for n, p in model.named_parameters()}, wanted)
    weights = sum(p.numel() * 4 for p in model.parameters())
    assert moved > 8 * batch.inputs.numel() * 32 * 4 and moved != weights
    checkpoint_activations(model, "full")
    with ActivationOffload(CPU, least_bytes=1024) as offload:
        model.loss(batch.inputs, batch.targets)
    assert 4 * batch.inputs.numel() * 32 * 4 <= offload.moved_bytes < 0.5 * moved


def test_a_run_with_everything_offloaded_is_the_same_run(tmp_path):
    plain = small_model()
    small_trainer(tmp_path / "plain", plain).run()
    for name in ("activations", "optimizer", "both"):
        model = small_model()
        small_trainer(tmp_path / name, model, offload=name, checkpointing="full").run()
        assert same_weights(weights_of(plain), weights_of(model))


@pytest.mark.parametrize("name", ["adamw", "muon", "galore"])
def test_the_optimizer_in_main_memory_steps_and_resumes_alike(name):
    def updater(host):
        model = small_model()
        optimizer = build_optimizer(model, OptimConfig(name=name, galore_rank=4))
        optimizer = HostOptimizer(optimizer) if host else optimizer
        return Updater(
            model, optimizer, language_model_loss, device=CPU, micro_rows=2, clip=0.5, seed=0
        )

    rows = PatternRows()
    here, there = updater(False), updater(True)
    for step in range(3):
        norms = [u.update(step, rows.batch(4 * step, 4), 1.0).norm for u in (here, there)]
        assert norms[0] == norms[1]
    assert same_weights(weights_of(here.model), weights_of(there.model))
    on = updater(True)
    on.model.load_state_dict(there.model.state_dict())
    on.optimizer.load_state_dict(there.optimizer.state_dict())
    for one in (here, on):
        one.update(3, rows.batch(12, 4), 1.0)
    assert same_weights(weights_of(here.model), weights_of(on.model))


class Full:
    """An objective on a device that holds so many rows; more, and memory runs out half-way."""

    def __init__(self, most, message="DefaultCPUAllocator: can't allocate memory: you tried"):
        self.most, self.message, self.failures = most, message, 0

    def __call__(self, model, batch):
        loss = language_model_loss(model, batch)
        if batch.rows > self.most:
            self.failures += 1
            loss[0].backward()  # leaves a gradient that must not count
            raise RuntimeError(self.message)
        return loss


@pytest.mark.parametrize("lanes", [1, 2])
def test_out_of_memory_means_smaller_pieces_and_the_same_update(lanes):
    told, results = [], {}
    for name, objective in (("plain", language_model_loss), ("full", Full(1))):
        model = _model("balanced").double()  # a balance loss is of each piece
        model.compute_dtype = torch.float64
        settings = {"device": CPU, "micro_rows": 4, "clip": 1.0, "seed": 0, "say": told.append}
        optimizer = build_optimizer(model, OptimConfig(lr=1e-2))
        updater = Updater(model, optimizer, objective, router_bias_rate=0.1, **settings)
        updater.use_lanes(lanes)
        for step in range(2):
            updater.update(step, PatternRows().batch(8 * step, 8), 1.0)
        updater.use_lanes(1)
        results[name] = weights_of(model)
        rows = updater.micro_rows
    assert rows == 1 and objective.failures >= 2
    assert told == [f"out of memory: going on with {n} rows at a time" for n in (2, 1)]
    for key, value in results["plain"].items():
        torch.testing.assert_close(results["full"][key], value, atol=1e-4, rtol=1e-4)


def test_other_errors_and_a_single_row_are_not_swallowed():
    for rows, message in ((4, "shapes do not match"), (1, "out of memory")):
        model = small_model()
        updater = Updater(
            model,
            build_optimizer(model, OptimConfig()),
            Full(0, message),
            device=CPU,
            micro_rows=rows,
            clip=None,
            seed=0,
        )
        with pytest.raises(RuntimeError, match=message):
            updater.update(0, PatternRows().batch(0, 4), 1.0)


def _probe(model, rows=4):
    updater = Updater(
        model,
        build_optimizer(model, OptimConfig()),
        language_model_loss,
        device=CPU,
        micro_rows=2,
        clip=1.0,
        seed=0,
    )
    return probe.Probe(updater, PatternRows(), batch_rows=rows)


def _choices(device="cpu"):
    made = Choices("key")
    made.decide("device", device, "test")
    return made


def test_checkpointing_is_chosen_by_memory_on_a_cpu(monkeypatch):
    model = _model("llama")
    small = _probe(model)
    each = {}
    for method in rules.METHODS:
        checkpoint_activations(model, method)
        each[method] = small.activation_bytes(method)
    for room, expected in [
        (1.01 * each["none"], "none"),
        (0.99 * each["none"], "selective"),
        (0.99 * each["selective"], "full"),
        (0.1 * each["full"], "full"),
    ]:
        machine = type("Machine", (), {"memory_bytes": 2 * room * 4 * 16})
        monkeypatch.setattr(checkpointing_choice, "machine", lambda machine=machine: machine)
        choices = _choices()
        assert choose_checkpointing("auto", 0.5, choices, small, compiled=False) == expected
        assert "none" in choices.values["checkpointing"]["reason"]
        assert ("forward" in model.blocks[0].__dict__) == (expected != "none")


@pytest.mark.parametrize(
    ("rows", "threads", "at_a_time"), [(2, 4, 2), (64, 1, 10), (64, 4, 24), (12, 4, 12)]
)
def test_checkpointing_counts_the_tokens_of_all_lanes(monkeypatch, rows, threads, at_a_time):
    """One pass of at most 10 rows, or passes of 6 rows on each core; no more than the batch."""
    small = _probe(_model("llama"), rows)
    length = small.rows.sequence_length
    monkeypatch.setattr(rules, "CPU_TOKENS", 10 * length)
    monkeypatch.setattr(rules, "LANE_TOKENS", 6 * length)
    monkeypatch.setattr(probe.torch, "get_num_threads", lambda: threads)
    choices = _choices()
    choose_checkpointing("auto", 0.5, choices, small, compiled=False)
    reason = choices.values["checkpointing"]["reason"]
    assert f"activations of {at_a_time * length} tokens" in reason


def test_checkpointing_is_chosen_by_speed_on_a_device(monkeypatch):
    model = _model("llama")
    small = _probe(model, rows=64)
    small.updater.device = torch.device("meta")  # not the CPU
    most = {"none": 8, "selective": 24, "full": 64}
    speed = {"none": 100.0, "selective": 140.0, "full": 120.0}

    def method():
        forward = model.blocks[0].__dict__.get("forward")
        return "none" if forward is None else forward.__func__.__name__.strip("_")

    monkeypatch.setattr(small, "fits", lambda rows: rows <= most[method()])
    monkeypatch.setattr(small, "micro_seconds", lambda rows: rows * 16 / speed[method()])
    choices = _choices("cuda")
    assert choose_checkpointing("auto", 0.5, choices, small, compiled=False) == "selective"
    reason = choices.values["checkpointing"]["reason"]
    assert "none 100 tokens/s with 8 rows; selective 140 tokens/s with 16 rows" in reason
    assert method() == "selective"
    most["none"] = 64
    assert choose_checkpointing("auto", 0.5, choices, small, compiled=False) == "none"
    most.update(none=0, selective=0, full=0)
    assert choose_checkpointing("auto", 0.5, choices, small, compiled=False) == "full"


def test_the_choice_is_kept_for_the_next_start(tmp_path):
    model = small_model()
    small_trainer(tmp_path, model, checkpointing="full", steps=2).run()
    choice = read_json(tmp_path / "choices.json")["choices"]["checkpointing"]
    assert choice == {"value": "full", "reason": "as asked"}
    assert all("forward" not in block.__dict__ for block in model.blocks)  # plain afterwards


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS[1:])
def test_compiled_and_checkpointed(tmp_path, method):
    losses = {}
    for name, options in {
        "plain": {"compile": False},
        "both": {"compile": True, "checkpointing": method},
    }.items():
        trainer = small_trainer(tmp_path / name, small_model(layers=3), steps=10, **options)
        losses[name] = trainer.run()["train_loss"]
    assert losses["both"] == pytest.approx(losses["plain"], rel=1e-4)


def test_offloading_keeps_the_objectives_result():
    model, batch = small_model(), PatternRows().batch(0, 2)
    plain = language_model_loss(model, batch)
    moved = offloading(language_model_loss, CPU)(model, batch)
    assert torch.equal(plain[0], moved[0]) and plain[1] == moved[1]
