"""Ablations of the tiny recipe: runs of equal work, kept, gone on with, and told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recipe_small import write_recipe

from langwright.base import UserError, human_seconds
from langwright.recipe import Ablation, ablate, ablation, ablation_trial, load_recipe
from langwright.recipe import stages as stages_module
from langwright.recipe.ablation_compute import Cost
from langwright.recipe.ablation_results import Outcome
from langwright.recipe.ablation_trial import Data, Trial, measured_loss

FILE = """\
[baseline]
set = ["pretrain.steps=3", "lr=0.01", "pretrain.sample_prompts=[]", "pretrain.valid_split=none"]

[variants.deeper]
about = "two layers"
set = ["layers=2", "pretrain.steps=3"]

[variants.broken]
set = ["train_split=nowhere"]

[variants.rate]
set = ["qk_norm=false"]
choose = ["lr=1e-9", "lr=0.01"]

[variants.stream]
set = ["packing=stream"]
"""
SEEDS = 2
RUNS = 5 * SEEDS + 2  # with the two choices


def quiet(text: str) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipe and a file of variants."""
    folder = tmp_path_factory.mktemp("ablation")
    write_recipe(folder, chats=False)
    (folder / "variants.toml").write_text(FILE)
    return folder


def run(place: Path, out: Path, **more: Any) -> Ablation:
    options: dict[str, Any] = {"seeds": SEEDS, "tell": quiet, "out": out, **more}
    return ablate(place / "tiny.toml", place / "variants.toml", **options)


@pytest.fixture(scope="module")
def finished(place: Path) -> Ablation:
    return run(place, place / "out")


def test_every_variant_has_its_runs(finished: Ablation) -> None:
    assert finished.seeds == [3, 4]
    assert [row.name for row in finished.rows] == ["baseline", "deeper", "broken", "rate", "stream"]
    for row in finished.rows:
        assert [one.seed for one in row.runs] == [3, 4]
        assert len(row.good) == (0 if row.name == "broken" else 2)
    losses = [one.loss for row in finished.rows for one in row.good]
    assert len(set(losses)) == len(losses) and all(3 < loss < 7 for loss in losses)
    assert finished.baseline.mean("tokens") == 3 * 512


def test_runs_have_equal_flops(finished: Ablation) -> None:
    deeper = finished.variants[0]
    assert deeper.mean("tokens") < finished.baseline.mean("tokens")
    for row in finished.rows:
        if row.good:
            assert row.mean("flops") == pytest.approx(finished.budget, rel=0.25)  # whole batches
    assert finished.baseline.mean("flops") == pytest.approx(finished.budget, rel=1e-12)


def test_a_failure_is_told_and_the_others_go_on(finished: Ablation) -> None:
    broken = finished.variants[1]
    assert broken.loss is None and finished.difference(broken) is None
    assert [one.error for one in broken.errors] == ["the dataset has no such split"] * 2
    assert finished.variants[-1].good
    assert "broken: seed 3 failed" in (finished.folder / "ablation.md").read_text()


def test_the_best_choice_is_taken_on_a_seed_of_its_own(finished: Ablation) -> None:
    rate = finished.variants[2]
    assert rate.chosen == "lr=0.01" and set(rate.tried) == {"lr=1e-9", "lr=0.01"}
    assert rate.settings == ["qk_norm=false", "lr=0.01"]
    found = {path.name for path in (finished.folder / "trials" / "rate").iterdir()}
    assert found == {"choice-1", "choice-2", "seed-3", "seed-4"}
    settings = json.loads((finished.folder / "trials/rate/choice-1/manifest.json").read_text())
    assert settings["config"]["pretrain"]["seed"] == 1003
    assert settings["config"]["pretrain"]["lr"] == 1e-9


def test_rows_of_its_own_are_measured_on_the_shared_ones(finished: Ablation) -> None:
    stream = finished.variants[3]
    assert stream.own_rows and not finished.variants[0].own_rows
    (dataset,) = (finished.folder / "datasets").iterdir()
    manifest = json.loads((finished.folder / "trials/stream/seed-3/manifest.json").read_text())
    shared = json.loads((finished.folder / "trials/deeper/seed-3/manifest.json").read_text())
    assert manifest["inputs"]["dataset"] != shared["inputs"]["dataset"]
    assert manifest["inputs"]["measured on"] == shared["inputs"]["measured on"]
    assert shared["inputs"]["measured on"] == shared["inputs"]["dataset"]
    assert json.loads((dataset / "manifest.json").read_text())["config"]["packing"] == "stream"


