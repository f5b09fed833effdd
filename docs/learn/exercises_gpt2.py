"""Exercises of chapter 5 with GPT-2's own weights: settings (5.2), losses (5.5), sizes (5.6).

These need OpenAI's weights, which are not part of this repository: `langwright get gpt2-124m`
fetches the smallest, half a gigabyte. Every folder `gpt2-124m`, `gpt2-355m`, `gpt2-774m`,
`gpt2-1558m` in the folder of models is used, in any form that Langwright reads.

    python docs/learn/exercises_gpt2.py --models models
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from book_weights import story_rows
from figures import Figure, close, show
from story_fixture import data_folders, find_file

from langwright.evaluate import evaluate_rows
from langwright.generate import LanguageModel, load

SMALL = "gpt2-124m"
SIZES = (SMALL, "gpt2-355m", "gpt2-774m", "gpt2-1558m")
PARAMETERS = dict(zip(SIZES, (124_439_808, 354_823_168, 774_030_080, 1_557_611_200)))
PROMPT = "Every effort moves you"


def model_folders(models: Path) -> dict[str, Path]:
    """The sizes that lie in the folder, smallest first."""
    return {name: models / name for name in SIZES if (models / name).is_dir()}


def open_size(folder: Path) -> LanguageModel:
    """On the CPU in fp32, where the printed losses come out to the last digits."""
    model = load(folder, device="cpu", dtype="fp32")
    if model.tokenizer is None:
        sys.exit(f"exercises_gpt2: {folder} has no tokenizer; fetch it again with `langwright get`")
    return model


def story_losses(model: LanguageModel, story: str) -> list[float]:
    """Nats per token on the book's training and validation part of the story."""
    parts = story_rows(story, model.tokenizer, shuffle=False)
    return [evaluate_rows(model.model, rows).nats_per_token for rows in parts]


def r10_settings(model: LanguageModel) -> Iterator[Figure]:
    """Exercise 5.2 again: 25 tokens for each temperature and k; the book shows 1.5 and 50."""
    for temperature in (0.0, 0.7, 1.0, 1.5):
        for k in (1, 50):
            text = model.generate(
                PROMPT, temperature=temperature, top_k=k, top_p=1.0, max_tokens=25, seed=123
            )
            print(f"    temperature {temperature:g}, k {k}: {text!r}")
    plain = {"max_tokens": 25, "top_p": 1.0, "ignore_eos": True}
    greedy = model.generate(PROMPT, temperature=0.0, **plain)
    only_one = model.generate(PROMPT, top_k=1, temperature=1.5, seed=1, **plain)
    yield close("R10 k = 1 is greedy at any temperature", only_one == greedy, True)
    hot = {model.generate(PROMPT, temperature=1.5, top_k=50, seed=s, **plain) for s in range(3)}
    yield close("R10 temperature 1.5, k 50: texts of three seeds", len(hot), 3)


def r13_losses(model: LanguageModel, story: str) -> Iterator[Figure]:
    """Exercise 5.5: the pretrained model's losses on a story that it was not shown on purpose.

    They are alike, and both far below the 6.4 that training on the story alone reaches on the
    part held out: knowledge of English, not of this story.
    """
    count = sum(parameter.numel() for parameter in model.model.parameters())
    yield close("R13 parameters", count, PARAMETERS[SMALL])
    train, valid = story_losses(model, story)
    yield close("R13 training part", train, 3.754748503367106, 1e-4)
    yield close("R13 validation part", valid, 3.559617757797241, 1e-4)


def r14_bigger(folders: dict[str, Path], story: str) -> Iterator[Figure]:
    """Exercise 5.6: each bigger size predicts the story better, and writes more fluently."""
    losses = []
    for name, folder in folders.items():
        model = open_size(folder)
        losses.append(story_losses(model, story)[1])
        text = model.generate(PROMPT, temperature=0.0, max_tokens=25)
        print(f"    {name}: {losses[-1]:.4f} nats per token; {text!r}")
        del model  # one at a time: the largest holds 6 GiB
    yield close("R14 bigger is better", losses, sorted(losses, reverse=True))


def main(arguments: list[str] | None = None) -> int:
    """Answer what the folders allow; 1 if a figure differs, 2 if there are no weights."""
    parser = argparse.ArgumentParser(description="The exercises that need GPT-2's weights.")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of folders")
    parser.add_argument("--data", type=Path, help="folder with the-verdict.txt")
    options = parser.parse_args(arguments)
    folders = model_folders(options.models)
    if SMALL not in folders:
        missing = options.models / SMALL
        print(f"no folder {missing}: run `langwright get {SMALL} --to {missing}`")
        return 2
    story = find_file(data_folders(options.data), "the-verdict.txt").read_text(encoding="utf-8")
    model = open_size(folders[SMALL])
    wrong = show(r10_settings(model), r13_losses(model, story))
    del model
    if len(folders) > 1:
        wrong |= show(r14_bigger(folders, story))
    else:
        print("exercise 5.6 needs a bigger size too: `langwright get gpt2-355m`")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
