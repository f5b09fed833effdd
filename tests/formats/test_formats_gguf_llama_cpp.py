"""Files that we write run in llama.cpp, with our log-probabilities."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf_models import CASES, LlamaCpp, V, ids_of, last_logprobs, random_lm, tokenizer

from langwright.formats.gguf import load_gguf, save_gguf

pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")


@pytest.mark.parametrize("name", CASES)
def test_every_architecture(name, tmp_path):
    """llama.cpp looks GELU up in a table of half precision; everything else is float32 there."""
    _, settings = CASES[name]
    lm = random_lm(**settings)
    save_gguf(lm, tmp_path / "model.gguf", "f32")
    # Beyond the window and the original context, at which llama.cpp decides by the context's size.
    ids = ids_of(100)
    expected, count = LlamaCpp(tmp_path / "model.gguf", V).logprobs(ids[0].tolist())
    assert count == 100
    assert expected.std() > 2
    difference = np.abs(last_logprobs(lm.model, ids) - expected).max()
    assert difference < (0.03 if lm.model.config.feedforward.endswith("tanh") else 2e-4)


NAT = {"f16": 0.02, "bf16": 0.02, "q8_0": 0.05, "q4_0": 0.2}


@pytest.mark.parametrize("type", NAT)
def test_types(type, tmp_path):
    """The expected distance of log-probabilities to the model before it was written, and to what
    the file holds (llama.cpp has activations of 8 bits beside quantised weights)."""
    lm = random_lm(tied=False, width=128, layers=2)
    with torch.no_grad():  # as calm as a trained model: else every rounding grows in each layer
        for name, parameter in lm.model.named_parameters():
            if name.startswith("blocks.") and parameter.dim() > 1:
                parameter *= 0.2
            elif name.startswith("head"):
                parameter *= 0.3
    save_gguf(lm, tmp_path / "model.gguf", type)
    again, _ = load_gguf(tmp_path / "model.gguf")
    ids = ids_of(40)
    found, _ = LlamaCpp(tmp_path / "model.gguf", V).logprobs(ids[0].tolist())
    assert found.std() > 1.2
    for model, most in ((lm.model, NAT[type]), (again, min(NAT[type], 0.05))):
        ours = last_logprobs(model, ids)
        assert (np.exp(ours) * np.abs(ours - found)).sum() < most


@pytest.mark.parametrize(
    "change",
    [
        {"rotary_base": 9_000.0},
        {"norm_eps": 1e-3},
        {"tied": False},
        {"kv_heads": 4},
        {"rotary_scaling": {"kind": "linear", "factor": 1.1}},
    ],
)
def test_a_wrong_setting_is_caught(change, tmp_path):
    """The comparison can fail: another model's weights under these settings differ."""
    right, wrong = random_lm(), random_lm(**change)
    weights = right.model.state_dict()
    for key, value in wrong.model.state_dict().items():
        if key in weights and value.shape == weights[key].shape:
            value.copy_(weights[key])
    save_gguf(right, tmp_path / "model.gguf", "f32")
    ids = ids_of(60)
    found, _ = LlamaCpp(tmp_path / "model.gguf", V).logprobs(ids[0].tolist())
    assert np.abs(last_logprobs(right.model, ids) - found).max() < 2e-4
    assert np.abs(last_logprobs(wrong.model, ids) - found).max() > 1e-3


HARD = "\u00e9 \u00df 12345  two\n\n\tblanks \u4e2d\u6587 \U0001f600 it's IT'S a-b_c 3.14 abcabc"


def test_texts_are_cut_alike(tmp_path):
    """The prompt as text gives llama.cpp the ids that ours are."""
    lm = SimpleNamespace(model=random_lm().model, tokenizer=tokenizer())
    save_gguf(lm, tmp_path / "model.gguf", "f32")
    server = LlamaCpp(tmp_path / "model.gguf", V)
    ids = lm.tokenizer.encode(HARD)
    by_text, count = server.logprobs(HARD)
    by_ids, _ = server.logprobs(ids)
    assert count == len(ids)
    np.testing.assert_allclose(by_text, by_ids, atol=1e-5)
