"""The [dial] section inside a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from langwright.base import UserError
from langwright.recipe import load_recipe, recipe_text

TEXT = """\
[dial]
depth = 6

[tokenizer]
vocab_size = 4096

[dataset]
sequence_length = 512

[model]
preset = "langwright-fast-10m"

[pretrain]
{pretrain}
"""


def write(folder: Path, pretrain: str = "") -> Path:
    path = folder / "dialled.toml"
    path.write_text(TEXT.format(pretrain=pretrain))
    return path


def test_the_dial_fills_in_what_is_open(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    assert recipe.architecture(4096).layers == 6
    assert recipe.architecture(4096).width == 384
    assert recipe.pretrain.tokens and recipe.pretrain.batch_tokens % 512 == 0
    assert recipe.pretrain.optim.name == "muon" and recipe.pretrain.optim.lr is not None


def test_the_file_stays_as_it_says(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "steps = 7\nbatch_tokens = 1024\noptimizer.lr = 0.5"))
    assert recipe.pretrain.steps == 7 and recipe.pretrain.tokens is None
    assert recipe.pretrain.batch_tokens == 1024
    assert recipe.pretrain.optim.lr == 0.5
    assert recipe.pretrain.optim.head_lr is not None


def test_another_optimizer_keeps_its_own_rates(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'optimizer.name = "adamw"'))
    assert recipe.pretrain.optim.name == "adamw" and recipe.pretrain.optim.lr is None


def test_the_dial_of_the_command_line_is_stronger_than_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "steps = 7\nbatch_tokens = 1024")
    recipe = load_recipe(path, ["dial.depth=4"])
    assert recipe.pretrain.steps is None and recipe.pretrain.batch_tokens != 1024
    recipe = load_recipe(path, ["dial.depth=4", "pretrain.steps=9"])
    assert recipe.pretrain.steps == 9 and recipe.pretrain.tokens is None


def test_a_written_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    again = tmp_path / "again.toml"
    again.write_text(recipe_text(recipe))
    assert load_recipe(again) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["dial.flops=1e15", "dial.depth=4"], "depth or flops"),
        (["dial.depth=99"], "no such depth"),
        (["tokenizer.kind=char"], "not known before the tokenizer"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(write(tmp_path), changes)


def test_a_budget_takes_the_place_of_the_files_depth(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), ["dial.flops=1e15"])
    assert recipe.dial is not None and recipe.dial.depth is None
    assert recipe.pretrain.tokens and recipe.architecture(4096).layers < 6
