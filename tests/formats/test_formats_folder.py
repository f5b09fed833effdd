"""Model folders: what is written, what comes back, and what is refused with which words."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from langwright.base import UserError, read_json
from langwright.formats import from_hf_config, load_model, save_model, to_hf_config
from langwright.model import ModelConfig, build_model, model_config, preset_names

SMALL = {"vocab_size": 30, "context_length": 32, "width": 16, "layers": 2, "heads": 2}
EXPERTS = {"count": 4, "chosen": 2, "hidden_width": 24}


def small(**options):
    return build_model(ModelConfig(**{**SMALL, **options}), seed=2).eval()


def ids():
    return torch.arange(12).reshape(2, 6)


def change_config(folder, **changes):
    table = read_json(folder / "config.json")
    table.update(changes)
    (folder / "config.json").write_text(json.dumps(table))


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


# Presets that no architecture of transformers computes as we do.
OURS_ALONE = {"gpt1-117m", "gpt2-char-10m", "gpt-oss-20b"} | {
    name for name in preset_names() if name.startswith("langwright-")
}


@pytest.mark.parametrize("name", preset_names())
def test_presets_have_an_architecture_and_come_back(name):
    config = model_config({"preset": name})
    table = to_hf_config(config)
    assert (table["model_type"] == "langwright") == (name in OURS_ALONE)
    back = from_hf_config(json.loads(json.dumps(table)))
    assert to_hf_config(back) == table
    for field in ("vocab_size", "width", "layers", "tied", "feedforward", "norm_eps", "qk_norm"):
        assert getattr(back, field) == getattr(config, field)


@pytest.mark.parametrize(
    "options,architecture",
    [
        ({}, "LlamaForCausalLM"),
        ({"qk_norm": True, "kv_heads": 1}, "Qwen3ForCausalLM"),
        ({"head_width": 6}, "LlamaForCausalLM"),
        ({"qkv_bias": True, "attention_out_bias": True}, "LlamaForCausalLM"),
        ({"qkv_bias": True}, "Qwen2ForCausalLM"),
        ({"norm_placement": "output", "qk_norm": True, "qk_norm_over": "all"}, "Olmo2ForCausalLM"),
        ({"position": "relative"}, "LangwrightForCausalLM"),
        ({"position": "alibi", "attention_sinks": True}, "LangwrightForCausalLM"),
        (
            {"experts": EXPERTS},
            "MixtralForCausalLM",
        ),
        (
            {"experts": {**EXPERTS, "selection_bias": True}},
            "LangwrightForCausalLM",
        ),
        (
            {"latent": {"kv_rank": 8, "query_rank": 6, "rotary_width": 4}, "head_width": 8},
            "LangwrightForCausalLM",
        ),
        ({"feedforward": "relu2"}, "LangwrightForCausalLM"),
        ({"feedforward": "geglu"}, "LangwrightForCausalLM"),
        ({"norm_affine": False}, "LangwrightForCausalLM"),
        ({"norm_placement": "post"}, "LangwrightForCausalLM"),
        ({"position": "learned"}, "LangwrightForCausalLM"),
        ({"position": "none", "head_width": 7}, "LangwrightForCausalLM"),
        ({"qk_norm": True, "feedforward_bias": True}, "LangwrightForCausalLM"),
    ],
)
def test_every_model_comes_back(options, architecture, tmp_path):
    model = small(**options)
    save_model(tmp_path, model, extra={"origin": "a test"})
    table = read_json(tmp_path / "config.json")
    assert table["architectures"] == [architecture]
    assert table["langwright"] == {"origin": "a test"}
    again = load_model(tmp_path)
    assert not again.training
    assert torch.equal(again(ids()), model(ids()))


def test_the_book_model_has_a_place_for_every_weight():
    """Separate embeddings, no qkv bias, biases elsewhere, an untied head, tanh GELU, eps 1e-5."""
    config = model_config(
        {
            "preset": "gpt2-124m",
            "tied": False,
            "qkv_bias": False,
            "layers": 1,
            "width": 24,
            "heads": 2,
        }
    )
    names = {name for name, _ in build_model(config).named_parameters()}
    block = "blocks.0."
    assert {n.removeprefix(block) for n in names if n.startswith(block)} == {
        *(
            f"{norm}.{kind}"
            for norm in ("attention_norm", "feedforward_norm")
            for kind in ("weight", "bias")
        ),
        *(f"attention.{part}.weight" for part in ("q", "k", "v", "out")),
        *(f"feedforward.{part}.{kind}" for part in ("up", "down") for kind in ("weight", "bias")),
        "attention.out.bias",
    }
    assert {n for n in names if not n.startswith(block)} == {
        "tokens.weight",
        "positions.weight",
        "norm.weight",
        "norm.bias",
        "head.weight",
    }
    assert (config.norm_eps, config.feedforward) == (1e-5, "gelu_tanh")


class FakeTokenizer:
    vocab_size, bos_id, eos_id, pad_id, stop_ids = 28, None, 26, 27, [26, 25]

    def save(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def test_tokenizer_files_and_ids(tmp_path):
    save_model(tmp_path, small(), FakeTokenizer())
    assert (tmp_path / "tokenizer.json").exists()
    config, generation = (
        read_json(tmp_path / f"{n}.json") for n in ("config", "generation_config")
    )
    assert (config["eos_token_id"], config["pad_token_id"]) == (26, 27)
    assert generation["eos_token_id"] == [26, 25]
    with pytest.raises(UserError, match="ids that the model does not"):
        save_model(tmp_path / "other", small(vocab_size=27), FakeTokenizer())
    assert not (tmp_path / "other").exists()


LLAMA = to_hf_config(ModelConfig(**SMALL))
QWEN3 = to_hf_config(ModelConfig(**SMALL, qk_norm=True))


def test_rotary_base_of_both_versions():
    plain = {k: v for k, v in LLAMA.items() if k not in ("rope_theta", "rope_parameters")}
    assert from_hf_config(plain).rotary_base == 10_000.0
    assert from_hf_config({**plain, "rope_theta": 5e5}).rotary_base == 5e5
    five = {"rope_type": "default", "rope_theta": 7e5}
    assert from_hf_config({**plain, "rope_parameters": five}).rotary_base == 7e5
    assert from_hf_config({**plain, "rope_theta": 5e5, "rope_scaling": None}).rotary_base == 5e5


@pytest.mark.parametrize(
    "table,words",
    [
        ([], ["JSON object"]),
        ({}, ["model_type None"]),
        ({"model_type": "mamba"}, ["mamba", "qwen3"]),
        ({"model_type": ["llama"]}, ["not supported"]),
        (
            {**LLAMA, "architectures": ["LlamaForSequenceClassification"]},
            ["SequenceClassification"],
        ),
        ({**LLAMA, "hidden_size": "16"}, ["hidden_size", "'16'"]),
        ({**LLAMA, "hidden_size": True}, ["hidden_size"]),
        ({**LLAMA, "hidden_size": -16}, ["width", "-16"]),
        ({**LLAMA, "num_hidden_layers": 10**9}, ["layers"]),
        ({**LLAMA, "vocab_size": 2**60}, ["vocab_size"]),
        ({**LLAMA, "rms_norm_eps": float("nan")}, ["rms_norm_eps"]),
        ({**LLAMA, "rope_parameters": {"rope_theta": "big"}}, ["rope_theta"]),
        ({**LLAMA, "rope_parameters": {"rope_theta": -1.0}}, ["rotary_base"]),
        (
            {**LLAMA, "rope_parameters": {"rope_type": "mystery", "factor": 4.0}},
            ["rope_parameters", "mystery"],
        ),
        ({**LLAMA, "rope_scaling": {"rope_type": "llama3"}}, ["rope_scaling", "llama3"]),
        ({**LLAMA, "hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        ({**LLAMA, "num_key_value_heads": 3}, ["heads (2)", "kv_heads (3)"]),
        ({**LLAMA, "attn_logit_softcapping": 50.0}, ["attn_logit_softcapping"]),
        ({**LLAMA, "quantization_config": {"bits": 4}}, ["quantization_config"]),
        ({**QWEN3, "layer_types": ["full_attention", "sliding_attention"]}, ["layer_types"]),
        (
            {"model_type": "gpt2", "vocab_size": 9, "scale_attn_weights": False},
            ["scale_attn_weights"],
        ),
        ({"model_type": "gpt2", "vocab_size": 9, "activation_function": "mish"}, ["mish"]),
        ({"model_type": "langwright", "vocab_size": 9, "heads": 0}, ["heads"]),
    ],
)
def test_configs_we_cannot_compute_are_refused(table, words):
    with pytest.raises(UserError) as error:
        from_hf_config(table, where="x/config.json")
    for word in ["x/config.json", *words]:
        assert word in str(error.value)


def damage_missing(folder):
    change_weights(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))


def damage_extra(folder):
    change_weights(folder, lambda t: t.update(surprise=torch.zeros(3)))


def damage_shape(folder):
    change_weights(folder, lambda t: t.update({"model.norm.weight": torch.zeros(17)}))


def damage_dtype(folder):
    change_weights(
        folder, lambda t: t.update({"model.norm.weight": torch.zeros(16, dtype=torch.int64)})
    )


def damage_nan(folder):
    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"][3, 2] = float("nan")

    change_weights(folder, change)


def damage_config(folder):
    change_config(folder, num_hidden_layers=3)


def damage_huge_config(folder):
    """A config that asks for a petabyte is refused by the file's shapes before any allocation."""
    change_config(folder, vocab_size=2**23, hidden_size=2**16, intermediate_size=2**19)


