"""The pretrain stage: a dataset folder in, a model folder out that opens again."""

import json

import pytest
import torch

from langwright.base import UserError
from langwright.dataset import DatasetConfig, write_dataset
from langwright.formats import load_model
from langwright.model import build_model, model_config
from langwright.tokenizer import CharTokenizer, load_tokenizer
from langwright.train import PretrainConfig, pretrain

TEXT = "the cat sat on the mat. the dog sat on the log. "


@pytest.fixture
def folders(tmp_path):
    tokenizer = CharTokenizer(sorted(set(TEXT)), ["<|endoftext|>"])
    tokenizer.save(tmp_path / "tokenizer")
    texts = {
        "train": {"cats": lambda: [TEXT * n for n in (1, 2, 3, 4)], "dogs": lambda: [TEXT * 9]},
        "valid": {"cats": lambda: [TEXT * 3], "dogs": lambda: [TEXT[::-1]]},
    }
    config = DatasetConfig.parse({"sequence_length": 32})
    write_dataset(config, texts, tokenizer, tmp_path / "dataset")
    return tmp_path


def _pretrain(folders, out="out", **changes):
    table = {"steps": 60, "batch_tokens": 256, "lr": 5e-3, "device": "cpu", "compile": False}
    config = PretrainConfig.parse({**table, "precision": "fp32", **changes})
    symbols = load_tokenizer(folders / "tokenizer").vocab_size
    shape = model_config(
        {"width": 32, "layers": 2, "heads": 2, "context_length": 32}, vocab_size=symbols
    )
    out = folders / out
    out.mkdir(exist_ok=True)
    return pretrain(config, shape, folders / "dataset", folders / "tokenizer", out), out


def test_a_model_folder_that_predicts_what_it_learned(folders):
    metrics, out = _pretrain(folders, sample_prompts=["the cat"], sample_tokens=4)
    model = load_model(out / "model")
    tokenizer = load_tokenizer(out / "model")
    logits = model(torch.tensor([tokenizer.encode("the cat sa")]))
    assert tokenizer.decode([int(logits[0, -1].argmax())]) == "t"
    # "cats" looks like the training text, "dogs" is written backwards.
    assert metrics["valid_cats"] < 1.0 < metrics["valid_dogs"]
    assert metrics["valid_cats"] < metrics["valid_loss"] < metrics["valid_dogs"]
    bits = metrics["valid_cats_bits_per_byte"]  # one byte per token, and one separator
    assert bits == pytest.approx(metrics["valid_cats"] / 0.6931, rel=0.02)
    looks = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert looks[-1]["samples"][0]["prompt"] == "the cat"
    assert {"model", "metrics.jsonl", "choices.json", "checkpoints"} <= {
        path.name for path in out.iterdir()
    }


def test_the_seed_decides_everything(folders):
    settings = {"steps": 5, "valid_split": None}
    a = load_model(_pretrain(folders, "a", **settings)[1] / "model").state_dict()
    b = load_model(_pretrain(folders, "b", **settings)[1] / "model").state_dict()
    c = load_model(_pretrain(folders, "c", seed=1, **settings)[1] / "model").state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["tokens.weight"], c["tokens.weight"])


def test_a_vocabulary_that_is_too_small(folders):
    config = PretrainConfig.parse({"steps": 1})
    shape = model_config({"width": 32, "layers": 1, "heads": 2}, vocab_size=5)
    with pytest.raises(UserError, match="vocabulary is smaller"):
        pretrain(config, shape, folders / "dataset", folders / "tokenizer", folders / "out")
    with pytest.raises(UserError, match="no such split"):
        _pretrain(folders, valid_split="validation")
    assert build_model(shape).config.vocab_size == 5
