"""Small random models of every architecture that GGUF files have, and llama.cpp to run them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from langwright.model import ModelConfig, Transformer, build_model
from langwright.tokenizer import BytePairTokenizer

V = 320
BASE = {
    "vocab_size": V,
    "context_length": 128,
    "width": 64,
    "layers": 4,
    "heads": 4,
    "kv_heads": 2,
    "hidden_width": 96,
}
GPT2 = {
    "kv_heads": None,
    "position": "learned",
    "norm": "layernorm",
    "norm_bias": True,
    "feedforward": "gelu_tanh",
    "qkv_bias": True,
    "attention_out_bias": True,
    "feedforward_bias": True,
}
GEMMA = {
    "head_width": 32,
    "feedforward": "geglu_tanh",
    "norm_offset": True,
    "embedding_scale": 8.0,
    "norm_eps": 1e-6,
}
SANDWICH = {**GEMMA, "norm_placement": "sandwich", "window": 16}
GEMMA3 = {
    **SANDWICH,
    "layers": 7,
    "qk_norm": True,
    "reach": ["local"] * 5 + ["global"],
    "rotary_base": 1e6,
    "rotary_base_local": 1e4,
}
PAIRS = [1.0 + 0.1 * i for i in range(8)]
LINEAR = {"kind": "linear", "factor": 4.0}
YARN = {"kind": "yarn", "factor": 4.0, "original_context": 32}
# What a model is called here -> the architecture of its file, and its settings
CASES: dict[str, tuple[str, dict]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2-untied": ("gpt2", {**GPT2, "tied": False}),
    "llama": ("llama", {"tied": False, "rotary_base": 5e5}),
    "llama-biases": (
        "llama",
        {"qkv_bias": True, "attention_out_bias": True, "feedforward_bias": True},
    ),
    "llama-3": (
        "llama",
        {
            "rotary_base": 500.0,
            "rotary_scaling": {"kind": "llama3", "factor": 8.0, "original_context": 32},
        },
    ),
    "llama-linear": ("llama", {"head_width": 32, "rotary_scaling": LINEAR}),
    "llama-yarn": ("llama", {"rotary_base": 500.0, "rotary_scaling": YARN}),
    "llama-longrope": (
        "llama",
        {
            "rotary_scaling": {
                "kind": "longrope",
                "factor": 4.0,
                "original_context": 32,
                "short_factors": PAIRS,
                "long_factors": [2 * one for one in PAIRS],
            }
        },
    ),
    "llama-experts": ("llama", {"experts": {"count": 4, "chosen": 2}}),
    "qwen2": ("qwen2", {"qkv_bias": True, "rotary_base": 1e6}),
    "qwen2-yarn": ("qwen2", {"qkv_bias": True, "rotary_base": 500.0, "rotary_scaling": YARN}),
    "qwen3": ("qwen3", {"qk_norm": True, "head_width": 32, "tied": False}),
    "qwen3-experts": (
        "qwen3moe",
        {"qk_norm": True, "experts": {"count": 4, "chosen": 2, "hidden_width": 64}},
    ),
    "gemma": ("gemma", {**GEMMA, "kv_heads": 1}),
    "gemma2": (
        "gemma2",
        {
            **SANDWICH,
            "reach": ["local", "global"],
            "attention_softcap": 50.0,
            "logit_softcap": 30.0,
        },
    ),
    "gemma3": ("gemma3", GEMMA3),
    "gemma3-linear": ("gemma3", {**GEMMA3, "rotary_scaling": LINEAR}),
    "olmo2": (
        "olmo2",
        {
            "kv_heads": None,
            "qk_norm": True,
            "qk_norm_over": "all",
            "norm_placement": "output",
            "tied": False,
        },
    ),
}


def tokenizer() -> BytePairTokenizer:
    """The 256 bytes and three marks, of which one ends a text."""
    return BytePairTokenizer.from_merges(
        [(b"a", b"b"), (b"ab", b"c")], "qwen2", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )


def random_model(**settings) -> Transformer:
    """Every parameter random, the logits with a standard deviation above 2."""
    config = ModelConfig(**{**BASE, **settings})
    model = build_model(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                wide = "tokens" in name or "head" in name
                parameter.normal_(0, 0.5 if wide else 0.25, generator=generator)
            elif "norm" in name and name.endswith("weight"):
                low = -0.5 if config.norm_offset else 0.5
                parameter.uniform_(low, low + 1, generator=generator)
            else:
                parameter.normal_(0, 0.5, generator=generator)
    return model


def random_lm(**settings) -> SimpleNamespace:
    return SimpleNamespace(model=random_model(**settings), tokenizer=tokenizer())


def ids_of(t: int) -> torch.Tensor:
    return torch.randint(0, 256, (1, t), generator=torch.Generator().manual_seed(3))


def last_logprobs(model: Transformer, ids: torch.Tensor) -> np.ndarray:
    """Log-probabilities (V,) of the token after `ids` (1, T)."""
    with torch.inference_mode():
        return model(ids)[0, -1].double().log_softmax(-1).numpy()


class LlamaCpp:
    """llama.cpp on one file, keys and values in full precision, on one thread."""

    def __init__(self, path: Path, size: int, context: int = 128) -> None:
        llama = pytest.importorskip("xllamacpp")
        params = llama.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.verbosity = context, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup = params.cache_prompt = params.fit_params = params.use_jinja = False
        params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.size, self.server = size, llama.Server(params)

    def logprobs(self, prompt: str | list[int], force: int = 65) -> tuple[np.ndarray, int]:
        """Log-probabilities (V,) of the next token, and how many tokens the prompt has.

        The token that is drawn, of which nothing is used, is `force`: a whole character.
        """
        answer = self.server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": 1,
                "n_probs": self.size,
                "cache_prompt": False,
                "ignore_eos": True,
                "logit_bias": [[force, 1000.0]],
            }
        )
        out = np.full(self.size, np.nan)
        for one in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            out[one["id"]] = one["logprob"]
        return out, answer["usage"]["prompt_tokens"]
