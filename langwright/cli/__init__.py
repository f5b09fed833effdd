"""The command line: words a person types. Thin; every command calls a plain function.

Nothing heavy is imported until a command needs it, so ``langwright --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from langwright.cli.parser import build_parser
from langwright.cli.together import leave, run_together, started_by_torchrun

INTERRUPTED = 130
USER_MISTAKE = 2
REFUSED = 1  # by the operating system


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0 good, 1 the system refused a file, 2 a user's
    mistake, 130 interrupted)."""
    arguments = build_parser().parse_args(argv)
    several = started_by_torchrun()
    try:
        return run_together(arguments) if several else arguments.handler(arguments) or 0
    except KeyboardInterrupt:
        go_on = "the same command goes on from here" if arguments.continues else "stopped"
        print(f"\nstopped; {go_on}" if arguments.continues else "\nstopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `langwright ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a folder that cannot be written, a full disk
        from langwright.cli.system_errors import system_error_line

        _print_mistake(system_error_line(error, arguments))
        return REFUSED
    except Exception as error:
        from langwright.base import UserError

        if not isinstance(error, UserError):
            raise
        # Of several processes the first one tells what all of them found; a process that fails by
        # itself (out of memory) says so in `where`.
        own = (error.where or "").startswith("process ")
        if own or os.environ.get("RANK", "0") == "0":
            _print_mistake(error.render())
        return USER_MISTAKE


def command() -> NoReturn:
    """The command ``langwright``: `main`, and out."""
    code = main()
    if started_by_torchrun():
        leave(code)
    sys.exit(code)


def _print_mistake(text: str) -> None:
    """The message in red on a terminal, plain elsewhere."""
    first, _, rest = text.partition("\n")
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        first = f"\033[1;31merror:\033[0m {first}"
    else:
        first = f"error: {first}"
    print(first + ("\n" + rest if rest else ""), file=sys.stderr)


__all__ = ["command", "main"]
