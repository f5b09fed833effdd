"""The recipes that come with Langwright are valid, fit where they say, and the small ones run."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from recipe_small import story

from langwright.base import UserError
from langwright.cli import main
from langwright.plan import Plan, device_named, dry_runs, make_plan
from langwright.recipe import load_recipe, planned_model, recipe_job, run_recipe

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
ALL = sorted(FOLDER.glob("*.toml"))


def planned(name: str, device: str, world: int, changes: tuple[str, ...] = ()) -> Plan:
    recipe = load_recipe(FOLDER / f"{name}.toml", changes)
    place = device_named(device)
    return make_plan(recipe_job(recipe, place), place, world)


def told_settings(path: Path) -> list[tuple[str, ...]]:
    """The --set options of each command in a recipe's comments; a line that begins with one goes
    on with the line before."""
    found: list[list[str]] = []
    before = False
    for line in itertools.takewhile(lambda line: line.startswith("#"), path.open()):
        here = [a or b for a, b in re.findall(r"--set (?:'([^']*)'|(\S+))", line)]
        if here and before and line.lstrip("# ").startswith("--set"):
            found[-1] += here
        elif here:
            found.append(here)
        before = bool(here)
    return [tuple(settings) for settings in found]


TOLD = [(path, one) for path in ALL for one in told_settings(path)]


@pytest.mark.parametrize(("path", "settings"), TOLD, ids=lambda value: getattr(value, "stem", ""))
def test_what_the_comments_say_can_be_typed(path: Path, settings: tuple[str, ...]) -> None:
    assert load_recipe(path, settings) != load_recipe(path)


def test_rows_longer_than_the_models_context_are_refused() -> None:
    path = FOLDER / "llama3-1b.toml"
    with pytest.raises(UserError, match="longer than what the model is made to see") as told:
        load_recipe(path, ["dataset.sequence_length=8193"])
    for part in ("dataset.sequence_length = 8193", "model.context_length = 8192"):
        assert part in str(told.value.found)
    assert told.value.where == "--set dataset.sequence_length=8193"
    load_recipe(path, ["dataset.sequence_length=8193", "model.context_length=8193"])


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_planned(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert planned_model(recipe).context_length >= recipe.dataset.sequence_length


# recipe, device, devices, changes of the command line -> million parameters
LAYOUTS = [
    ("tiny-shakespeare", "h100", 1, (), 0.9),
    ("quickstart", "a100", 1, (), 1.05),
    ("nanogpt", "t4", 1, ("pretrain.precision=fp16",), 10.7),
    ("nanogpt", "a100", 2, (), 10.7),
    ("from-scratch", "h100", 1, (), 2),
    ("mix-change", "h100", 1, (), 2),
    ("continual", "rtx4090", 1, (), 134.5),
    ("gpt2-124m", "a100", 1, (), 124.5),
    ("gpt2-124m", "h100", 8, (), 124.5),
    ("speedrun", "h100", 1, (), 135),
    ("speedrun", "h100", 8, ("dial.depth=24",), 780),
    ("speedrun-fastest", "h100", 1, (), 286),
    ("speedrun-fastest", "h100", 8, ("dial.depth=24",), 1384),
    ("pythia-160m", "a100-40gb", 32, (), 162.3),
    ("olmo-1b", "h100", 64, (), 1485),
    ("llama3-1b", "h100", 8, told_settings(FOLDER / "llama3-1b.toml")[0], 1236),
    ("llama3-1b", "h100", 16, (), 1236),
    ("llama3-1b", "h100", 32, ("pretrain.parallel.dp_replicate=2",), 1236),
    ("llama3-1b", "h100", 64, told_settings(FOLDER / "llama3-1b.toml")[1], 1236),
]


@pytest.mark.parametrize(("name", "device", "world", "changes", "millions"), LAYOUTS)
def test_recipes_fit_where_they_say(
    name: str, device: str, world: int, changes: tuple[str, ...], millions: float
) -> None:
    plan = planned(name, device, world, changes)
    values = plan.to_json()
    assert plan.fits, values["memory"]
    assert values["parameters"] / 1e6 == pytest.approx(millions, rel=0.2)
    assert 0.005 < plan.utilisation < 0.7
    sizes = plan.layout.sizes
    product = sizes["pp"] * sizes["tp"] * sizes["cp"] * sizes["dp_shard"] * sizes["dp_replicate"]
    assert product == world
    assert bool(plan.traffic) == (world > 1)
    assert plan.seconds is not None or plan.job.tokens is None
    json.dumps(values)


def test_the_plan_command_tells_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", str(FOLDER / "llama3-1b.toml"), "--world", "16", "--device", "h100"]
    assert main(command) == 0
    said = capsys.readouterr().out
    for part in ("1.24B parameters", "pp 2 x dp_shard 4 x tp 2", "tensor parallel", "pipeline"):
        assert part in said
    assert re.search(r"opens in +Langwright, transformers \(LlamaForCausalLM\), llama.cpp", said)
    assert main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["layout"]["dp_shard"] == 4 and values["fits"] is True


SMALL_DRY = ("tiny-shakespeare", "quickstart", "nanogpt", "from-scratch", "mix-change")
LONG_DRY = {("speedrun", 8), ("speedrun-fastest", 8), ("gpt2-124m", 8), ("olmo-1b", 64)} | {
    ("llama3-1b", world) for world in (8, 16, 32, 64)
}
DRY = [
    pytest.param(
        *row[:4],
        marks=[pytest.mark.slow] if (row[0], row[2]) in LONG_DRY else [],
        id=f"{row[0]}-{row[2]}",
    )
    for row in LAYOUTS
]


@pytest.mark.parametrize(("name", "device", "world", "changes"), DRY)
def test_every_recipe_runs_dry(
    name: str, device: str, world: int, changes: tuple[str, ...]
) -> None:
    """All layers, in the recipe's own layout, each stage. Large models get one row at a time, and
    so many batches as show everything: more rows and batches change the bytes, not the way."""
    plan = planned(name, device, world, changes)
    if name not in SMALL_DRY:
        rows = plan.layout.data_size * (2 * plan.layout.pp if plan.layout.pp > 1 else 2)
        few = f"pretrain.batch_tokens={rows * plan.job.sequence_length}"
        plan = planned(name, device, world, (*changes, few, "pretrain.micro_batch_rows=1"))
    elif name == "nanogpt":  # with dropout a CPU keeps attention's scores, which a GPU never has
        plan = planned(name, device, world, (*changes, "model.dropout_attention=0"))
    for found in dry_runs(plan):
        # A vector shorter than the ranks is on some of them: the plan has the fullest one.
        assert found.parameters == pytest.approx(found.planned_parameters, rel=1e-3)
        assert found.resting_bytes == pytest.approx(8 * found.parameters, rel=1e-3)
        assert found.peak_bytes == pytest.approx(found.planned_peak, rel=0.3)
        assert found.sent_bytes == pytest.approx(found.planned_sent, rel=0.02)
        assert (found.sent_bytes > 0) == (world > 1)
        assert ("send" in found.collectives) == (plan.layout.pp > 1)
    assert plan.memory.total > 0 and 0.001 < plan.utilisation < 0.7


def test_the_plan_command_runs_dry(capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped layout, two pipeline stages of two tensor-parallel ranks, with two layers."""
    recipe = str(FOLDER / "llama3-1b.toml")
    small = ["--set=model.layers=2", "--set=pretrain.micro_batch_rows=1"]
    small += ["--set=pretrain.batch_tokens=65536"]
    command = ["plan", recipe, "--world", "8", "--device", "h100", "--dry-run", *small]
    assert main([*command, "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["dry_run"]
    assert [found["stage"] for found in stages] == [0, 1]
    for found in stages:
        assert found["sent_bytes"] == pytest.approx(found["planned_sent"], rel=0.02)
        assert found["peak_bytes"] == pytest.approx(found["planned_peak"], rel=0.3)
        assert found["collectives"]["allgather"] > 0 and found["collectives"]["send"] > 0


def test_a_budget_of_minutes_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(FOLDER / "speedrun.toml")
    assert main(["plan", recipe, "--device", "h100", "--minutes", "60", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["seconds"] == pytest.approx(3600, rel=0.1)
    assert main(["plan", recipe, "--device", "h100", "--depth", "4", "--flops", "1e18"]) == 2
    assert "one of" in capsys.readouterr().err


SMALL = (
    "pretrain.steps=6",
    "pretrain.batch_tokens=256",
    "pretrain.evaluate_rows=4",
    "pretrain.sample_tokens=5",
    "pretrain.precision=fp32",
    "pretrain.compile=false",
    "evaluate.samples=1",
    "evaluate.sample_tokens=5",
    "evaluate.classics=false",
    "model.layers=1",
    "model.width=32",
    "model.heads=2",
)


@pytest.mark.parametrize("name", ["nanogpt", "from-scratch"])
def test_an_end_to_end_flow_runs(name: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(story(seed, 12) for seed in range(60)))
    changes = [*SMALL, "dataset.sequence_length=32", "pretrain.schedule.warmup_steps=2"]
    if name == "from-scratch":
        changes += ["dataset.stride=16", "tokenizer.vocab_size=320"]
    else:
        changes += ["pretrain.micro_batch_rows=2"]  # accumulated over four passes
    run = run_recipe(
        FOLDER / f"{name}.toml",
        changes,
        corpus=[text],
        runs=tmp_path / "runs",
        tell=lambda line: None,
    )
    lines = [json.loads(x) for x in (run.folder / "pretrain/metrics.jsonl").open()]
    rates = [line["lr"] for line in lines if "lr" in line]
    assert len(set(rates)) > 3  # the schedule was followed
    metrics = run.manifests["pretrain"].metrics
    assert metrics["valid_loss"] > 0
    import langwright

    model = langwright.load(run.folder / "model", device="cpu")
    assert len(model.generate("The", max_tokens=5, seed=1)) > 3


def test_the_mix_and_the_batch_change_in_mid_run(tmp_path: Path) -> None:
    for number, name in enumerate(("docs", "code")):
        (tmp_path / name).mkdir()
        for i in range(20):
            text = story(100 * number + i, 12)
            (tmp_path / name / f"{i}.txt").write_text(text)
    text = (FOLDER / "mix-change.toml").read_text()
    paths = f'sources = ["{tmp_path / "docs"}", "{tmp_path / "code"}"]'
    text = text.replace('sources = ["python-docs", "python-source"]', paths)
    text = text.replace("python-docs", "docs").replace("python-source", "code")
    path = tmp_path / "mix-change.toml"
    path.write_text(text)
    small = [x for x in SMALL if "heads" not in x and "sample_tokens=5" not in x]
    changes = [*small, "dataset.sequence_length=32", "tokenizer.vocab_size=320", "model.heads=2"]
    changes += ["model.kv_heads=1", "pretrain.steps=10"]
    run = run_recipe(path, changes, runs=tmp_path / "runs", tell=lambda line: None)
    lines = [json.loads(x) for x in (run.folder / "pretrain/metrics.jsonl").open()]
    made = [line["change"] for line in lines if "change" in line]
    assert {"batch_factor": 2.0} in made
    assert {"mix": {"docs": 0.8, "code": 0.2}} in made
    tokens = [line["tokens"] for line in lines if "loss" in line]
    gained = [b - a for a, b in itertools.pairwise(tokens)]
    assert gained[0] == 256 and gained[-1] == 512
