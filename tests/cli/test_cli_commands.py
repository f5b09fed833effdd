"""The words a person types: they work, and mistakes are told without a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from langwright.cli import main

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "langwright", *arguments]
    return subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, env=environment, **options
    )


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from langwright.cli.parser import build_parser\n"
        "text = build_parser().format_help()\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("run", "corpus", "tokenizer", "dataset", "pretrain", "sft", "eval", "report",
                 "compare", "generate", "chat", "info"):  # fmt: skip
        assert word in done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, langwright; assert 'torch' not in sys.modules; print(langwright.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_package_offers_what_it_says() -> None:
    import tomllib

    import langwright

    for name in langwright.__all__:
        assert getattr(langwright, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = langwright.nothing_like_this
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == langwright.__version__


@pytest.mark.parametrize("command", ["run", "pretrain", "tokenizer", "sft", "eval", "dataset"])
def test_help_of_a_command_lists_its_settings(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "settings (in a recipe, or with --set)" in text
    assert {"run": "optimizer.lr", "pretrain": "qwen3-2m", "tokenizer": "byte-level"}.get(
        command, "["
    ) in text


def test_a_mistake_is_told_without_a_traceback(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[pretrain]\nstpes = 3\n")
    done = start("run", str(recipe), "--runs", str(tmp_path))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "r.toml:2" in done.stderr and "did you mean 'steps'?" in done.stderr
    assert done.stdout == ""


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from langwright.cli import stages

    def bug(arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(stages, "report", bug)
    with pytest.raises(ZeroDivisionError):
        main(["report", "x"])


def test_interrupted_commands_say_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from langwright.cli import info, stages

    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "run", interrupted)
    assert main(["run", "x.toml"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    monkeypatch.setattr(info, "info", interrupted)
    assert main(["info"]) == 130
    assert "goes on" not in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(finished_run: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "langwright", "info", str(finished_run)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in errors and "BrokenPipe" not in errors


def test_every_stage_is_a_command_of_its_own(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stages one by one give the artifacts of the whole run, byte for byte."""
    recipe = str(finished_run.parents[1] / "tiny.toml")
    out = {name: str(tmp_path / name) for name in ("corpus", "tokenizer", "dataset", "pretrain")}
    config = ["--config", recipe]
    corpus = ["--corpus", out["corpus"]]
    assert main(["corpus", "--out", out["corpus"], *config]) == 0
    assert main(["tokenizer", *corpus, "--out", out["tokenizer"], *config]) == 0
    words = ["--tokenizer", out["tokenizer"]]
    assert main(["dataset", *corpus, *words, "--out", out["dataset"], *config]) == 0
    data = ["--dataset", out["dataset"], *words]
    assert main(["pretrain", *data, "--out", out["pretrain"], *config]) == 0
    assert "valid loss" in capsys.readouterr().out
    model = Path("model") / "model.safetensors"
    made = (tmp_path / "pretrain" / model).read_bytes()
    assert made == (finished_run / "pretrain" / model).read_bytes()
    assert main(["pretrain", *data, "--out", out["pretrain"], *config]) == 0
    assert "pretrain: up to date" in capsys.readouterr().err
    base = ["--model", out["pretrain"], *corpus]
    assert main(["sft", *base, "--out", str(tmp_path / "sft"), *config, "--set", "steps=1"]) == 0
    done = ["--model", str(tmp_path / "sft"), *corpus, "--base", out["pretrain"]]
    assert main(["eval", *done, "--out", str(tmp_path / "evaluate"), *config]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()


def test_stage_settings_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph number {i} says little." for i in range(1500)))
    out = str(tmp_path / "corpus")
    assert main(["corpus", str(text), "--out", out, "--set", "valid_share=0.2"]) == 0
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert manifest["config"]["valid_share"] == 0.2
    assert main(["corpus", str(text), "--out", out, "--set", "corpus.valid_share=2"]) == 2
    assert "--set corpus.valid_share=2" in capsys.readouterr().err
    assert main(["corpus", str(text), "--out", out, "--set", "valid_shar=0.1"]) == 2
    assert "did you mean 'corpus.valid_share'?" in capsys.readouterr().err
    assert main(["corpus", str(text)]) == 2
    assert "give --out DIR" in capsys.readouterr().err
    assert main(["corpus", str(tmp_path / "nothing"), "--out", out]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_plan_shows_and_does_nothing(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(finished_run.parents[1] / "tiny.toml")
    assert main(["run", recipe, "--runs", str(tmp_path), "--plan"]) == 0
    assert capsys.readouterr().out.count("run: not made yet") == 6
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value"),
    [("--world", "0"), ("--world", "-2"), ("--per-node", "-1"), ("--per-node", "0")]
    + [("--minutes", value) for value in ("nan", "inf", "0", "-1")],
)
def test_plans_for_nothing_are_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(Path(__file__).parents[2] / "recipes" / "from-scratch.toml")
    assert main(["plan", recipe, "--device", "h100", option, value]) == 2
    told = capsys.readouterr().err
    assert f"error: {option}: " in told and "expected:" in told


def test_generate(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--max-tokens", "8", "--seed", "3", "--device", "cpu"]
    texts = []
    for _ in range(2):
        assert main(["generate", str(finished_run), "The cat", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and texts[0].startswith("The cat")
    assert main(["generate", str(finished_run), "The", *options, "--count", "2"]) == 0
    assert capsys.readouterr().out.count("-" * 40) == 1
    assert main(["generate", str(finished_run / "model"), "x", "--temperature", "-1"]) == 2
    assert "temperature" in capsys.readouterr().err
    assert main(["generate", "no-such-model", "x"]) == 2
    assert "folder not found" in capsys.readouterr().err
    assert main(["generate", str(finished_run / "corpus"), "x"]) == 2
    assert "no model in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("", ["Run tiny", "pretrain", "parameters", "Modules", "attention_norm", "Provenance"]),
        ("model", ["1 layers, width 32", "Tokenizer", "<|im_end|>", "chat template", "made by"]),
        ("corpus", ["Artifact of stage corpus", "fingerprint", "sources", "torch"]),
        ("pretrain/model", ["KV cache", "MFLOP per trained token"]),
    ],
)
def test_info_of_folders(
    finished_run: Path, part: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(finished_run / part)]) == 0
    text = capsys.readouterr().out
    for word in words:
        assert word in text, word


def test_info_of_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("torch", "python", "cores", "GFLOP/s (measured)"):
        assert word in text
    assert main(["info", str(tmp_path)]) == 2
    assert "nothing here" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "nothing")]) == 2


