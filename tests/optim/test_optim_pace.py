"""What changes over a run besides the rate; Muon's relatives; rates and betas by group."""

import pytest
import torch
from torch import nn

from langwright.base import UserError
from langwright.model import build_model, model_config
from langwright.optim import (
    Momentum,
    Muon,
    OptimConfig,
    ScheduleConfig,
    build_optimizer,
    decay_share,
    fallen_share,
    orthogonalize,
)


def _model():
    config = model_config(
        {"width": 16, "layers": 1, "heads": 2, "context_length": 8, "tied": False}, vocab_size=11
    )
    return build_model(config)


def test_momentum_rises_stays_and_falls():
    plan = Momentum(peak=0.95, start=0.85, end=0.9, warmup_steps=10)
    assert plan.at(0, 0.0) == pytest.approx(0.85)
    assert plan.at(5, 0.0) == pytest.approx(0.90)
    assert plan.at(10, 0.0) == plan.at(99, 0.0) == pytest.approx(0.95)
    assert plan.at(99, 0.5) == pytest.approx(0.925)
    assert plan.at(99, 1.0) == pytest.approx(0.9)


def test_the_fall_of_the_rate():
    fallen = fallen_share(ScheduleConfig(kind="linear", warmup_steps=4, floor=0.2), 20)
    assert [fallen(step) for step in range(3)] == [0, 0, 0]  # rising is not falling
    assert fallen(3) == pytest.approx(0.0)
    middle = fallen(11)
    assert 0.4 < middle < 0.6
    assert fallen(20) == pytest.approx(1.0)
    assert fallen_share(ScheduleConfig(kind="constant", floor=1.0), 20)(19) == 0.0


