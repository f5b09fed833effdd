"""``langwright ablate``: the table on the screen, mistakes without a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from langwright.cli import main

SHORT = ["--set", "pretrain.steps=1", "--set", "pretrain.sample_prompts=[]"]


def test_a_table_of_variants(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(finished_run.parents[1] / "tiny.toml")
    words = ["ablate", recipe, *SHORT, "--run", str(finished_run), "--out", str(tmp_path / "out")]
    words += ["--seeds", "2", "--vary", "optimizer.name=muon", "optimizer.lr=0.02"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "name-muon_lr-0.02" in shown.out and "95 % interval" in shown.out
    assert "baseline" in shown.out and str(tmp_path / "out" / "ablation.html") in shown.out
    assert "run 4 of 4, name-muon_lr-0.02, seed-4" in shown.err and "left" in shown.err
    assert main([*words, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["variants"][0]["settings"] == ["optimizer.name=muon", "optimizer.lr=0.02"]
    assert numbers["flops_per_run"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to compare the recipe to"),
        (["--vary", "lr"], "cannot read this setting"),
        (["--vary", "qk_nrom=true"], "did you mean"),
        (["--over", "nowhere.toml"], "nowhere.toml"),
        (["--vary", "lr=1", "--seeds", "0"], "at least 1"),
        (["--vary", "lr=1", "--set", "pretrain.minutes=1"], "a length in tokens or steps"),
        (["--vary", "lr=1", "--corpus", "nowhere"], "nowhere"),
        (["--vary", "lr=1", "--run", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_told(
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    recipe = str(finished_run.parents[1] / "tiny.toml")
    assert main(["ablate", recipe, "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error
