"""Muon and its iterations: orthogonal updates, batches, decay, and the library's own Muon."""

import math

import pytest
import torch

from langwright.optim import Muon, orthogonalize


def _matrices(count, rows, columns):
    return torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(3, 48, 48), (2, 32, 96), (2, 96, 32)])
def test_singular_values_come_near_one(shape):
    matrices = _matrices(*shape)
    exact = orthogonalize(matrices, steps=8)
    values = torch.linalg.svdvals(exact)
    assert values.min() > 0.999 and values.max() < 1.001
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(exact, u @ vh, atol=2e-3, rtol=0)
    quick = torch.linalg.svdvals(orthogonalize(matrices, steps=5, dtype=torch.bfloat16).float())
    assert quick.max() < 1.25
    assert (quick > 0.7).float().mean() > 0.97  # a square random matrix has one near zero


def test_singular_values_over_a_wide_range():
    u, _, vh = torch.linalg.svd(_matrices(1, 16, 16))
    matrix = u @ torch.diag_embed(torch.logspace(0, -2.5, 16)) @ vh
    values = torch.linalg.svdvals(orthogonalize(matrix, steps=5))
    assert values.min() > 0.7 and values.max() < 1.3
    jordan = torch.linalg.svdvals(orthogonalize(matrix, steps=5, method="jordan"))
    assert jordan.min() > 0.3 and jordan.max() < 1.3
    assert jordan.min() < values.min()


def test_a_stack_equals_its_members_and_zero_stays_zero():
    matrices = _matrices(4, 12, 20)
    matrices[2] = 0.0
    together = orthogonalize(matrices)
    for one, matrix in zip(together, matrices):
        torch.testing.assert_close(one, orthogonalize(matrix[None])[0], atol=1e-6, rtol=1e-5)
    assert torch.equal(together[2], torch.zeros(12, 20))


def _train(make, weights, steps=4):
    weights = [torch.nn.Parameter(w.clone()) for w in weights]
    optimizer = make(weights)
    for step in range(steps):
        for i, weight in enumerate(weights):
            seed = torch.Generator().manual_seed(100 * step + i)
            weight.grad = torch.randn(weight.shape, generator=seed)
        optimizer.step()
    return weights


WEIGHTS = [_matrices(1, *shape)[0] for shape in [(8, 8), (8, 8), (16, 8), (8, 16), (8, 8)]]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["spectral", "adamw_rms"])
def test_equal_to_the_librarys_muon(nesterov, scale):
    library = getattr(torch.optim, "Muon", None)
    if library is None:
        pytest.skip("this torch has no Muon")
    name = {"spectral": "original", "adamw_rms": "match_rms_adamw"}[scale]
    common = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    theirs = _train(lambda w: library(w, adjust_lr_fn=name, **common), WEIGHTS)
    ours = _train(
        lambda w: Muon(w, method="jordan", scale=scale, dtype=torch.bfloat16, **common), WEIGHTS
    )
    for mine, other, start in zip(ours, theirs, WEIGHTS):
        moved = (other - start).norm()
        assert (mine - other).norm() < 0.02 * moved  # they round to bf16 at other places


def test_batched_equals_one_by_one():
    together = _train(lambda w: Muon(w, weight_decay=0.1), WEIGHTS)
    for i, weight in enumerate(WEIGHTS):
        alone = torch.nn.Parameter(weight.clone())
        optimizer = Muon([alone], weight_decay=0.1)
        for step in range(4):
            seed = torch.Generator().manual_seed(100 * step + i)
            alone.grad = torch.randn(weight.shape, generator=seed)
            optimizer.step()
        torch.testing.assert_close(alone, together[i], atol=1e-5, rtol=1e-5)


def test_stacks_of_matrices_are_many_matrices():
    stack = _matrices(3, 8, 6)
    as_stack = _train(lambda w: Muon(w), [stack], steps=1)[0]
    grads = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(0))
    for i in range(3):
        weight = torch.nn.Parameter(stack[i].clone())
        weight.grad = grads[i].clone()
        Muon([weight]).step()
        torch.testing.assert_close(weight, as_stack[i], atol=1e-6, rtol=1e-5)


def test_size_of_the_update():
    for rows, columns, scale, expected in [
        (32, 8, "spectral", 2.0),
        (8, 32, "spectral", 1.0),
        (8, 32, "adamw_rms", 0.2 * math.sqrt(32)),
    ]:
        weight = torch.nn.Parameter(torch.zeros(rows, columns))
        weight.grad = _matrices(1, rows, columns)[0]
        Muon([weight], lr=0.1, scale=scale, steps=8).step()
        values = torch.linalg.svdvals(weight.detach())
        torch.testing.assert_close(values, torch.full((8,), 0.1 * expected), rtol=2e-3, atol=0)


def test_cautious_decay_leaves_weights_that_grow():
    start = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    gradient = torch.tensor([[1.0, -1.0], [1.0, 1.0]])  # orthogonal already, up to its size
    moves = {}
    for name, decay, cautious in [("none", 0.0, False), ("all", 0.5, False), ("some", 0.5, True)]:
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient.clone()
        Muon([weight], lr=0.1, weight_decay=decay, cautious_decay=cautious).step()
        moves[name] = weight.detach()
    torch.testing.assert_close(moves["none"] - moves["all"], 0.05 * start)
    shrinking = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(moves["none"] - moves["some"], 0.05 * start * shrinking)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))])