def test_decay_over_the_run():
    assert [decay_share("linear", s, 1.0) for s in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert decay_share("cosine", 0.5, 1.0) == pytest.approx(0.5)
    assert decay_share("cosine", 1.0, 1.0) == pytest.approx(0.0)
    assert decay_share("rate", 0.5, 0.3) == 0.3
    assert decay_share("constant", 0.9, 0.3) == 1.0


def test_the_set_follows_the_pace():
    config = OptimConfig(
        name="muon",
        weight_decay=0.2,
        weight_decay_schedule="linear",
        momentum_start=0.8,
        momentum_end=0.7,
        momentum_warmup_steps=10,
        head_weight_decay=0.05,
        embedding_betas=(0.8, 0.99),
    )
    optimizer = build_optimizer(_model(), config)
    groups = {group["kind"]: group for group in optimizer.groups}
    assert groups["embedding"]["betas"] == (0.8, 0.99)
    assert groups["head"]["betas"] == groups["scalar"]["betas"] == config.betas
    optimizer.set_pace(5, 0.5, 0.6, 0.0)
    assert groups["matrix"]["lr"] == pytest.approx(0.6 * groups["matrix"]["peak_lr"])
    assert groups["matrix"]["weight_decay"] == pytest.approx(0.1)
    assert groups["head"]["weight_decay"] == pytest.approx(0.025)
    assert groups["embedding"]["weight_decay"] == 0.0
    assert groups["matrix"]["momentum"] == pytest.approx(0.875)
    optimizer.set_pace(99, 1.0, 0.1, 1.0)
    assert groups["matrix"]["momentum"] == pytest.approx(0.7)
    assert groups["matrix"]["weight_decay"] == 0.0


def test_only_momentum_can_change():
    with pytest.raises(UserError, match="no momentum"):
        OptimConfig.parse({"name": "adamw", "momentum_start": 0.8})


def _norms(update):
    return update.norm(dim=-1)


def test_normuon_evens_out_neurons_and_keeps_the_whole():
    """Algorithm 1 of arXiv 2510.05491, written out for one matrix over three steps."""
    generator = torch.Generator().manual_seed(0)
    for shape in [(24, 8), (8, 24), (8, 8)]:
        weight = nn.Parameter(torch.zeros(shape))
        muon = Muon([weight], lr=1.0, momentum=0.0, nesterov=False, neuron_beta=0.6)
        v, expected = 0.0, torch.zeros(shape)
        across = 1 if shape[0] >= shape[1] else 0
        for _ in range(3):
            weight.grad = torch.randn(shape, generator=generator)
            weight.grad[0] *= 10.0
            o = orthogonalize(weight.grad[None])[0]
            v = 0.6 * v + 0.4 * o.square().mean(dim=across, keepdim=True)
            even = o / v.sqrt()
            factor = max(1.0, shape[0] / shape[1]) ** 0.5
            expected -= factor * even * (o.norm() / even.norm())
            muon.step()
        torch.testing.assert_close(weight.detach(), expected, atol=1e-4, rtol=1e-4)
    weight = nn.Parameter(torch.zeros(24, 8))
    weight.grad = torch.randn(24, 8, generator=generator)
    Muon([weight], lr=1.0, neuron_beta=0.9).step()
    sizes = _norms(weight.detach())
    assert sizes.max() / sizes.min() < 1.001  # after one step all neurons moved alike


def test_equal_rows_count_alike():
    """Rows of very different length: without it the short ones hardly count."""
    gradient = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
    scaled = gradient * torch.logspace(0, -6, 8)[:, None]
    moved = {}
    for name, g, equal in [
        ("plain", gradient, False), ("equal", scaled, True), ("unequal", scaled, False),
        ("equalled", gradient, True),
    ]:  # fmt: skip
        weight = nn.Parameter(torch.zeros(8, 24))
        weight.grad = g.clone()
        Muon([weight], lr=1.0, equal_rows=equal).step()
        moved[name] = -weight.detach()
    torch.testing.assert_close(moved["equal"], moved["equalled"], atol=1e-4, rtol=1e-3)
    assert _norms(moved["unequal"])[-1] < 0.2 * _norms(moved["equal"])[-1]
    rows = gradient / gradient.norm(dim=1, keepdim=True)
    torch.testing.assert_close(moved["equal"], orthogonalize(rows[None])[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("flags", [{"neuron_beta": 0.9}, {"equal_rows": True, "neuron_beta": 0.9}])
def test_relatives_batch_skip_and_leave_zero_alone(flags):
    shapes = [(6, 4), (6, 4), (2, 4, 6)]
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    grads = [torch.randn(shape, generator=generator) for shape in shapes]
    grads[1].zero_()
    together = [nn.Parameter(w.clone()) for w in starts]
    muon = Muon(together, **flags)
    for weight, gradient in zip(together, grads):
        weight.grad = gradient.clone()
    muon.step()
    assert torch.equal(together[1].detach(), starts[1])
    for weight, start, gradient in zip(together, starts, grads):
        alone = nn.Parameter(start.clone())
        alone.grad = gradient.clone()
        Muon([alone], **flags).step()
        torch.testing.assert_close(alone, weight, atol=1e-5, rtol=1e-4)
    before = [w.detach().clone() for w in together]
    state = {k: v.clone() for k, v in muon.state[together[0]].items()}
    for weight in together:
        weight.grad = torch.full_like(weight, float("nan"))
    muon.found_inf = torch.tensor(1.0)
    muon.step()
    assert all(torch.equal(w, b) for w, b in zip(together, before))
    assert all(torch.equal(v, state[k]) for k, v in muon.state[together[0]].items())


def test_the_neurons_state_is_restored():
    config = OptimConfig(name="muon", neuron_scaling=True)
    ids = torch.arange(32).view(4, 8) % 11

    def step(model, optimizer):
        optimizer.zero_grad()
        loss, _ = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        return loss.item()

    model = _model()
    optimizer = build_optimizer(model, config)
    step(model, optimizer)
    other = _model()
    other.load_state_dict(model.state_dict())
    again = build_optimizer(other, config)
    again.load_state_dict(optimizer.state_dict())
    assert [step(model, optimizer) for _ in range(2)] == [step(other, again) for _ in range(2)]
