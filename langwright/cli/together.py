"""The command line under torchrun: the first process runs the command, the others join in where it
trains."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from typing import NoReturn


def started_by_torchrun() -> bool:
    """Whether this is one of several processes."""
    return int(os.environ.get("WORLD_SIZE") or "1") > 1


def run_together(arguments: argparse.Namespace) -> int:
    """Run the command's handler on the first process; returns the exit code."""
    from langwright.parallel import follow, leading, process_group, world
    from langwright.posttrain import sft
    from langwright.train import pretrain

    place = world()
    with process_group(place):
        if place.first:
            with leading(place):
                return arguments.handler(arguments) or 0
        follow({"pretrain": pretrain, "sft": sft})
    return 0


def leave(code: int) -> NoReturn:
    """End this process with an exit code, without taking the interpreter down first.

    DistributedDataParallel keeps gloo's threads past `destroy_process_group`, and a thread that is
    met while the interpreter ends may abort the process (SIGABRT): torchrun would take a finished
    run for a failed one and start it again.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
