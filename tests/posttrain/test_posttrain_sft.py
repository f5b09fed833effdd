"""Fine-tuning: the masked loss by hand, and a model that learns its answers by heart."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from langwright.base import UserError
from langwright.formats import save_model
from langwright.generate import Sampling, load
from langwright.model import ModelConfig, build_model
from langwright.posttrain import SFTConfig, sft, training_rows, validation_rows
from langwright.tokenizer import CharTokenizer, Tokenizer
from langwright.train import language_model_loss

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
FACTS = {
    "sky": "blue",
    "grass": "green and soft",
    "snow": "white",
    "coal": "black as night",
    "sun": "yellow",
    "rose": "red, mostly",
    "sea": "deep",
    "night": "dark.",
}


def chat(thing: str, answer: str) -> dict:
    return {
        "messages": [
            {"role": "user", "content": f"What is the {thing}?"},
            {"role": "assistant", "content": answer},
        ]
    }


@pytest.fixture
def tokenizer() -> CharTokenizer:
    return CharTokenizer.train([string.printable], SPECIALS, eos="<|endoftext|>", unknown="unk")


@pytest.fixture
def base(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    config = ModelConfig.parse(
        {
            "vocab_size": tokenizer.vocab_size,
            "context_length": 96,
            "width": 48,
            "layers": 2,
            "heads": 4,
            "position": "rotary",
            "norm": "rmsnorm",
        }
    )
    save_model(tmp_path / "base", build_model(config, seed=0), tokenizer)
    return tmp_path / "base"


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Path]:
    def make(documents: list[str] | None = None, **splits: list[dict]) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = tmp_path / "corpus"
        (folder / "conversations").mkdir(parents=True, exist_ok=True)
        (folder / "train").mkdir(exist_ok=True)
        (folder / "report.json").write_text("{}")
        for split, chats in splits.items():
            lines = "".join(json.dumps(one) + "\n" for one in chats)
            (folder / "conversations" / f"{split}.jsonl").write_text(lines)
        if documents:
            columns = {
                "id": [str(i) for i in range(len(documents))],
                "source": ["text"] * len(documents),
                "text": documents,
                "meta": ["{}"] * len(documents),
            }
            pq.write_table(pa.table(columns), folder / "train" / "text.parquet")
        return folder

    return make


CHATS = [chat(*pair) for pair in FACTS.items()]
TINY = {
    "device": "cpu",
    "precision": "fp32",
    "compile": False,
    "batch_tokens": 8 * 96,
    "evaluate_every": 0,
    "checkpoint_minutes": 10.0,
}


def test_the_model_learns_its_answers(base: Path, make_corpus: Callable, tmp_path: Path) -> None:
    """Eight conversations by heart: greedy answers are exact, and they stop by themselves."""
    config = SFTConfig(**TINY, steps=110, lr=6e-3, schedule={"kind": "linear", "floor": 0.0})
    out = tmp_path / "out"
    out.mkdir()
    metrics = sft(config, base, make_corpus(train=CHATS, valid=CHATS[:4]), out)
    assert metrics["conversations"] == metrics["used"] == 8
    assert metrics["valid_conversations"] == 4
    assert metrics["valid_loss_before"] > 4.0  # about ln 104: it knows nothing
    assert metrics["valid_loss_after"] < 0.05
    lm = load(out / "model", device="cpu")
    for thing, answer in FACTS.items():
        messages = [{"role": "user", "content": f"What is the {thing}?"}]
        ids = lm.tokenizer.encode_chat(messages, add_generation_prompt=True).ids
        done = lm.complete_ids([ids], Sampling(temperature=0.0, max_tokens=40))[0]
        assert done.text == answer
        assert done.stop_id == lm.tokenizer.special_tokens["<|im_end|>"]
        assert lm.chat(messages, temperature=0.0) == answer


@pytest.mark.parametrize("pack", [True, False])
def test_loss_is_that_of_the_answers_alone(
    base: Path, make_corpus: Callable, tokenizer: Tokenizer, pack: bool
) -> None:
    """The training loss of one pass against log-probabilities of the answers, one by one."""
    lm = load(base, device="cpu")
    nats, count = 0.0, 0
    for thing, answer in FACTS.items():
        prompt = f"<|im_start|>user\nWhat is the {thing}?<|im_end|>\n<|im_start|>assistant\n"
        before = tokenizer.encode(prompt, allowed_special="all")
        said = tokenizer.encode(answer + "<|im_end|>", allowed_special="all")
        with torch.no_grad():
            logprobs = lm.model(torch.tensor([before + said]))[0].log_softmax(-1)
        for offset, target in enumerate(said):
            nats -= logprobs[len(before) + offset - 1, target].item()
            count += 1
    config = SFTConfig(pack=pack)
    rows = training_rows(config, tokenizer, make_corpus(train=CHATS), 96)
    with torch.no_grad():
        loss, weight = language_model_loss(lm.model, rows.batch(0, rows.epoch_rows))
    assert weight == count == rows.report["counted_tokens"]
    assert loss.item() == pytest.approx(nats, rel=1e-5)


def test_long_conversations_are_skipped_and_counted(
    make_corpus: Callable, tokenizer: Tokenizer
) -> None:
    corpus = make_corpus(train=[*CHATS, chat("x" * 200, "long")])
    rows = training_rows(SFTConfig(), tokenizer, corpus, 96)
    assert (rows.report["used"], rows.report["skipped_long"], rows.report["cut"]) == (8, 1, 0)
    cut = training_rows(SFTConfig(long="cut"), tokenizer, corpus, 96)
    assert (cut.report["used"], cut.report["skipped_long"], cut.report["cut"]) == (9, 0, 1)
    some = training_rows(SFTConfig(max_conversations=3), tokenizer, corpus, 96)
    assert some.report["conversations"] == 3
    assert validation_rows(SFTConfig(), tokenizer, corpus, 96) is None


def test_replay_mixes_documents_in(make_corpus: Callable, tokenizer: Tokenizer) -> None:
    documents = [f"document {i} " * 20 for i in range(30)]
    corpus = make_corpus(train=CHATS, documents=documents)
    plain = training_rows(SFTConfig(pack=False), tokenizer, corpus, 96)
    rows = training_rows(SFTConfig(pack=False, replay=0.5), tokenizer, corpus, 96)
    assert rows.report["used"] == 8 and rows.report["replayed_pieces"] > 0
    batch = rows.batch(0, rows.epoch_rows)
    chats = plain.batch(0, plain.epoch_rows)
    filled = [int((b.targets != -100).sum()) for b in (chats, batch)]
    places = sum(len(tokenizer.encode_chat(one["messages"]).ids) for one in CHATS)
    assert filled[1] - filled[0] == pytest.approx(places, rel=0.2)  # half of all tokens
    begins = batch.inputs[:, 0] == tokenizer.eos_id
    assert begins.any()
    row = int(np.argmax(begins.numpy()))
    assert (batch.targets[row] != -100).all()  # every token of a document counts


def test_mistakes_are_named(base: Path, make_corpus: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no conversations"):
        sft(SFTConfig(**TINY), base, make_corpus(), tmp_path)
    with pytest.raises(UserError, match="no conversations"):
        sft(SFTConfig(**TINY), base, make_corpus(train=[]), tmp_path)
    bad = {"messages": [{"role": "judge", "content": "x"}]}
    with pytest.raises(UserError, match=r"conversation 9.*role"):
        sft(SFTConfig(**TINY), base, make_corpus(train=[*CHATS, bad]), tmp_path)
    with pytest.raises(UserError, match="sequence_length"):
        sft(SFTConfig(**TINY, sequence_length=200), base, make_corpus(train=CHATS), tmp_path)
    alone = [{"messages": [{"role": "user", "content": "anyone?"}]}]
    with pytest.raises(UserError, match="no conversation can be used"):
        sft(SFTConfig(**TINY), base, make_corpus(train=alone), tmp_path)


def test_defaults_are_filled_in() -> None:
    settled = SFTConfig().settled()
    assert (settled.epochs, settled.optim.lr) == (2.0, 3e-4)
    assert SFTConfig(steps=5).settled().epochs is None
    muon = SFTConfig(optimizer={"name": "muon"}).settled()
    assert muon.optim.lr is None
    assert SFTConfig(optimizer={"lr": 1e-5}).settled().optim.lr == 1e-5
    assert settled.settled() == settled


def test_same_seed_same_weights(base: Path, make_corpus: Callable, tmp_path: Path) -> None:
    config = SFTConfig(**TINY, steps=3, lr=1e-3)
    corpus = make_corpus(train=CHATS)
    states = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        metrics = sft(config, base, corpus, tmp_path / name)
        states.append(load(tmp_path / name / "model", device="cpu").model.state_dict())
        assert metrics["valid_loss_before"] is None
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
