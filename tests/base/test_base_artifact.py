"""Stages: run once, run again only for a reason, survive being killed anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from langwright.base import (
    UserError,
    artifact,
    can_continue,
    fingerprint,
    key_parts,
    read_json,
    read_manifest,
    run_stage,
    why_stale,
    write_json,
)


def counted(calls: list[Path], text: str = "hello") -> Any:
    def work(folder: Path) -> dict[str, Any]:
        calls.append(folder)
        (folder / "data.txt").write_text(text)
        return {"letters": len(text)}

    return work


def test_runs_once_and_again_only_for_a_reason(tmp_path: Path) -> None:
    calls: list[Path] = []
    said: list[str] = []
    out = tmp_path / "thing"
    config: dict[str, Any] = {"size": 1, "optimizer": {"lr": 0.1}}

    def go(config: dict[str, Any], inputs: Any = None, version: str = "1") -> Any:
        return run_stage(
            "thing",
            out,
            counted(calls),
            config=config,
            inputs=inputs,
            version=version,
            say=said.append,
        )

    first = go(config)
    assert first.metrics == {"letters": 5}
    assert list(first.files) == ["data.txt"]
    assert read_manifest(out) == first
    assert go(config) == first and len(calls) == 1
    go({"size": 1, "optimizer": {"lr": 0.2}})
    assert "optimizer.lr changed from 0.1 to 0.2" in said[-1]
    go({"size": 1, "optimizer": {"lr": 0.2}}, inputs={"corpus": "abc"})
    assert "its input 'corpus' changed" in said[-1]
    go({"size": 1, "optimizer": {"lr": 0.2}}, inputs={"corpus": "abc"}, version="2")
    assert "the code that makes it changed" in said[-1]
    (out / "data.txt").unlink()
    go({"size": 1, "optimizer": {"lr": 0.2}}, inputs={"corpus": "abc"}, version="2")
    assert "data.txt is missing" in said[-1]
    assert len(calls) == 5
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("*.old"))


def test_a_setting_that_went_away_is_named(tmp_path: Path) -> None:
    out = tmp_path / "thing"
    run_stage("thing", out, counted([]), config={"a": 1, "b": 2})
    assert (
        why_stale(out, key_parts=key_parts("thing", config={"a": 1})) == "b changed from 2 to None"
    )


def test_some_settings_do_not_decide(tmp_path: Path) -> None:
    calls: list[Path] = []
    out = tmp_path / "thing"
    for keep in (1, 2):
        config = {"train": {"keep": keep, "rate": 1}}
        manifest = run_stage("thing", out, counted(calls), config=config, ignore={"train.keep"})
    assert len(calls) == 1 and manifest.config == {"train": {"keep": 1, "rate": 1}}
    said: list[str] = []
    config = {"train": {"keep": 2, "rate": 2}}
    run_stage("thing", out, counted(calls), config=config, ignore={"train.keep"}, say=said.append)
    assert said == ["thing: train.rate changed from 1 to 2"]


def test_interrupted_work_is_found_again(tmp_path: Path) -> None:
    out = tmp_path / "thing"
    seen: list[bool] = []

    def work(folder: Path) -> dict[str, Any]:
        half = folder / "half.txt"
        seen.append(half.exists())
        half.write_text("x")
        if len(seen) == 1:
            raise KeyboardInterrupt
        return {}

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_stage("thing", out, work, config={"a": 1}, say=said.append)
    assert not out.exists()
    assert can_continue(out, key_parts=key_parts("thing", config={"a": 1}))
    assert not can_continue(out, key_parts=key_parts("thing", config={"a": 2}))
    run_stage("thing", out, work, config={"a": 1}, say=said.append)
    assert seen == [False, True]
    assert said == ["thing: not made yet", "thing: goes on where it was interrupted"]
    assert not can_continue(out, key_parts=key_parts("thing", config={"a": 1}))


def test_partial_work_under_another_config_is_thrown_away(tmp_path: Path) -> None:
    out = tmp_path / "thing"

    def stop(folder: Path) -> dict[str, Any]:
        (folder / "half.txt").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("thing", out, stop, config={"a": 1})
    manifest = run_stage("thing", out, counted([]), config={"a": 2})
    assert list(manifest.files) == ["data.txt"]


def test_killed_between_manifest_and_rename_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    out = tmp_path / "thing"

    def dies(new: Path, place: Path) -> None:
        raise SystemExit("killed here")

    monkeypatch.setattr(artifact, "_replace_folder", dies)
    with pytest.raises(SystemExit):
        run_stage("thing", out, counted(calls), config={"a": 1})
    monkeypatch.undo()
    manifest = run_stage("thing", out, counted(calls), config={"a": 1})
    assert len(calls) == 1, "the finished work was thrown away"
    assert (out / "data.txt").read_text() == "hello" and manifest.metrics == {"letters": 5}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_sigkill_never_leaves_half_an_artifact(tmp_path: Path) -> None:
    """Kill a process that makes one artifact after another; whatever stands there is whole."""
    script = (
        "import sys, pathlib; from langwright.base import run_stage\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "def work(folder):\n"
        "    for i in range(20): (folder / f'{i}.txt').write_text('x' * 1000)\n"
        "    return {}\n"
        "for n in range(10**6):\n"
        "    run_stage('thing', out, work, config={'n': n})\n"
        "    if n == 0: print('ready', flush=True)\n"
    )
    out = tmp_path / "thing"
    for delay in (0.0, 0.013, 0.029, 0.041, 0.067):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"

        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if out.exists():
            manifest = read_manifest(out)
            assert len(manifest.files) == 20
            assert all((out / name).stat().st_size == 1000 for name in manifest.files)


def test_fingerprints(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    folder = fingerprint(tmp_path)
    assert fingerprint("given") == "given"
    assert fingerprint(tmp_path / "a.txt") != folder
    (tmp_path / "a.txt").write_text("b")
    assert fingerprint(tmp_path) != folder
    with pytest.raises(UserError, match="not found"):
        fingerprint(tmp_path / "missing")


def test_two_artifacts_with_the_same_content_have_one_fingerprint(tmp_path: Path) -> None:
    one = run_stage("thing", tmp_path / "one", counted([]), config={"a": 1})
    two = run_stage("thing", tmp_path / "two", counted([]), config={"a": 2})
    assert one.key != two.key and one.fingerprint == two.fingerprint


def test_a_broken_manifest_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished artifact"):
        read_manifest(tmp_path)
    write_json(tmp_path / "manifest.json", {"stage": "x"})
    with pytest.raises(UserError, match="broken manifest"):
        read_manifest(tmp_path)
    assert "cannot be read" in str(why_stale(tmp_path, key_parts=key_parts("x", config={})))


def test_seconds_add_up_over_interruptions(tmp_path: Path) -> None:
    out = tmp_path / "thing"

    def stop(folder: Path) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("thing", out, stop, config={})
    mark = tmp_path / "thing.partial" / "stage-key.json"
    write_json(mark, {**read_json(mark), "seconds": 100.0})
    manifest = run_stage("thing", out, counted([]), config={})
    assert 100.0 <= manifest.seconds < 160.0
    assert "stage-key.json" not in manifest.files and not (out / "stage-key.json").exists()
