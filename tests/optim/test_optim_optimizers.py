"""AdamW as printed, the library's beside it, parameter groups, and a state that is exact."""

import pytest
import safetensors.torch
import torch
from torch import nn

from langwright.base import UserError
from langwright.optim import (
    AdamL2,
    AdamW,
    AdamWReference,
    OptimConfig,
    build_optimizer,
    parameter_kinds,
)

DTYPE = torch.float64


def _path(make, gradient, steps=3):
    weight = nn.Parameter(torch.ones((), dtype=DTYPE))
    optimizer = make([weight])
    path = []
    for _ in range(steps):
        weight.grad = torch.full((), gradient, dtype=DTYPE)
        optimizer.step()
        path.append(weight.item())
    return path


def test_adamw_figures():
    expected = [0.99899000, 0.99798001, 0.99697003]
    assert _path(AdamWReference, 1.0) == pytest.approx(expected, abs=5e-9)
    assert _path(AdamW, 1.0) == pytest.approx(expected, abs=1.5e-8)


def test_where_eps_stands():
    assert _path(AdamWReference, 1e-8, 1) == pytest.approx([0.99995935], abs=5e-9)
    assert _path(AdamW, 1e-8, 1) == pytest.approx([0.99949000], abs=5e-9)


def test_l2_is_not_decoupled():
    # The first step of Adam is lr * sign(g) whatever g's size: the penalty does not show in it.
    assert _path(lambda p: AdamL2(p, weight_decay=0.5), 1.0, 1) == pytest.approx([0.999], abs=1e-9)
    decoupled = _path(lambda p: AdamWReference(p, weight_decay=0.5), 1.0, 1)
    assert decoupled == pytest.approx([0.9985], abs=1e-8)
    library = _path(lambda p: torch.optim.Adam(p, weight_decay=0.5), 0.3, 5)
    assert _path(lambda p: AdamL2(p, weight_decay=0.5), 0.3, 5) == pytest.approx(library, rel=1e-9)


def test_reference_follows_the_library_on_ordinary_gradients():
    torch.manual_seed(3)
    start = torch.randn(5, 7)
    weights = [nn.Parameter(start.clone()) for _ in range(2)]
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    pair = [AdamWReference([weights[0]], **settings), AdamW([weights[1]], **settings)]
    for _ in range(20):
        gradient = torch.randn(5, 7)
        for weight, optimizer in zip(weights, pair):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


class Tiny(nn.Module):
    """Two blocks between an embedding and a head."""

    def __init__(self, tied=False):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.positions = nn.Parameter(torch.randn(4, 6))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {"up": nn.Linear(6, 12), "down": nn.Linear(12, 6), "norm": nn.LayerNorm(6)}
            )
            for _ in range(2)
        )
        self.head = nn.Linear(6, 11, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids) + self.positions
        for block in self.blocks:
            x = x + block["down"](torch.relu(block["up"](block["norm"](x))))
        return self.head(x)


def _loss(model, step):
    ids = torch.randint(0, 11, (3, 4), generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())


