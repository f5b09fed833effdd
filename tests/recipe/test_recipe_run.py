"""A whole run: what it leaves, what a second one does, and how it survives interruption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipe_small import story, write_recipe

from langwright.base import UserError, read_json, read_manifest, sha256_file
from langwright.corpus import CorpusConfig
from langwright.recipe import (
    load_recipe,
    open_run,
    plan,
    read_facts,
    run_recipe,
    summary_text,
    write_report,
)
from langwright.recipe import stages as stages_module
from langwright.recipe.lock import folder_lock
from langwright.recipe.sources import source_fingerprint


def copy_of(run: Path, to: Path) -> Path:
    """A run folder that may be changed; the recipe and the texts stay where they are."""
    shutil.copytree(run, to / run.name)
    return to


def recipe_of(run: Path) -> Path:
    return run.parents[1] / "tiny.toml"


def test_a_run_leaves_everything(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert {"corpus", "tokenizer", "dataset", "pretrain", "sft", "evaluate", "model"} <= names
    assert {"report.html", "recipe.toml", "recipe.json"} <= names
    assert not [name for name in names if name.endswith((".partial", ".old"))]
    run = open_run(finished_run)
    assert list(run.manifests) == ["corpus", "tokenizer", "dataset", "pretrain", "sft", "evaluate"]
    assert all(m.seconds > 0 and m.environment["python"] for m in run.manifests.values())
    same = sha256_file(finished_run / "sft" / "model" / "model.safetensors")
    assert sha256_file(run.model / "model.safetensors") == same
    assert read_json(run.model / "provenance.json")["run"] == "tiny"
    assert load_recipe(finished_run / "recipe.toml") == run.recipe


def test_the_model_answers(finished_run: Path) -> None:
    import langwright

    lm = langwright.load(finished_run / "model", device="cpu")
    assert isinstance(lm.generate("The cat", max_tokens=5, seed=1), str)
    assert isinstance(lm.chat([{"role": "user", "content": "Where?"}], max_tokens=5), str)


def test_a_second_run_does_nothing_and_says_so(finished_run: Path, tmp_path: Path) -> None:
    runs = copy_of(finished_run, tmp_path)
    said: list[str] = []
    run = run_recipe(recipe_of(finished_run), runs=runs, tell=said.append)
    assert run.remade == ()
    assert (
        sum("up to date" in line for line in said) == 2 * 6
    )  # in the plan and when its turn comes


def test_only_what_changed_runs_again(finished_run: Path, tmp_path: Path) -> None:
    runs = copy_of(finished_run, tmp_path)
    said: list[str] = []
    change = ["evaluate.samples=2"]
    run = run_recipe(recipe_of(finished_run), change, runs=runs, tell=said.append)
    assert run.remade == ("evaluate",)
    assert any("samples changed from 1 to 2" in line for line in said)
    recipe = load_recipe(recipe_of(finished_run), ["pretrain.keep_last=5", "sft.wandb=x"])
    assert {name: reason for name, reason in plan(recipe, runs / "tiny") if reason} == {
        "evaluate": "samples changed from 2 to 1"
    }
    recipe = load_recipe(recipe_of(finished_run), ["sft.steps=3"])
    rows = dict(plan(recipe, runs / "tiny"))
    assert rows["pretrain"] is None and "steps changed from 2 to 3" in str(rows["sft"])
    assert rows["evaluate"] is not None and "sft" in rows["evaluate"]


def test_a_stage_that_comes_out_the_same_stops_the_wave(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New code of the corpus stage that gives the same corpus: nothing after it runs."""
    runs = copy_of(finished_run, tmp_path)
    monkeypatch.setitem(stages_module.VERSIONS, "corpus", "2")
    run = run_recipe(recipe_of(finished_run), runs=runs, tell=lambda text: None)
    assert run.remade == ("corpus",)


