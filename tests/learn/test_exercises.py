"""Every exercise has an answer, and every answer's figures are as expected."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import book_weights
import exercise_resume
import exercises_attention
import exercises_decoding
import exercises_gpt2
import exercises_machine
import exercises_sizes
import exercises_text
import pytest
import story_fixture
import torch
from figures import Figure

from langwright.formats import save_model
from langwright.model import ModelConfig, build_model

LEARN = Path(__file__).resolve().parents[2] / "docs" / "learn"


def check(figures: Iterable[Figure], count: int) -> None:
    """All match, and there are as many as the exercise has."""
    found = list(figures)
    wrong = [str(figure) for figure in found if not figure.matches]
    assert not wrong, "\n".join(wrong)
    assert len(found) == count


def test_every_exercise_is_answered_and_listed() -> None:
    index = (LEARN / "README.md").read_text(encoding="utf-8")
    answered = set()
    for path in LEARN.glob("exercise*.py"):
        module = importlib.import_module(path.stem)
        numbers = {m[1] for name in dir(module) if (m := re.match(r"r(\d+)_", name))}
        assert numbers, path.name
        answered |= numbers
        rows = [line for line in index.splitlines() if path.name in line and line.startswith("|")]
        listed = set(re.findall(r"\bR(\d+)\b", " ".join(rows)))
        assert listed == numbers, path.name
    assert answered == {str(number) for number in range(1, 18)}


def test_r1_unknown_word(story_and_tokenizer: tuple) -> None:
    check(exercises_text.r1_unknown_word(story_and_tokenizer[1]), 4)


def test_r2_other_windows(story_and_tokenizer: tuple) -> None:
    check(exercises_text.r2_other_windows(*story_and_tokenizer), 12)


def test_r3_copied_weights() -> None:
    check(exercises_attention.r3_copied_weights(), 3)


def test_r4_two_numbers() -> None:
    check(exercises_attention.r4_two_numbers(), 3)


def test_r5_size_of_gpt2() -> None:
    check(exercises_attention.r5_size_of_gpt2(), 5)


def test_r6_feedforward_and_attention() -> None:
    check(exercises_sizes.r6_feedforward_and_attention(), 7)


def test_r7_bigger_models() -> None:
    check(exercises_sizes.r7_bigger_models(), 20)


def test_r8_three_rates() -> None:
    check(exercises_sizes.r8_three_rates(), 9)


def test_r9_pizza() -> None:
    check(exercises_decoding.r9_pizza(), 6)


def test_r10_temperature_and_k() -> None:
    check(exercises_decoding.r10_temperature_and_k(), 13)


def test_r11_no_chance() -> None:
    check(exercises_decoding.r11_no_chance(), 6)


def test_r12_one_more_epoch(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        check(exercise_resume.r12_one_more_epoch(tmp_path), 5)
    finally:
        torch.set_num_threads(threads)


def test_r12_stops_at_its_update_whatever_the_trainer_tries_before(tmp_path: Path) -> None:
    run = exercise_resume.trainer(tmp_path / "run", stop_after=3)
    model = exercise_resume.new_model()
    for _ in range(5):  # measurements, on the first rows
        run.objective(model, exercise_resume.rows().batch(0, exercise_resume.ROWS))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-0000003"]


def test_r15_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    check(exercises_machine.r15_environment(), 3)
    unmet = exercises_machine.unmet
    assert unmet("no-such-package-here>=1.0") == "no-such-package-here>=1.0: not installed"
    for version, fine in {
        "2.11.0": True,
        "2.13.1+cpu": True,
        "2.9.1": False,
        "2.14": False,
    }.items():
        monkeypatch.setattr("importlib.metadata.version", lambda _, v=version: v)
        assert (unmet("torch>=2.11,<2.14") is None) == fine, version


def test_r16_parameters() -> None:
    check(exercises_machine.r16_parameters(), 3)


def test_r17_cpu_or_gpu() -> None:
    check(exercises_machine.r17_cpu_or_gpu((16, 200)), 2)
    sizes, cpu = (1, 2, 4, 8), (1.0, 2.0, 8.0, 64.0)
    assert exercises_machine.first_win(sizes, cpu, (3.0, 3.0, 3.0, 3.0)) == 4
    assert exercises_machine.first_win(sizes, cpu, (0.5, 3.0, 3.0, 3.0)) == 4  # not by one lucky 1
    assert exercises_machine.first_win(sizes, cpu, (0.5, 0.5, 0.5, 0.5)) == 1
    assert exercises_machine.first_win(sizes, cpu, (3.0, 3.0, 9.0, 65.0)) is None


# ---- R10 (second half), R13 and R14: with GPT-2's weights where they are --------------------


@pytest.fixture
def real_weights() -> dict[str, Path]:
    """Folders of GPT-2's own weights beside the checkout or in it; skips where 124M is not."""
    root = LEARN.parents[1]
    for models in (root / "models", root.parent / "shared" / "models"):
        folders = exercises_gpt2.model_folders(models)
        if exercises_gpt2.SMALL in folders:
            return folders
    pytest.skip("needs GPT-2's weights: langwright get gpt2-124m")


