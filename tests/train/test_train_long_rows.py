"""A row of 32K tokens (8K in the short form) trains in little memory: checkpointed blocks, a loss
made in chunks."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from langwright.dataset import Batch
from langwright.model import build_model, model_config
from langwright.train import language_model_loss
from langwright.train.activation_checkpointing import checkpoint_activations

WIDTH, HIDDEN, LAYERS, SYMBOLS = 32, 512, 4, 4096


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it that are alive; keeps the most there were."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, operation, types, inputs=(), options=None):
        result = operation(*inputs, **(options or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage):
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key):
        self.now -= self.sizes.pop(key)


def _one_pass(length, method, chunk_tokens):
    """Loss, gradients and peak bytes of one row, weights not counted."""
    table = {"width": WIDTH, "layers": LAYERS, "heads": 1, "hidden_width": HIDDEN}
    table |= {"norm": "rmsnorm", "feedforward": "swiglu", "position": "rotary"}
    config = model_config({**table, "context_length": length}, vocab_size=SYMBOLS)
    model = build_model(config).train()
    checkpoint_activations(model, method)
    ids = torch.randint(SYMBOLS, (1, length + 1), generator=torch.Generator().manual_seed(1))
    with LiveBytes() as live:
        batch = Batch(ids[:, :-1], ids[:, 1:])
        loss, tokens = language_model_loss(model, batch, chunk_tokens=chunk_tokens)
        (loss / tokens).backward()
    return loss.item() / length, {n: p.grad for n, p in model.named_parameters()}, live.peak


@pytest.mark.parametrize("length", [8192, pytest.param(32768, marks=pytest.mark.slow)])
def test_a_long_row(length):
    loss, gradients, peak = _one_pass(length, "full", length // 32)
    wanted_loss, wanted, plain_peak = _one_pass(length, "none", length)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).norm() < 2e-5 * gradient.norm(), name
    block = 6 * HIDDEN * length * 4  # what SwiGLU keeps of one block, and its gradients; fp32
    logits = SYMBOLS * length * 4  # their gradient needs as much again
    assert plain_peak > LAYERS * block / 2 + logits
    assert peak < 1.25 * block + logits / 8