def test_tokenizer_viewer(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "The cat sat. <|im_end|>"
    assert main(["tokenizer", str(finished_run), "--show", text]) == 0
    shown = capsys.readouterr().out
    assert "bytes per token" in shown and "'.'" in shown
    page = tmp_path / "tokens.html"
    assert main(["tokenizer", str(finished_run), "--show", "<b>&", "--html", str(page)]) == 0
    assert "<b>&" not in page.read_text()
    assert main(["tokenizer", "--show", "x"]) == 2
    assert main(["tokenizer"]) == 2


def test_reports_go_where_they_are_asked_to(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "page.html"
    assert main(["report", str(finished_run), "--out", str(out)]) == 0
    assert out.exists() and str(out) in capsys.readouterr().out


def test_a_run_from_the_command_line(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "tiny")
    recipe = str(finished_run.parents[1] / "tiny.toml")
    started = time.monotonic()
    done = start("run", recipe, "--runs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Bits per byte" in done.stdout and "langwright chat" in done.stdout
    assert "machine:" in done.stderr and done.stderr.count("up to date") == 12
    assert time.monotonic() - started < 60


def test_info_of_a_file_says_what_it_is(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "a b" / "report.html"
    page.parent.mkdir()
    page.write_text("x" * 2048)
    assert main(["info", str(page)]) == 2
    error = capsys.readouterr().err
    assert "folder not found" not in error and "a .html file of 2" in error
    assert "fix:" not in error
    (page.parent / "recipe.json").write_text("{}")
    assert main(["info", str(page)]) == 2
    assert f"langwright info '{page.parent}'" in capsys.readouterr().err
    assert main(["info", str(finished_run.parents[1] / "tiny.toml")]) == 2
    assert "langwright plan" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "nothing")]) == 2
    assert "folder not found" in capsys.readouterr().err


def test_a_plan_on_text_that_is_not_there_fails(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(finished_run.parents[1] / "tiny.toml")
    words = ["run", recipe, "--runs", str(tmp_path / "runs"), "--plan", "--corpus"]
    for missing in (str(tmp_path / "nofolder"), str(tmp_path / "*.txt")):
        assert main([*words, missing]) == 2
        shown = capsys.readouterr()
        assert missing in shown.err and not shown.out
    (tmp_path / "own.txt").write_text("mine")
    assert main([*words, str(tmp_path / "*.txt")]) == 0
    assert "not made yet" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_what_a_corpus_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    lines = (f"Paragraph number {i} says little." for i in range(1500))
    (texts / "good.txt").write_text("\n\n".join(lines))
    assert main(["corpus", str(texts), "--out", str(tmp_path / "clean")]) == 0
    assert "skipped:" not in capsys.readouterr().err
    for name in ("latin1.txt", "other.txt"):
        (texts / name).write_bytes("ä".encode("latin-1") * 50)
    assert main(["corpus", str(texts), "--out", str(tmp_path / "corpus")]) == 0
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "skipped:" in one]
    assert line == (
        "corpus: 2 skipped: 2 not utf-8 (latin1.txt ...): see report.json; corpus.encoding may help"
    )
