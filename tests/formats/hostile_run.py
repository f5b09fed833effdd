"""Open files of strangers in a process of little memory and time, and tell what became of it.

``python hostile_run.py PLAN``: PLAN is a JSON list of [kind, path]; a line of JSON for each comes
out: {"result": "accepted" | "refused" | "broken" | "late", "message", "seconds", "bytes"}.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MEMORY = 600 * 2**20  # beside what importing takes
SECONDS = 20


class Late(BaseException):
    """The alarm rang."""


def main() -> None:
    """Run the plan."""
    from langwright.base import UserError
    from langwright.formats import load_model
    from langwright.tokenizer import ChatTemplate, load_tokenizer

    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    actions = {
        "model": load_model,
        "tokenizer": lambda path: load_tokenizer(path).encode("a" * 200 + " !"),
        "template": lambda path: ChatTemplate(Path(path).read_text()).pieces(talk),
        "render": lambda path: ChatTemplate(Path(path).read_text()).render(talk),
    }

    def ring(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, ring)
    plan = json.loads(Path(sys.argv[1]).read_text())
    room = status("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for kind, path in plan:
        message, before, start = "", status("VmRSS"), time.perf_counter()
        Path("/proc/self/clear_refs").write_text("5")
        signal.alarm(SECONDS)
        try:
            actions[kind](path)
            result = "accepted"
        except UserError as error:
            result, message = "refused", str(error)
        except Late:
            result = "late"
        except BaseException as error:
            result, message = "broken", f"{type(error).__name__}: {error}"
        signal.alarm(0)
        seconds, used = time.perf_counter() - start, status("VmHWM") - before
        told = {"result": result, "message": message, "seconds": seconds, "bytes": used}
        print(json.dumps(told), flush=True)


def run_limited(plan: list[list[str]], place: Path) -> list[dict[str, Any]]:
    """Run a plan in a child process, in the folder `place`."""
    (place / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, __file__, str(place / "plan.json")],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def status(name: str) -> int:
    """A counter of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


if __name__ == "__main__":
    main()