@dataclass(frozen=True)
class FakeStage:
    """A pretraining that is over at once."""

    inputs: dict[str, Path]
    work: Callable[[Path], dict[str, Any]]

    def run(self, tell: Callable[[str], None]) -> SimpleNamespace:
        return SimpleNamespace(metrics=self.work(Path("run")))


def test_a_run_is_measured_on_the_shared_rows_and_costs_what_it_did(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A rule made the batch larger: half as many updates as were planned."""
    done = {"tokens": 1024, "steps": 1, "seconds": 3.0}
    asked: list[tuple[Path, Path]] = []

    def measure(model: Path, dataset: Path) -> float:
        asked.append((model, dataset))
        return 2.5

    stage = FakeStage({}, lambda folder: dict(done))
    monkeypatch.setattr(ablation_trial, "pretrain_stage", lambda *arguments: stage)
    monkeypatch.setattr(ablation_trial, "measured_loss", measure)
    cost = Cost(per_token=2.0, per_update=100.0, batch_tokens=512, updates_per_token=1 / 512)
    trial = Trial(load_recipe(place / "tiny.toml"), cost, 1024, 7, tmp_path / "trial")
    outcome = trial.run(Data(Path("words"), Path("shared"), Path("own")))
    assert asked == [(Path("run/model"), Path("shared"))]
    assert (outcome.loss, outcome.tokens, outcome.updates) == (2.5, 1024, 1)
    assert outcome.flops == 2148.0 and trial.flops == 2248.0


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    monkeypatch.setattr(ablation_trial, "load_model", lambda *a, **b: None)
    monkeypatch.setattr(ablation_trial, "eval_windows", lambda *a: None)
    found = SimpleNamespace(nats_per_token=loss)
    monkeypatch.setattr(ablation_trial, "evaluate_rows", lambda *a: found)
    with pytest.raises(UserError, match="not a number"):
        measured_loss(Path("model"), Path("rows"))


def test_what_is_left_is_small_and_whole(finished: Ablation) -> None:
    kept = {path.name for path in (finished.folder / "trials/deeper/seed-3").iterdir()}
    assert kept == {"manifest.json", "metrics.jsonl", "choices.json"}
    numbers = json.loads((finished.folder / "ablation.json").read_text())
    assert numbers["seeds"] == [3, 4] and len(numbers["variants"]) == 4
    assert numbers["baseline"]["loss"]["count"] == 2
    runs = numbers["variants"][0]["runs"]
    assert {"seed", "loss", "tokens", "updates", "flops", "seconds", "error"} == set(runs[0])
    assert "<svg" in (finished.folder / "ablation.html").read_text()


def test_the_same_again_trains_only_what_failed(
    place: Path, finished: Ablation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained = count_trainings(monkeypatch)
    again = run(place, copy_of(finished, tmp_path))
    assert trained == [3, 4]  # the two seeds of the broken one
    assert [row.runs for row in again.rows] == [row.runs for row in finished.rows]


def test_another_seed_keeps_the_others(
    place: Path, finished: Ablation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = copy_of(finished, tmp_path)
    trained = count_trainings(monkeypatch)
    more = ablate(
        place / "tiny.toml",
        overrides=["pretrain.steps=3", "pretrain.lr=0.01", "pretrain.sample_prompts=[]"]
        + ["pretrain.valid_split=none"],
        vary=[["lr=0.02"]],
        seeds=3,
        out=out,
        tell=quiet,
    )
    assert trained == [5, 3, 4, 5]
    assert more.baseline.runs[:2] == finished.baseline.runs
    assert more.variants[0].name == "lr-0.02"


def test_an_interruption_loses_nothing(
    place: Path, finished: Ablation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stopped in the fourth run; the next call begins with that one and comes to the same."""
    with monkeypatch.context() as patch:
        trained = count_trainings(patch, stop_at=4)
        with pytest.raises(KeyboardInterrupt):
            run(place, tmp_path / "out")
        assert len(trained) == 4
    trained = count_trainings(monkeypatch)
    again = run(place, tmp_path / "out")
    assert len(trained) == RUNS - 3
    losses = [[one.loss for one in row.runs] for row in again.rows]
    assert losses == [[one.loss for one in row.runs] for row in finished.rows]


def test_a_runs_data_can_be_shared(
    place: Path, finished: Ablation, finished_run: Path, tmp_path: Path
) -> None:
    one = {"vary": [["lr=0.02"]], "seeds": 1, "tell": quiet}
    steps = ["pretrain.steps=1", "pretrain.sample_prompts=[]"]
    result = ablate(
        finished_run.parents[1] / "tiny.toml",
        overrides=steps,
        run=finished_run,
        out=tmp_path / "out",
        **one,
    )
    assert len(result.variants[0].good) == 1
    assert not (tmp_path / "out" / "corpus").exists()
    with pytest.raises(UserError, match="dataset of this run is not the recipe's"):
        ablate(
            finished_run.parents[1] / "tiny.toml",
            overrides=[*steps, "sequence_length=64"],
            run=finished_run,
            out=tmp_path / "other",
            **one,
        )


CHOOSING = """\
[baseline]
choose = ["lr=0.5", "lr=0.1", "lr=0.2"]

[variants.hopeless]
choose = ["weight_decay=0.5", "weight_decay=0.6"]

[variants.deeper]
set = ["layers=2"]
choose = ["lr=0.3", "lr=0.4"]
"""


def test_choices_of_the_baseline_are_everybodys(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With runs that cost nothing: the loss is the rate, a decay fails, and so does a rate of
    0.1, though it would have the lowest loss."""
    done: dict[str, tuple[float, int, int]] = {}

    def instead(trial: Trial, data: Data) -> Outcome:
        config = trial.config
        lr, decay = config.lr or 0.0, config.optimizer.weight_decay
        layers = trial.recipe.architecture(320).layers
        done["/".join(trial.folder.parts[-2:])] = (lr, layers, trial.seed)
        error = "no memory left" if lr == 0.1 or decay >= 0.5 else None
        return Outcome(trial.seed, 0.0 if error else lr, trial.tokens, 3, 1e9, 1e9, error)

    monkeypatch.setattr(Trial, "run", instead)
    told: list[str] = []
    (tmp_path / "v.toml").write_text(CHOOSING)
    shared = ["pretrain.steps=3", "pretrain.sample_prompts=[]"]
    result = ablate(
        place / "tiny.toml",
        tmp_path / "v.toml",
        seeds=2,
        overrides=shared,
        out=tmp_path / "out",
        tell=told.append,
    )
    assert result.baseline.chosen == "lr=0.2" and result.baseline.settings == ["lr=0.2"]
    assert result.baseline.tried == {"lr=0.5": 0.5, "lr=0.1": None, "lr=0.2": 0.2}
    hopeless, deeper = result.variants
    assert hopeless.loss is None and [one.seed for one in hopeless.errors] == [3, 4]
    assert deeper.settings == ["layers=2", "lr=0.3"]
    assert done["hopeless/choice-1"] == (0.2, 1, 1003)  # the baseline's rate
    assert done["deeper/choice-2"] == (0.4, 2, 1003)
    assert done["deeper/seed-4"] == (0.3, 2, 4) and "hopeless/seed-3" not in done
    numbers = [line.split(",")[0] for line in told if line.startswith("run ")]
    assert list(dict.fromkeys(numbers))[-1] == "run 13 of 13"
    assert not any("; about" in line for line in told)  # none took time: was there already


def test_the_time_that_is_left_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a clock of the test's own: a run takes a minute, and two were there already."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(ablation, "time", clock)

    def instead(trial: Trial, data: Data) -> Outcome:
        clock.now += 0.1 if trial.folder.parent.name == "baseline" else 60.0
        return Outcome(trial.seed, 1.0, trial.tokens, 3, trial.flops, 60.0)

    monkeypatch.setattr(Trial, "run", instead)
    told: list[str] = []
    ablate(
        place / "tiny.toml",
        vary=[["lr=0.02"], ["lr=0.03"]],
        seeds=2,
        overrides=["pretrain.steps=3", "pretrain.sample_prompts=[]"],
        out=tmp_path / "out",
        tell=told.append,
    )
    ends = [line.partition("tokens")[2] for line in told if "tokens" in line and "of 6," in line]
    times = [f"; about {human_seconds(60.0 * runs)} left" for runs in (3, 2, 1)]
    assert ends == ["", "", "", *times]


def count_trainings(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """The seeds of all trainings from here on; the one number `stop_at` is interrupted."""
    seeds: list[int] = []
    real = stages_module.pretrain

    def pretrain(config: Any, *arguments: Any) -> dict[str, Any]:
        seeds.append(config.seed)
        if len(seeds) == stop_at:
            raise KeyboardInterrupt
        return real(config, *arguments)

    monkeypatch.setattr(stages_module, "pretrain", pretrain)
    return seeds


def copy_of(finished: Ablation, to: Path) -> Path:
    """The folder of a finished ablation, to be changed."""
    return Path(shutil.copytree(finished.folder, to / "out"))
