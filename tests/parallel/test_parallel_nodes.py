"""Two machines: two network namespaces joined by a cable, `torchrun` in each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from parallel_small import Case, Outcome, check_equal, single

NODES, CABLE = ("langwright-0", "langwright-1"), ("langwright0", "langwright1")
ADDRESSES = ("10.213.77.1", "10.213.77.2")
HERE = Path(__file__).parent
PROGRAM = """
import sys, torch
from parallel_small import Case, parallel
from langwright.parallel import process_group, world

place = world("cpu")
assert place.local_rank == place.rank % 2
with process_group(place):
    outcome = parallel(Case(model={"layers": 4}, parallel=FORM))
    if place.first:
        parts = (outcome.losses, outcome.norms, outcome.gradients, outcome.weights)
        torch.save(parts, sys.argv[1])
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True)


@pytest.fixture
def nodes() -> Iterator[tuple[str, ...]]:
    """Names of two namespaces that reach one another and nothing else."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need `ip` and root")
    if run("ip", "netns", "add", NODES[0]).returncode:
        pytest.skip("network namespaces cannot be made here")
    try:
        commands = [
            f"netns add {NODES[1]}",
            f"link add {CABLE[0]} netns {NODES[0]} type veth peer name {CABLE[1]} netns {NODES[1]}",
        ]
        for node, cable, address in zip(NODES, CABLE, ADDRESSES, strict=True):
            commands.append(f"-n {node} addr add {address}/24 dev {cable}")
            commands += [f"-n {node} link set {cable} up", f"-n {node} link set lo up"]
        for command in commands:
            done = run("ip", *command.split())
            assert done.returncode == 0, (command, done.stderr)
        yield NODES
    finally:
        for node in NODES:
            run("ip", "netns", "del", node)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        {"dp_replicate": 2, "dp_shard": 2},
        {"pp": 2, "dp_shard": 2, "schedule": "zero-bubble"},
        {"dp_shard": 1, "cp": 2, "tp": 2},
    ],
    ids=["hsdp", "pp fsdp", "cp tp"],
)
def test_two_nodes_equal_one_process(nodes: tuple[str, ...], form: dict, tmp_path: Path) -> None:
    program, result = tmp_path / "program.py", tmp_path / "result"
    program.write_text(PROGRAM.replace("FORM", repr(form)))
    started = [_start(rank, node, program, result) for rank, node in enumerate(nodes)]
    try:
        ends = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ends
    found = Outcome(*torch.load(result, weights_only=True))
    case = Case(model={"layers": 4}, parallel=form)
    check_equal(found, single(case), loss=5e-6)


def _start(rank: int, node: str, program: Path, result: Path) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    torchrun += ["--nproc-per-node", "2", "--node-rank", str(rank), "--local-addr", ADDRESSES[rank]]
    torchrun += ["--master-addr", ADDRESSES[0], "--master-port", "29544"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}:{HERE.parents[1]}",
        "GLOO_SOCKET_IFNAME": CABLE[rank],
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        ["ip", "netns", "exec", node, *torchrun, str(program), str(result)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
