"""The machine probe: limits of containers, measured rates, versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from langwright.base import (
    UserError,
    environment,
    git_version,
    machine,
    matmul_peak,
    peak_memory_bytes,
)
from langwright.base import machine as module_of  # the function; the module is looked up below


def test_machine_is_plausible_and_cached() -> None:
    found = machine()
    assert found is machine()
    assert found.device in ("cpu", "cuda", "mps") and found.name
    assert 1 <= found.cores <= 4096
    assert 2**27 < found.memory_bytes < 2**50
    assert found.device in found.describe() and "core" in found.describe()
    assert module_of is machine


def test_matmul_peak_is_measured_once() -> None:
    rate = matmul_peak("fp32", "cpu")
    assert 1e8 < rate < 1e16
    assert matmul_peak("fp32", "cpu") == rate
    with pytest.raises(UserError, match="number format"):
        matmul_peak("fp33")


def test_peak_memory_grows_with_use() -> None:
    before = peak_memory_bytes()
    block = bytearray(before + 2**26)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_memory_bytes() >= before + 2**25


def test_environment_is_plain_json() -> None:
    values = environment()
    assert json.loads(json.dumps(values)) == values
    assert values["packages"]["torch"].startswith("2.")
    assert {"python", "os", "device", "cores", "torch_threads", "git"} <= set(values)


def test_git_version_is_of_this_checkout_or_none() -> None:
    version = git_version()
    assert version is None or (version and "\n" not in version)


def test_control_group_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that may use 1.5 of the cores and 1 GiB is a machine with 2 cores and 1 GiB."""
    import importlib

    module = importlib.import_module("langwright.base.machine")
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (outer / "cpu.max").write_text("150000 100000\n")
    (inner / "cpu.max").write_text("max 100000\n")
    (outer / "memory.max").write_text(f"{2**30}\n")
    (inner / "memory.max").write_text("max\n")
    monkeypatch.setattr(module, "_cgroup_folders", lambda controller: [inner, outer])
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert module._usable_cores() == 2
    assert module._usable_memory() == 2**30
    (inner / "cpu.max").unlink()
    (outer / "cpu.max").unlink()
    (inner / "cpu.cfs_quota_us").write_text("400000")  # version 1
    (inner / "cpu.cfs_period_us").write_text("100000")
    assert module._usable_cores() == 4
    (inner / "cpu.cfs_quota_us").write_text("-1")
    assert module._usable_cores() == 8