@pytest.mark.slow
def test_r10_with_gpt2(real_weights: dict[str, Path]) -> None:
    check(exercises_gpt2.r10_settings(exercises_gpt2.open_size(real_weights["gpt2-124m"])), 2)


@pytest.mark.slow
def test_r13_losses(real_weights: dict[str, Path], story_and_tokenizer: tuple) -> None:
    model = exercises_gpt2.open_size(real_weights["gpt2-124m"])
    check(exercises_gpt2.r13_losses(model, story_and_tokenizer[0]), 3)


@pytest.mark.slow
def test_r14_bigger(real_weights: dict[str, Path], story_and_tokenizer: tuple) -> None:
    if len(real_weights) < 2:
        pytest.skip("needs a second size of GPT-2 beside 124M")
    check(exercises_gpt2.r14_bigger(real_weights, story_and_tokenizer[0]), 1)


@pytest.fixture
def tiny_folders(tmp_path: Path, story_and_tokenizer: tuple) -> Path:
    """Stand-ins for two sizes: 8 numbers wide, GPT-2's vocabulary."""
    for seed, name in enumerate(("gpt2-124m", "gpt2-355m")):
        config = ModelConfig(
            vocab_size=50257, context_length=256, width=8, layers=1, heads=2, init_std=0.5
        )
        model = build_model(config, seed=seed)
        save_model(tmp_path / name, model, story_and_tokenizer[1])
    return tmp_path


def test_the_gpt2_exercises_measure_what_they_say(
    tiny_folders: Path, story_and_tokenizer: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stand-ins: the losses are those of the book's own loop, and the wrong ones are told."""
    short = replace(story_fixture.CHAPTER_5, context_length=32)
    for module in (book_weights, story_fixture):
        monkeypatch.setattr(module, "CHAPTER_5", short)
    story, tokenizer = story_and_tokenizer
    story = story[:2000]  # 14 windows and one
    loaders = story_fixture.story_loaders(story, tokenizer.encode)
    assert [len(loader.dataset) for loader in loaders] == [14, 1]
    folders = exercises_gpt2.model_folders(tiny_folders)
    assert list(folders) == ["gpt2-124m", "gpt2-355m"]
    opened = exercises_gpt2.open_size(folders["gpt2-124m"])
    losses = exercises_gpt2.story_losses(opened, story)
    expected = [story_fixture.loader_loss(opened.model, loader) for loader in loaders]
    assert losses == pytest.approx(expected, abs=1e-4)
    assert abs(losses[0] - losses[1]) > 1e-4

    figures = list(exercises_gpt2.r13_losses(opened, story))
    assert [figure.matches for figure in figures] == [False] * 3
    assert [figure.found[0] for figure in figures[1:]] == losses

    second = exercises_gpt2.story_losses(exercises_gpt2.open_size(folders["gpt2-355m"]), story)[1]
    for order in (folders, dict(reversed(folders.items()))):
        (figure,) = exercises_gpt2.r14_bigger(order, story)
        assert sorted(figure.found) == pytest.approx(sorted([losses[1], second]))
        assert figure.matches == (figure.found[0] >= figure.found[1])
    check(exercises_gpt2.r10_settings(opened), 2)


def test_without_weights_it_says_how_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert exercises_gpt2.main(["--models", str(tmp_path)]) == 2
    assert "langwright get gpt2-124m" in capsys.readouterr().out