def damage_truncated(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def damage_layers(folder):
    change_config(folder, num_hidden_layers=30)


def damage_header(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + data[8:])


def damage_empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def damage_disguise(folder):
    torch.save({"x": torch.zeros(3)}, folder / "model.safetensors")


def damage_tied(folder):
    change_weights(folder, lambda t: t.update({"lm_head.weight": torch.zeros(30, 16)}))


def damage_sharded(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def damage_gone(folder):
    (folder / "model.safetensors").unlink()


def damage_no_config(folder):
    (folder / "config.json").unlink()


def damage_big_config(folder):
    (folder / "config.json").write_text('{"a": "' + "x" * (2 << 20) + '"}')


def damage_json(folder):
    (folder / "config.json").write_text('{"model_type": ')


@pytest.mark.parametrize(
    "damage,words",
    [
        (damage_missing, ["model.safetensors", "1 tensors are missing", "layers.1.mlp.up_proj"]),
        (damage_extra, ["model.safetensors", "surprise"]),
        (damage_shape, ["model.safetensors", "model.norm.weight", "(17,)", "(16,)"]),
        (damage_dtype, ["model.norm.weight", "I64"]),
        (damage_nan, ["layers.0.mlp.up_proj", "NaN", "1 of 1,024"]),
        (damage_config, ["missing", "model.layers.2"]),
        (damage_huge_config, ["embed_tokens", "8388608"]),
        (damage_layers, ["fewer tensors", "30 layers"]),
        (damage_truncated, ["model.safetensors", "not a whole safetensors file"]),
        (damage_header, ["not a whole safetensors file"]),
        (damage_empty, ["not a whole safetensors file", "empty"]),
        (damage_disguise, ["pickle", "not opened"]),
        (damage_tied, ["lm_head.weight", "tie_word_embeddings"]),
        (damage_sharded, ["weights are missing", "index.json"]),
        (damage_gone, ["weights are missing"]),
        (damage_no_config, ["no model", "config.json"]),
        (damage_big_config, ["too large"]),
        (damage_json, ["config.json:1", "JSON"]),
    ],
)
def test_damage_is_told(damage, words, tmp_path):
    save_model(tmp_path, small())
    damage(tmp_path)
    with pytest.raises(UserError) as error:
        load_model(tmp_path)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_never_opened(name, tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    save_model(tmp_path, small())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="pickle") as error:
        load_model(tmp_path)
    assert name in str(error.value)
    assert not (tmp_path / "sprung").exists()


def test_nan_check_can_be_left_out(tmp_path):
    save_model(tmp_path, small())
    damage_nan(tmp_path)
    assert load_model(tmp_path, check_finite=False)(ids()).isnan().any()


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="no such model folder"):
        load_model(tmp_path / "nowhere")


def test_tied_head_stored_twice_is_accepted(tmp_path):
    model = small()
    save_model(tmp_path, model)
    change_weights(
        tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    )
    assert torch.equal(load_model(tmp_path)(ids()), model(ids()))


def test_gpt2_file_of_the_hub(tmp_path):
    """No prefix "transformer.", and each layer's causal mask stored as a buffer."""
    config = model_config(
        {
            "preset": "gpt2-124m",
            "vocab_size": 30,
            "context_length": 32,
            "width": 16,
            "layers": 2,
            "heads": 2,
        }
    )
    model = build_model(config).eval()
    save_model(tmp_path, model)

    def change(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)

    change_weights(tmp_path, change)
    assert torch.equal(load_model(tmp_path)(ids()), model(ids()))


def test_saving_is_the_same_bytes_each_time(tmp_path):
    for name in ("a", "b"):
        save_model(tmp_path / name, small())
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
