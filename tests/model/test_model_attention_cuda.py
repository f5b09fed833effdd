"""FlexAttention where it is meant to run: on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from langwright.model import ModelConfig, attention_kernel, attention_reference, build_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

OPTIONS = {
    "plain": {"kv_heads": 2},
    "window": {"window": 40, "reach": ("local", "global")},
    "softcap": {"attention_softcap": 5.0, "kv_heads": 2},
    "sinks": {"attention_sinks": True},
    "all": {
        "attention_softcap": 5.0,
        "attention_sinks": True,
        "window": 70,
        "kv_heads": 1,
        "attention_scale": 0.2,
    },
    "latent": {
        "latent": {"kv_rank": 32, "rotary_width": 16, "value_width": 32},
        "head_width": 32,
        "window": 70,
        "attention_softcap": 5.0,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_flex_equals_reference_with_gradients(name, documents, compiled, monkeypatch):
    config = ModelConfig(
        vocab_size=50,
        context_length=256,
        width=128,
        heads=4,
        layers=2,
        **OPTIONS[name],
    )
    assert "flex" in attention_kernel(config, "cuda", training=True)[0]
    ids = torch.randint(0, 50, (2, 256), device="cuda")
    segments = torch.randint(0, 8, (2, 256), device="cuda").sort().values if documents else None
    results = []
    for form in (None, attention_reference):
        model = build_model(config, seed=1, device="cuda")
        if compiled and form is None:
            for block in model.blocks:
                block.compile(fullgraph=True, dynamic=False)
        if form is not None:
            monkeypatch.setattr("langwright.model.attention.attend", form)
        loss, count = model.loss(ids, ids.roll(-1, 1), segments=segments)
        (loss / count).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([model(ids, segments=segments), *gradients])
    for mine, reference in zip(*results, strict=True):
        difference = (mine - reference).norm() / reference.norm().clamp(min=1e-6)
        assert difference < 2e-3
