"""Logits, gradients and decoding against transformers, both ways; and these tests can fail."""

from __future__ import annotations

import pytest
import torch

from langwright.formats import load_model, save_model
from langwright.model import KVCache, ModelConfig, build_model

transformers = pytest.importorskip("transformers")

V = 61
LLAMA = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GPT2 = {
    "vocab_size": V,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "bos_token_id": None,
    "eos_token_id": None,
}
# name -> (config class, model class, settings)
CASES = {
    "qwen3": ("Qwen3", {**LLAMA, "head_dim": 8, "tie_word_embeddings": True}),
    "qwen3-untied-wide-heads": ("Qwen3", {**LLAMA, "head_dim": 12, "rms_norm_eps": 1e-3}),
    "qwen3-bias": ("Qwen3", {**LLAMA, "head_dim": 8, "attention_bias": True}),
    "llama": ("Llama", {**LLAMA, "tie_word_embeddings": True}),
    "llama-mha-untied": ("Llama", {**LLAMA, "num_key_value_heads": 4}),
    "llama-mqa-biases": (
        "Llama",
        {**LLAMA, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
    ),
    "gpt2": ("GPT2", GPT2),
    "gpt2-untied-gelu": (
        "GPT2",
        {**GPT2, "tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 40},
    ),
}


def randomise(model, seed=0):
    """Every parameter random and large enough that the logits have a standard deviation above 2."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(
                    0.0, 0.7 if any(part in name for part in ("emb", "wte", "lm_head")) else 0.3
                )
            else:
                parameter.uniform_(0.5, 1.5) if name.endswith("weight") else parameter.normal_()
    return model.eval()


def theirs_of(name):
    family, settings = CASES[name]
    config = getattr(transformers, f"{family}Config")(**settings, attn_implementation="eager")
    kind = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    return randomise(getattr(transformers, kind)(config))


def ids_of(batch=2, t=40):
    return torch.randint(0, V, (batch, t), generator=torch.Generator().manual_seed(3))


def their_logits(model, ids):
    return model(input_ids=ids, use_cache=False).logits


def greatest(a, b):
    return (a - b).abs().max().item()


@pytest.fixture
def quiet():
    transformers.logging.set_verbosity_error()


@pytest.mark.parametrize("name", CASES)
def test_theirs_to_ours_and_back(name, tmp_path, quiet):
    theirs, ids = theirs_of(name), ids_of()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    expected = their_logits(theirs, ids)
    assert expected.std() >= 2
    logits = ours(ids)
    assert greatest(logits, expected) <= 1e-4
    wide = [x.double().log_softmax(-1) for x in (expected, logits)]
    kl = (wide[0].exp() * (wide[0] - wide[1])).sum(-1).max()
    assert kl < 1e-9

    save_model(tmp_path / "ours", ours)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert type(again).__name__ == type(theirs).__name__
    assert greatest(their_logits(again, ids), logits) <= 1e-4
    mine = load_model(tmp_path / "ours")
    assert torch.equal(mine(ids), logits)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, atol=0, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_equal(name, tmp_path, quiet):
    """Their gradients, carried through a folder as if they were weights, equal ours."""
    theirs, ids = theirs_of(name), ids_of()
    theirs.save_pretrained(tmp_path / "weights")
    ours = load_model(tmp_path / "weights")
    targets = ids.roll(-1, dims=1)
    loss = torch.nn.functional.cross_entropy(
        their_logits(theirs, ids).flatten(0, 1), targets.flatten()
    )
    loss.backward()
    total, count = ours.loss(ids, targets, chunk_tokens=17)
    (total / count).backward()
    torch.testing.assert_close(total / count, loss, rtol=1e-6, atol=0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    expected = dict(load_model(tmp_path / "gradients").named_parameters())
    for key, parameter in ours.named_parameters():
        scale = expected[key].abs().max().clamp(min=1e-2)  # a key bias's is 0, but for rounding
        assert greatest(parameter.grad, expected[key]) <= 1e-4 * scale, key


@pytest.mark.parametrize("name", ["qwen3", "llama-mqa-biases", "gpt2"])
def test_cached_decoding_is_theirs(name, tmp_path, quiet):
    theirs, ids = theirs_of(name), ids_of(2, 12)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    generated = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=15, do_sample=False
    )
    cache = KVCache(ours.config, 2, 40)
    logits, rows = ours(ids, cache=cache), ids
    cache.advance(ids.shape[1])
    for _ in range(15):
        rows = torch.cat((rows, logits[:, -1:].argmax(-1)), dim=1)
        logits = ours(rows[:, -1:], cache=cache)
        cache.advance(1)
    assert torch.equal(rows, generated)


MUTATIONS = {
    "qwen3": {
        "rotary_base": 9_000.0,
        "norm_eps": 2e-3,
        "norm_placement": "post",
        "norm": "layernorm",
        "feedforward": "geglu",
        "position": "none",
        "kv_heads": 1,
    },
    "gpt2": {
        "norm_eps": 1e-2,
        "feedforward": "gelu",
        "position": "sinusoidal",
        "norm_placement": "post",
    },
}


@pytest.mark.parametrize(
    "name,field", [(name, field) for name, fields in MUTATIONS.items() for field in fields]
)
def test_a_wrong_setting_is_caught(name, field, tmp_path, quiet):
    """The parity test can fail: each wrong setting moves logits well beyond its tolerance."""
    theirs, ids = theirs_of(name), ids_of()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    changes = {field: MUTATIONS[name][field]}
    wrong = build_model(ModelConfig(**{**ours.config.model_dump(), **changes})).eval()
    weights = ours.state_dict()
    fitting = {
        key: weights[key][: value.shape[0]] if key in weights else value
        for key, value in wrong.state_dict().items()
    }
    wrong.load_state_dict(fitting)
    assert greatest(ours(ids), their_logits(theirs, ids)) <= 1e-4
    assert greatest(wrong(ids), their_logits(theirs, ids)) > 1e-3


def test_attention_scale_by_a_little_is_caught(tmp_path, quiet, monkeypatch):
    theirs, ids = theirs_of("llama"), ids_of()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    from langwright.model import attend

    monkeypatch.setattr(
        "langwright.model.attention.attend",
        lambda q, *rest, **more: attend(q * 1.001, *rest, **more),
    )
    assert greatest(ours(ids), their_logits(theirs, ids)) > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files(dtype, tmp_path, quiet):
    ids = ids_of()
    theirs_of("qwen3").to(dtype).save_pretrained(tmp_path / "theirs")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ours = load_model(tmp_path / "theirs")
    assert ours.tokens.weight.dtype == torch.float32
    assert greatest(ours(ids), their_logits(theirs, ids)) <= 1e-4
    save_model(tmp_path / "ours", ours, dtype=dtype)
    low = load_model(tmp_path / "ours", dtype=dtype)
    assert low.compute_dtype == low.tokens.weight.dtype == dtype
    assert torch.equal(low.tokens.weight.float(), ours.tokens.weight)
    with torch.no_grad():
        relative = (low(ids) - ours(ids)).norm() / ours(ids).norm()
    assert relative < (0.1 if dtype == torch.bfloat16 else 0.02)
