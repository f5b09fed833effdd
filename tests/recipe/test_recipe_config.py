"""Recipes are checked before anything runs, and errors say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from langwright.base import UserError
from langwright.recipe import Recipe, load_recipe, recipe_text

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text)
    return path


def mistake(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(write(folder, text), overrides)
    return str(caught.value)


def test_an_empty_recipe_is_a_good_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, ""))
    assert recipe.name == "my" and recipe.sft is None and recipe.evaluate is None


def test_unknown_key_names_line_and_nearest(tmp_path: Path) -> None:
    text = mistake(tmp_path, "[corpus]\n\n[pretrain]\nsteps = 3\nbatch_tokns = 9\n")
    assert "my.toml:5 [pretrain] batch_tokns: unknown key 'batch_tokns'" in text
    assert "did you mean 'batch_tokens'?" in text


def test_unknown_section(tmp_path: Path) -> None:
    text = mistake(tmp_path, "[pretrian]\nsteps = 3\n")
    assert "my.toml:1" in text and "did you mean 'pretrain'?" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('steps = "many"', "valid integer"),
        ("steps = 0", "greater than or equal to 1"),
        ("clip = -1.0", "greater than 0"),
        ('precision = "int4"', "'fp32'"),
        ("steps = 3\nminutes = 1.0", "one length"),
    ],
)
def test_wrong_types_and_ranges_name_the_line(tmp_path: Path, line: str, words: str) -> None:
    text = mistake(tmp_path, f"[pretrain]\n{line}\n")
    assert "my.toml:" in text and "pretrain" in text and words in text


def test_nested_settings_are_named_in_full(tmp_path: Path) -> None:
    text = mistake(tmp_path, "[pretrain]\n[pretrain.optimizer]\nlr = 'fast'\n")
    assert "my.toml:3 [pretrain.optimizer] lr" in text


def test_a_mistake_in_the_model_is_found_at_once(tmp_path: Path) -> None:
    text = mistake(tmp_path, '[model]\npreset = "qwen3-2m"\nwidht = 3\n')
    assert "my.toml:3" in text and "did you mean 'width'?" in text
    text = mistake(tmp_path, '[model]\npreset = "qwen3-2mm"\n')
    assert "my.toml:2" in text and "qwen3-2m" in text


def test_overrides_win_and_are_named_in_errors(tmp_path: Path) -> None:
    path = write(tmp_path, "[pretrain]\nsteps = 3\n")
    recipe = load_recipe(path, ["pretrain.steps=5", "pretrain.optimizer.name=muon", "seed=9"])
    assert recipe.pretrain.steps == 5 and recipe.pretrain.optimizer.name == "muon"
    assert recipe.seed == 9
    assert "--set pretrain.steps=x" in mistake(tmp_path, "", "pretrain.steps=x")
    assert "cannot read this setting" in mistake(tmp_path, "", "pretrain.steps")
    text = mistake(tmp_path, "", "pretrain.stpes=3")
    assert "did you mean 'pretrain.steps'?" in text


def test_short_names_where_they_are_unique(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    assert load_recipe(path, ["packing=stream"]).dataset.packing == "stream"
    assert load_recipe(path, ["pretrain.kind=linear"]).pretrain.schedule.kind == "linear"
    text = mistake(tmp_path, "", "betas=[0.9, 0.99]")
    assert "pretrain.optimizer.betas or sft.optimizer.betas" in text


def test_tables_with_free_keys_can_be_set(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, ""), ["dataset.weights.my-books=2.5"])
    assert recipe.dataset.weights == {"my-books": 2.5}


def test_one_length_takes_the_place_of_another(tmp_path: Path) -> None:
    path = write(tmp_path, "[pretrain]\nminutes = 5.0\n")
    recipe = load_recipe(path, ["pretrain.steps=5"])
    assert recipe.pretrain.steps == 5 and recipe.pretrain.minutes is None
    text = mistake(tmp_path, "", "pretrain.steps=5", "pretrain.minutes=1")
    assert "one length" in text


def test_none_unsets(tmp_path: Path) -> None:
    """But not where it is one of the choices; and it does not drive out another length."""
    path = write(tmp_path, '[pretrain]\nsteps = 3\nclip = 2.0\n[sft]\nspike_threshold = "none"\n')
    changes = ["pretrain.minutes=none", "pretrain.clip=none", "model.kv_heads=none"]
    recipe = load_recipe(path, [*changes, "pretrain.checkpointing=none", "model.position=none"])
    assert recipe.pretrain.minutes is None and recipe.pretrain.steps == 3
    assert recipe.pretrain.clip is None and recipe.pretrain.checkpointing == "none"
    assert recipe.model["kv_heads"] is None and recipe.model["position"] == "none"
    assert recipe.sft is not None and recipe.sft.spike_threshold is None
    again = load_recipe(write(tmp_path, recipe_text(recipe)))
    assert again.pretrain == recipe.pretrain and again.sft == recipe.sft
    assert load_recipe(path, ["pretrain.steps=none"]).pretrain.steps is None
    assert load_recipe(path, ["sft=none"]).sft is None
    assert "--set pretrain.batch_tokens=none" in mistake(tmp_path, "", "pretrain.batch_tokens=none")


def test_the_seed_flows_into_stages_that_name_none(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "seed = 7\n[pretrain]\nseed = 5\n[sft]\n[evaluate]\n"))
    assert recipe.pretrain.seed == 5
    seeds = [recipe.corpus.seed, recipe.dataset.seed, recipe.evaluate.seed, recipe.sft.seed]  # type: ignore[union-attr]
    assert seeds == [7, 7, 7, 7]


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\\b"])
def test_a_name_must_be_a_folder_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="folder name"):
        load_recipe(write(tmp_path, ""), name=name)


def test_the_resolved_recipe_is_a_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes" / "quickstart.toml", ["pretrain.steps=5"])
    (tmp_path / "again.toml").write_text(recipe_text(recipe))
    assert load_recipe(tmp_path / "again.toml") == recipe


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_the_recipes_of_the_repository_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.architecture(recipe.tokenizer.vocab_size).layers >= 1


def test_every_setting_is_described() -> None:
    """--help and error messages are made from the descriptions."""

    def walk(config: type, path: str) -> None:
        from langwright.recipe.overrides import inner_config

        for name, field in config.model_fields.items():  # type: ignore[attr-defined]
            assert field.description, f"{path}{name} has no description"
            inner = inner_config(field.annotation)
            if inner is not None:
                walk(inner, f"{path}{name}.")

    walk(Recipe, "")
