"""A tiny recipe that runs through every stage in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

RECIPE = """\
name = "tiny"
seed = 3

[corpus]
sources = [{corpus!r}]
valid_share = 0.1
test_share = 0.1
{conversations}

[tokenizer]
vocab_size = 320

[dataset]
sequence_length = 128

[model]
preset = "qwen3-2m"
width = 32
layers = 1
heads = 2
kv_heads = 1
hidden_width = 64

[pretrain]
steps = 4
batch_tokens = 512
precision = "fp32"
compile = false
evaluate_rows = 4
sample_prompts = ["The "]
sample_tokens = 5

[sft]
steps = 2
batch_tokens = 512
precision = "fp32"
compile = false
evaluate_rows = 4

[evaluate]
max_heldout_bytes = 2000
classics_train_bytes = 20000
samples = 1
sample_tokens = 8
questions = 3
answer_tokens = 8
"""
WORDS = tuple(
    "the cat sat on a mat and then it ran far away from every dog in this town".split()  # noqa: SIM905
)


def story(seed: int, sentences: int) -> str:
    """Text that is easy to learn and never twice the same."""
    draw = random.Random(seed)
    lines = [" ".join(draw.choices(WORDS, k=9)).capitalize() + "." for _ in range(sentences)]
    return "\n".join(lines)


def write_corpus(folder: Path) -> Path:
    """60 documents and 60 conversations."""
    folder.mkdir()
    for i in range(60):
        (folder / f"story-{i:02}.txt").write_text(story(i, 12))
    return folder


def write_chats(path: Path) -> Path:
    """Conversations in the `messages` format."""
    draw = random.Random(0)
    lines = []
    for i in range(60):
        animal = draw.choice(["cat", "dog", "cow"])
        messages = [
            {"role": "user", "content": f"Where is the {animal} number {i}?"},
            {"role": "assistant", "content": f"The {animal} is far away."},
        ]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines))
    return path


def write_recipe(folder: Path, *, chats: bool = True) -> Path:
    """The tiny recipe and its corpus inside `folder`."""
    corpus = write_corpus(folder / "texts")
    given = str(write_chats(folder / "chats.jsonl")) if chats else "none"
    path = folder / "tiny.toml"
    text = RECIPE.format(corpus=str(corpus), conversations=f"conversations = {given!r}")
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has gone through every stage. Tests must not change it."""
    from langwright.recipe import run_recipe

    folder = tmp_path_factory.mktemp("finished")
    run = run_recipe(write_recipe(folder), runs=folder / "runs", tell=lambda text: None)
    return run.folder