def test_changed_files_make_a_new_corpus(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    before = stages_module.corpus_stage(recipe.corpus, tmp_path / "out")
    (tmp_path / "texts" / "story-99.txt").write_text(story(99, 5))
    after = stages_module.corpus_stage(recipe.corpus, tmp_path / "out")
    assert before.inputs != after.inputs


def test_a_run_inside_its_own_source_changes_nothing(finished_run: Path, tmp_path: Path) -> None:
    """Else the corpus of `--corpus .` would never be up to date."""
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text(story(1, 5))
    patterns = [str(texts), str(texts / "**"), str(texts / "*")]
    configs = [CorpusConfig(sources=[source]) for source in patterns]
    (texts / "runs").mkdir()
    before = [source_fingerprint(config) for config in configs]
    shutil.copytree(finished_run, texts / "runs" / "tiny")
    shutil.copytree(finished_run / "corpus", texts / "corpus")
    (texts / "sft.partial").mkdir()
    (texts / "sft.partial" / "x.txt").write_text("half")
    assert [source_fingerprint(config) for config in configs] == before
    (texts / "b.txt").write_text(story(2, 5))
    after = [source_fingerprint(config) for config in configs]
    assert all(one != other for one, other in zip(before, after))


def test_own_text_without_conversations_gives_a_base_model(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, chats=False)
    own = tmp_path / "own.txt"
    own.write_text(story(5, 600))
    said: list[str] = []
    weights = ["dataset.weights.texts=1.0"]
    run = run_recipe(recipe, weights, corpus=[own], runs=tmp_path, tell=said.append)
    assert "sft" not in run.manifests and (run.model / "model.safetensors").exists()
    assert any("skipped" in line for line in said)
    assert any("weights left out" in line for line in said)
    assert run.recipe.corpus.sources == [str(own)]
    text = run.summary()
    assert "langwright chat" not in text and "langwright generate" in text
    assert "Fine-tuning" not in run.report.read_text()


def test_two_runs_in_one_folder_are_refused(finished_run: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "tiny"), pytest.raises(UserError) as caught:
        run_recipe(recipe_of(finished_run), runs=tmp_path, tell=lambda text: None)
    assert "another run is at work in this folder" in str(caught.value)
    assert f"process {os.getpid()}" in str(caught.value)
    with folder_lock(tmp_path / "tiny"):
        pass  # it has been let go


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_interrupted_and_killed_runs_go_on_to_the_same_model(
    finished_run: Path, tmp_path: Path
) -> None:
    """Ctrl-C in the middle, then a kill, then the same command: the bytes of an unbroken run."""
    recipe = recipe_of(finished_run)
    command = [sys.executable, "-m", "langwright", "run", str(recipe), "--runs", str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    codes = []
    for wanted, sent in (("tokenizer", signal.SIGINT), ("pretrain.partial", signal.SIGKILL)):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True
        )
        limit = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < limit:
            if (tmp_path / "tiny" / wanted).exists():
                process.send_signal(sent)
                break
            time.sleep(0.01)
        _, said = process.communicate(timeout=120)
        codes.append(process.returncode)
        if sent == signal.SIGINT:
            assert "the same command goes on from here" in said
            assert "Traceback" not in said
    assert codes[0] == 130
    run = run_recipe(recipe, runs=tmp_path, tell=lambda text: None)
    for model in ("pretrain/model", "model"):
        weights = Path(model) / "model.safetensors"
        assert sha256_file(run.folder / weights) == sha256_file(finished_run / weights)


def test_facts_and_summary(finished_run: Path) -> None:
    facts = read_facts(finished_run)
    assert facts.headline["model"]["bits_per_byte"] > 0
    assert set(facts.classics()) == {"xz -9e", "zstd -19 --long=27", "byte 5-gram"}
    assert len(facts.training["pretrain"]) >= 4
    text = summary_text(finished_run)
    for words in ("Bits per byte", "xz -9e", "this model", "Q: ", "Time: ", "langwright chat"):
        assert words in text


def test_the_report_holds_every_part(finished_run: Path) -> None:
    html = (finished_run / "report.html").read_text()
    for title in ("How good it is", "Questions it had not seen", "What it writes", "Training",
                  "Fine-tuning", "Tokenizer", "Text", "The run", "Use it"):  # fmt: skip
        assert f"<h2>{title}</h2>" in html, title
    for words in ("by tokens", "by time", "Gradient norm", "Learning rate", "Share of the measured",
                  "Chosen automatically", "zstd -19", "step 4"):  # fmt: skip
        assert words in html, words
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in html


def test_the_report_of_a_run_with_missing_parts(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "part"
    shutil.copytree(finished_run, folder)
    for name in ("evaluate", "sft", "corpus"):
        shutil.rmtree(folder / name)
    (folder / "recipe.json").unlink()
    (folder / "pretrain" / "choices.json").unlink()
    with open(folder / "pretrain" / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "loss": ')  # being written
    written = write_report(folder, tmp_path / "out.html")
    assert Path(written["path"]).read_text().count("<section") >= 3
    with pytest.raises(UserError, match="no finished stage"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="not found"):
        write_report(tmp_path / "nothing")


def test_text_of_users_is_escaped_in_the_report(finished_run: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "evil"
    shutil.copytree(finished_run, folder)
    path = folder / "evaluate" / "evaluation.json"
    found = read_json(path)

    def poison(value: object) -> object:
        if isinstance(value, dict):
            return {key: poison(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [poison(inner) for inner in value]
        return evil if isinstance(value, str) and value not in ("base", "valid", "test") else value

    path.write_text(json.dumps(poison(found)))
    record = read_json(folder / "recipe.json")
    record["recipe"]["name"] = evil
    (folder / "recipe.json").write_text(json.dumps(record))
    write_report(folder)
    html = (folder / "report.html").read_text()
    assert "<script" not in html and "&lt;script&gt;" in html


def test_manifests_lead_from_the_model_to_the_files(finished_run: Path) -> None:
    """Each input fingerprint of a stage is the fingerprint of the artifact that stands there."""
    manifests = open_run(finished_run).manifests
    assert manifests["evaluate"].inputs["model"] == manifests["sft"].fingerprint
    assert manifests["evaluate"].inputs["base"] == manifests["pretrain"].fingerprint
    assert manifests["sft"].inputs["model"] == manifests["pretrain"].fingerprint
    assert manifests["pretrain"].inputs["dataset"] == manifests["dataset"].fingerprint
    assert read_manifest(finished_run / "corpus").fingerprint == manifests["corpus"].fingerprint
