"""Ablations that cannot be: refused before anything is trained, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_small import write_recipe

from langwright.base import UserError
from langwright.recipe import ablate
from langwright.recipe.ablation import open_experiment
from langwright.recipe.ablation_variants import read_variants
from langwright.recipe.lock import folder_lock

VARY = [["lr=0.1"]]


def quiet(text: str) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipe."""
    folder = tmp_path_factory.mktemp("ablation")
    write_recipe(folder, chats=False)
    return folder


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("corpus.valid_share=0.2", "share the [corpus]"),
        ("vocab_size=300", "share the [tokenizer]"),
        ("pretrain.steps=9", "follows from equal compute"),
        ("pretrain.seed=9", "follows from equal compute"),
        ("pretrain.batch_tokens=64", "less than one row"),
        ("qk_nrom=true", "did you mean"),
        ("model.heads=0", "heads"),
    ],
)
def test_variants_that_do_not_compare_are_refused_before_training(
    place: Path, tmp_path: Path, settings: str, words: str
) -> None:
    if settings.startswith("vocab_size"):
        settings = "tokenizer." + settings
    with pytest.raises(UserError) as caught:
        ablate(place / "tiny.toml", vary=[["lr=0.1"], [settings]], out=tmp_path / "o", tell=quiet)
    assert words in str(caught.value) and not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["baseline", "variants.rate"])
def test_choices_are_checked_before_training(place: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "v.toml").write_text(
        f'[{name}]\nchoose = ["lr=0.1", "qk_nrom=true"]\n[variants.other]\nset = ["lr=0.2"]\n'
    )
    with pytest.raises(UserError, match="did you mean"):
        ablate(place / "tiny.toml", tmp_path / "v.toml", out=tmp_path / "o", tell=quiet)
    assert not (tmp_path / "o").exists()


def test_files_of_variants_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "v.toml"
    path.write_text('[variants."../up"]\nset = []\n')
    with pytest.raises(UserError, match="folder name") as caught:
        read_variants(path)
    assert f"{path}:1" in str(caught.value)
    path.write_text("[variants.baseline]\nset = []\n")
    with pytest.raises(UserError, match="folder name"):
        read_variants(path)
    path.write_text("[variants.a]\nsett = []\n")
    with pytest.raises(UserError, match="unknown key 'sett'"):
        read_variants(path)
    path.write_text("[variants.lr-0\n")
    with pytest.raises(UserError, match="not valid TOML"):
        read_variants(path)
    with pytest.raises(UserError, match="nothing to compare"):
        read_variants(None)
    with pytest.raises(UserError, match="cannot read this setting"):
        read_variants(None, [["lr"]])
    path.write_text('[variants."lr-0.1"]\nset = []\n')
    with pytest.raises(UserError, match="two variants of one name"):
        read_variants(path, [["pretrain.lr=0.1"]])
    with pytest.raises(UserError, match="two variants of one name"):
        read_variants(None, [["pretrain.lr=0.1"], ["lr=0.1"]])
    long = ["changes=[" + ", ".join(f"{{at=0.{i}}}" for i in range(10, 30)) + "]"]
    (name,) = read_variants(None, [long]).variants
    assert len(name) == 80  # a folder's name
    assert list(read_variants(path, [["lr=0.2"]]).variants) == ["lr-0.1", "lr-0.2"]
    found = read_variants(None, [["optimizer.name=adamw", "lr=1e-3"], ["changes=[{at=0.5}]"]])
    assert list(found.variants) == ["name-adamw_lr-1e-3", "changes-at-0.5"]


def test_the_shipped_variants_fit_their_recipe() -> None:
    recipes = Path(__file__).resolve().parents[2] / "recipes"
    for path in (recipes / "ablations").glob("*.toml"):
        experiment = open_experiment(recipes / path.name, path, [], tell=quiet)
        assert len(experiment.variants.variants) > 10
        assert all(variant.about for variant in experiment.variants.variants.values())


def test_one_ablation_at_a_time_in_a_folder(place: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "out"), pytest.raises(UserError, match="another run is at work"):
        ablate(place / "tiny.toml", vary=VARY, out=tmp_path / "out", tell=quiet)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_seeds_are_needed(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no seeds"):
        ablate(place / "tiny.toml", vary=VARY, out=tmp_path / "o", tell=quiet, seeds=0)