def _updates(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        optimizer.set_lr(1.0 / (1 + step))
        _loss(model, step).backward()
        optimizer.step()


def _model(**options):
    torch.manual_seed(0)
    return Tiny(**options)


def test_kinds_of_parameters():
    kinds = parameter_kinds(_model())
    assert kinds["embedding.weight"] == kinds["positions"] == "embedding"
    assert kinds["head.weight"] == "head"
    assert kinds["blocks.1.up.weight"] == "matrix"
    assert kinds["blocks.0.up.bias"] == kinds["blocks.0.norm.weight"] == "scalar"
    assert "head.weight" not in parameter_kinds(_model(tied=True))


def test_every_parameter_is_in_one_group_with_its_rate_and_decay():
    config = OptimConfig(name="muon", lr=0.02, head_lr=0.5, weight_decay=0.3)
    model = _model()
    optimizer = build_optimizer(model, config)
    assert len(optimizer.parameters) == len({id(p) for p in optimizer.parameters})
    assert len(optimizer.parameters) == len(list(model.parameters()))
    seen = {group["kind"]: (group["peak_lr"], group["weight_decay"]) for group in optimizer.groups}
    assert seen == {
        "matrix": (0.02, 0.3),
        "embedding": (0.005, 0.0),
        "head": (0.5, 0.0),
        "scalar": (0.01, 0.0),
    }
    adamw = build_optimizer(model, OptimConfig(lr=1e-3, weight_decay=0.3))
    assert {(g["kind"], g["peak_lr"], g["weight_decay"]) for g in adamw.groups} == {
        ("matrix", 1e-3, 0.3),
        ("embedding", 1e-3, 0.3),
        ("head", 1e-3, 0.3),
        ("scalar", 1e-3, 0.0),
    }
    adamw.set_lr(0.5)
    assert {group["lr"] for group in adamw.groups} == {5e-4}


NAMES = ["adamw", "muon", "sgd", "adamw_reference", "adam_l2"]


@pytest.mark.parametrize("name", NAMES)
def test_state_is_restored_to_the_bit(name, tmp_path):
    config = OptimConfig(name=name, momentum=0.9 if name == "sgd" else None, lr=0.01)
    whole = _model()
    optimizer = build_optimizer(whole, config)
    _updates(whole, optimizer, range(3))
    state = optimizer.state_dict()
    safetensors.torch.save_file(state["tensors"], tmp_path / "state.safetensors")
    weights = {key: value.clone() for key, value in whole.state_dict().items()}
    _updates(whole, optimizer, range(3, 6))

    again = _model()
    again.load_state_dict(weights)
    other = build_optimizer(again, config)
    tensors = safetensors.torch.load_file(tmp_path / "state.safetensors")
    other.load_state_dict({"tensors": tensors, "scalars": state["scalars"]})
    _updates(again, other, range(3, 6))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key

    forgetful = _model()
    forgetful.load_state_dict(weights)
    _updates(forgetful, build_optimizer(forgetful, config), range(3, 6))
    key = "blocks.0.up.weight"
    assert not torch.equal(whole.state_dict()[key], forgetful.state_dict()[key])


def test_a_state_of_another_model_is_refused():
    model = _model()
    optimizer = build_optimizer(model, OptimConfig())
    _updates(model, optimizer, range(1))
    state = optimizer.state_dict()
    key = "head.weight/exp_avg"
    for wrong in ({"nobody/exp_avg": torch.zeros(1)}, {key: torch.zeros(2, 2)}):
        with pytest.raises(UserError):
            optimizer.load_state_dict({"tensors": wrong, "scalars": state["scalars"]})


@pytest.mark.parametrize("name", NAMES)
def test_a_skipped_step_changes_nothing(name):
    model = _model()
    optimizer = build_optimizer(model, OptimConfig(name=name, weight_decay=0.5))
    _updates(model, optimizer, range(2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {k: v.clone() for k, v in optimizer.state_dict()["tensors"].items()}
    _loss(model, 9).backward()
    model.head.weight.grad[0, 0] = float("nan")
    model.get_parameter("blocks.0.up.weight").grad[0, 0] = float("inf")
    optimizer.step(skip=torch.tensor(1.0))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    for key, value in optimizer.state_dict()["tensors"].items():
        assert torch.equal(value, state[key]), key
    model.head.weight.grad.zero_()
    model.get_parameter("blocks.0.up.weight").grad.fill_(0.5)
    optimizer.step(skip=torch.tensor(0.0))
    assert not torch.equal(model.head.weight, before["head.weight"]) or name == "sgd"
    assert not torch.equal(model.state_dict()["blocks.0.up.weight"], before["blocks.0.up.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_of_zero_moves_nothing(name):
    model = _model()
    optimizer = build_optimizer(model, OptimConfig(name=name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer.set_lr(0.0)
    _loss(model, 0).backward()
    optimizer.step()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_each_optimizer_lowers_the_loss(name):
    model = _model()
    optimizer = build_optimizer(model, OptimConfig(name=name, lr=0.01 if name != "sgd" else 0.1))
    before = _loss(model, 0).item()
    for _ in range(60):
        optimizer.zero_grad()
        _loss(model, 0).backward()
        optimizer.step()
    assert _loss(model, 0).item() < 0.7 * before


def test_muon_without_matrices_and_nothing_to_train():
    with pytest.raises(UserError, match="muon needs matrices"):
        build_optimizer(nn.Linear(3, 3), OptimConfig(name="muon"))
    frozen = nn.Linear(3, 3).requires_grad_(False)
    with pytest.raises(UserError, match="no trainable"):
        build_optimizer(frozen, OptimConfig())
