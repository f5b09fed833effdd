"""GaLore: against its formula written out, its memory, and that it learns."""

import pytest
import torch
from torch import nn

from langwright.base import UserError
from langwright.model import build_model, model_config
from langwright.optim import GaLore, OptimConfig, build_optimizer
from langwright.optim.galore import projection


def _gradients(shape, steps):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def _reference(weight, gradients, *, rank, every, scale, lr, decay, betas, eps):
    """Algorithm 1 of the paper, in float64; the basis by the eigenvectors of G G^T or G^T G."""
    w = weight.double().clone()
    wide = w.shape[0] <= w.shape[1]
    m = v = 0.0
    for t, gradient in enumerate(gradients):
        g = gradient.double()
        if t % every == 0:
            _, vectors = torch.linalg.eigh(g @ g.T if wide else g.T @ g)
            p = vectors.flip(1)[:, :rank]
            # Each direction's sign is free: take the one that the code under test takes.
            signs = yield p
            p = p * signs
        r = p.T @ g if wide else g @ p
        m = betas[0] * m + (1 - betas[0]) * r
        v = betas[1] * v + (1 - betas[1]) * r**2
        n = (m / (1 - betas[0] ** (t + 1))) / ((v / (1 - betas[1] ** (t + 1))).sqrt() + eps)
        w = w * (1 - lr * decay) - lr * scale * (p @ n if wide else n @ p.T)
    yield w


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_equals_the_formula(shape):
    settings = {"rank": 3, "scale": 0.25, "lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-8}
    weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    gradients = _gradients(shape, 7)
    reference = _reference(weight.detach(), gradients, every=3, decay=0.1, **settings)
    theirs = next(reference)
    optimizer = GaLore([weight], update_every=3, weight_decay=0.1, **settings)
    for step, gradient in enumerate(gradients):
        weight.grad = gradient.clone()
        optimizer.step()
        if step % 3 == 0:
            own = optimizer.state[weight]["projection"].double()
            along = (own * theirs).sum(0)
            torch.testing.assert_close(along.abs(), torch.ones(3).double(), atol=1e-4, rtol=0)
            theirs = reference.send(along.sign())
    torch.testing.assert_close(weight.detach().double(), theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (3, 6, 6)])
def test_a_direction_has_one_sign(shape):
    """Whichever sign the decomposition comes to: moments outlive the projection."""
    gradient = _gradients(shape, 1)[0]
    own = projection(gradient, 4)
    torch.testing.assert_close(projection(-gradient, 4), own)
    assert (own.amax(-2) == own.abs().amax(-2)).all()


def test_its_state_is_small():
    weight = nn.Parameter(torch.zeros(64, 256))
    weight.grad = torch.randn(64, 256)
    optimizer = GaLore([weight], rank=8)
    optimizer.step()
    numbers = sum(x.numel() for x in optimizer.state[weight].values() if torch.is_tensor(x))
    assert numbers == 64 * 8 + 2 * 8 * 256
    assert numbers < 0.15 * 2 * weight.numel()


def test_takes_the_block_matrices_and_is_restored_exactly():
    config = model_config(
        {"width": 32, "layers": 2, "heads": 2, "context_length": 16}, vocab_size=11
    )
    settings = OptimConfig(name="galore", galore_rank=4, galore_every=2, weight_decay=0.1)
    ids = torch.arange(64).view(4, 16) % 11

    def steps(model, optimizer, count):
        losses = []
        for _ in range(count):
            optimizer.zero_grad()
            loss, number = model.loss(ids[:, :-1], ids[:, 1:])
            (loss / number).backward()
            optimizer.step()
            losses.append((loss / number).item())
        return losses

    model = build_model(config)
    optimizer = build_optimizer(model, settings)
    kinds = [type(o).__name__ for o in optimizer.optimizers]
    assert kinds == ["GaLore", "AdamW"]
    first = steps(model, optimizer, 15)
    assert first[-1] < 0.5 * first[0]
    other = build_model(config)
    other.load_state_dict(model.state_dict())
    again = build_optimizer(other, settings)
    state = optimizer.state_dict()
    again.load_state_dict({"tensors": dict(state["tensors"]), "scalars": dict(state["scalars"])})
    assert steps(model, optimizer, 3) == steps(other, again, 3)
    name = next(key for key in state["tensors"] if key.endswith("projection"))
    with pytest.raises(UserError, match="another shape") as error:
        again.load_state_dict({**state, "tensors": {name: torch.zeros(3, 3)}})
    assert name in str(error.value)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="takes matrices"):
        GaLore([nn.Parameter(torch.zeros(3))])
