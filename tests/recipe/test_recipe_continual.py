"""Continual pretraining: a model that exists is trained further on other text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from recipe_small import story

from langwright.base import UserError
from langwright.formats import load_model
from langwright.recipe import load_recipe, plan, run_recipe

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "continual.toml"
SMALL = (
    "pretrain.batch_tokens=256",
    "pretrain.evaluate_rows=4",
    "pretrain.precision=fp32",
    "pretrain.compile=false",
    "pretrain.steps=10",
    "pretrain.schedule.warmup_steps=3",
    "dataset.sequence_length=64",
    "dataset.weights={}",
    "evaluate.samples=1",
    "evaluate.sample_tokens=5",
    "evaluate.classics=false",
)


def changes_for(model: Path) -> list[str]:
    return [*SMALL, f"tokenizer.path={model}", f"pretrain.start_from={model}"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "field.txt"
    path.write_text("\n".join(story(seed, 12).upper() for seed in range(60)))
    return path


def test_a_model_learns_a_field_of_its_own(finished_run: Path, text: Path, tmp_path: Path) -> None:
    start = finished_run / "pretrain" / "model"
    changes = changes_for(start)
    runs = tmp_path / "runs"
    run = run_recipe(RECIPE, changes, corpus=[text], runs=runs, tell=lambda line: None)
    lines = [json.loads(x) for x in (run.folder / "pretrain/metrics.jsonl").open()]
    rates = [line["lr"] for line in lines if "lr" in line]
    peak = max(rates)
    assert rates[0] < peak and rates[-1] < 0.5 * peak  # warmed up again, decayed again
    old, new = load_model(start), load_model(run.folder / "pretrain" / "model")
    assert new.config.width == old.config.width == 32
    moved = [float((a - b).detach().abs().max()) for a, b in zip(old.parameters(), new.parameters(),
             strict=True)]  # fmt: skip
    assert 0 < max(moved) < 0.1  # further from where it stood, not from scratch
    recipe = load_recipe(RECIPE, changes).replace(name="continual")
    again = run_recipe(RECIPE, changes, corpus=[text], runs=runs, tell=lambda line: None)
    assert again.remade == ()
    assert recipe.pretrain.start_from == str(start)


def test_another_start_is_another_run(finished_run: Path, text: Path, tmp_path: Path) -> None:
    """The weights that the training begins with are an input of its stage, whatever their path."""
    start, words = tmp_path / "start", finished_run / "pretrain" / "model"
    shutil.copytree(words, start)
    changes = [*changes_for(words)[:-1], f"pretrain.start_from={start}"]
    runs = tmp_path / "runs"
    run = run_recipe(RECIPE, changes, corpus=[text], runs=runs, tell=lambda line: None)
    recipe = load_recipe(RECIPE, [*changes, f'corpus.sources=["{text}"]'])
    assert dict(plan(recipe, run.folder))["pretrain"] is None
    weights = "model.safetensors"
    shutil.copy(finished_run / "sft" / "model" / weights, start / weights)
    reasons = dict(plan(recipe, run.folder))
    assert reasons["dataset"] is None and reasons["pretrain"] is not None


def test_the_shape_is_the_models(finished_run: Path) -> None:
    changes = changes_for(finished_run / "pretrain" / "model")
    recipe = load_recipe(RECIPE, [*changes, "model.dropout_residual=0.1"])
    assert recipe.architecture(320).width == 32
    assert recipe.architecture(320).dropout_residual == 0.1
    with pytest.raises(UserError, match="decides this"):
        load_recipe(RECIPE, [*changes, "model.width=64"])


def test_a_model_of_another_shape_is_refused(finished_run: Path) -> None:
    from langwright.train import PretrainConfig
    from langwright.train.starting import starting_model

    folder = finished_run / "pretrain" / "model"
    config = PretrainConfig.parse({"start_from": str(folder)})
    shape = load_model(folder).config
    same = starting_model(config, shape, "cpu")
    assert torch.equal(same.tokens.weight, load_model(folder).tokens.weight)
    with pytest.raises(UserError, match="another shape") as caught:
        starting_model(config, shape.replace(layers=2), "cpu")
    assert "blocks.1" in caught.value.render()
