"""Groups of the fastest models' own parameters: kinds, rates, betas, decay, and a step."""

from __future__ import annotations

import pytest
import torch

from langwright.model import build_model, model_config
from langwright.optim import OptimConfig, build_optimizer, parameter_kinds

# nanochat's rates at the reference batch (optim.py, July 2026), as the dial gives them.
REFERENCE = OptimConfig(
    name="muon",
    lr=0.02,
    embedding_lr=0.3,
    head_lr=0.008,
    betas=(0.8, 0.95),
    embedding_betas=(0.8, 0.995),
    head_betas=(0.8, 0.96),
    skip_betas=(0.96, 0.95),
    embedding_weight_decay=0.001,
)
TABLE = {"preset": "langwright-fastest-1m", "width": 32, "layers": 2, "heads": 2}


def test_every_parameter_has_its_kind() -> None:
    kinds = parameter_kinds(build_model(model_config(TABLE, vocab_size=30)))
    assert {name: kind for name, kind in kinds.items() if kind != "matrix"} == {
        "tokens.weight": "embedding",
        "head.weight": "head",
        "smear.gate.weight": "mix",
        "smear.scale": "mix",
        "backout.scale": "mix",
        "blocks.0.residual.stream": "stream",
        "blocks.0.residual.skip": "skip",
        "blocks.1.residual.stream": "stream",
        "blocks.1.residual.skip": "skip",
        "blocks.1.attention.values.table.weight": "value",
    }
    assert kinds["blocks.1.attention.values.gate.weight"] == "matrix"


def test_rates_betas_and_decay_are_those_of_the_reference() -> None:
    rates = {"value": 0.15, "stream": 0.005, "skip": 0.5, "mix": 0.2, "embedding": 0.3}
    model = build_model(model_config(TABLE, vocab_size=30))
    groups = {group["kind"]: group for group in build_optimizer(model, REFERENCE).groups}
    for kind, rate in rates.items():
        assert REFERENCE.rate(kind) == pytest.approx(rate)
        assert groups[kind]["lr"] == groups[kind]["peak_lr"] == pytest.approx(rate)
    assert groups["value"]["betas"] == (0.8, 0.995) and groups["skip"]["betas"] == (0.96, 0.95)
    assert groups["stream"]["betas"] == groups["mix"]["betas"] == (0.8, 0.95)
    assert groups["value"]["weight_decay"] == groups["embedding"]["weight_decay"] == 0.001
    assert [groups[kind]["weight_decay"] for kind in ("stream", "skip", "mix")] == [0.0] * 3


def test_given_rates_hold_and_others_follow() -> None:
    config = OptimConfig(name="muon", value_lr=0.07, skip_lr=0.1)
    assert config.rate("value") == 0.07 and config.rate("embedding") == pytest.approx(0.005)
    assert config.rate("stream") == pytest.approx(0.001)
    assert config.rate("mix") == pytest.approx(0.04)
    plain = OptimConfig(name="adamw", lr=1e-3)
    assert plain.rate("skip") == 1e-3 and plain.rate("stream") == pytest.approx(1e-5)
    assert plain.rate("value") == pytest.approx(5e-4)


@pytest.mark.parametrize("name", ["muon", "adamw", "galore", "sgd", "adamw_reference"])
def test_every_parameter_moves_and_the_factors_by_their_rates(name: str) -> None:
    model = build_model(model_config(TABLE, vocab_size=30)).train()
    with torch.no_grad():  # away from where a factor of 0 hides what stands behind it
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, REFERENCE.replace(name=name))
    ids = torch.arange(30).repeat(2, 1)
    loss, count = model.loss(ids, ids.roll(-1, 1))
    (loss / count).backward()
    optimizer.step()
    moved = {n: (p.detach() - before[n]).abs().max().item() for n, p in model.named_parameters()}
    assert min(moved.values()) > 0
    if name in ("muon", "adamw"):  # Adam's first step is its rate, whatever the gradient
        assert moved["blocks.0.residual.skip"] == pytest.approx(
            REFERENCE.replace(name=name).rate("skip"), rel=1e-3
        )
        ratio = moved["blocks.0.residual.skip"] / moved["blocks.0.residual.stream"]
        assert ratio == pytest.approx(100, rel=0.01)
