"""The fastest models under what training does to blocks: checkpointing, lanes, compilation."""

from __future__ import annotations

import pytest
import torch

from langwright.model import Transformer, build_model, model_config
from langwright.train.activation_checkpointing import Method, checkpoint_activations
from langwright.train.compiling import compile_blocks
from langwright.train.lanes import Lanes

TABLE = {"preset": "langwright-fastest-1m", "width": 32, "layers": 4, "heads": 2}


def fastest() -> Transformer:
    model = build_model(model_config(TABLE, vocab_size=30), seed=1).train()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # away from where a factor of 0 hides what stands behind it
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def loss_of(model: torch.nn.Module, number: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(0, 30, (2, 16), generator=generator)
    segments = (torch.arange(16) > 6).long().expand(2, 16)
    loss, count = model.loss(ids, ids.roll(-1, 1), segments=segments)
    return loss / count


def gradients(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain(numbers: int = 1) -> dict[str, torch.Tensor]:
    model = fastest()
    for number in range(numbers):
        loss_of(model, number).backward()
    return gradients(model)


@pytest.mark.parametrize("method", ["full", "selective", "budget"])
def test_checkpointing_changes_no_gradient(method: Method) -> None:
    model, wanted = fastest(), plain()
    checkpoint_activations(model, method)
    loss_of(model).backward()
    found = gradients(model)
    assert found.keys() == wanted.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_lanes_add_up_to_the_same() -> None:
    model, wanted = fastest(), plain(4)
    lanes = Lanes(model, 2)

    def work(one: torch.nn.Module, number: int) -> float:
        loss = loss_of(one, number)
        loss.backward()
        return loss.item()

    losses = lanes.map(work, 4)
    lanes.close()
    assert losses == [pytest.approx(loss_of(fastest(), number).item()) for number in range(4)]
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_compiled_blocks_are_two_graphs_and_equal() -> None:
    """Blocks with a value table and blocks without: one graph for each kind."""
    model, wanted = fastest(), plain()
    compile_blocks(model)
    loss_of(model).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4)
