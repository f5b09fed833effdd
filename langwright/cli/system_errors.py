"""What the operating system refused, in one line: which path, why, and what to do."""

from __future__ import annotations

import argparse
import errno
import os

_PLACE = "choose another place, or change its permissions"
_ROOM = "free some room, or choose another disk"
FIXES = {
    errno.EACCES: _PLACE,
    errno.EPERM: _PLACE,
    errno.EROFS: "choose a place that can be written",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.ENOTDIR: "a file stands where a folder is needed: choose another path",
    errno.EEXIST: "something else stands there: choose another path, or remove it",
    errno.EISDIR: "a folder stands where a file is needed: choose another path",
    errno.ENOTEMPTY: "the folder is not empty: choose another path, or empty it",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "check the disk",
    errno.EADDRINUSE: "choose another --port, or stop what listens there",
}
OUTPUTS = ("out", "html", "to", "runs")  # options that say where a result goes, the nearest first


def system_error_line(error: OSError, arguments: argparse.Namespace) -> str:
    """``ro/x.html: Permission denied: choose another place, or change its permissions``.

    Where the error names no path (a full disk), it is that of the command's output.
    """
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    path = error.filename2 or error.filename or (_output(arguments) if error.errno else None)
    where = "" if path is None else f"{os.fsdecode(path)}: " if not isinstance(path, int) else ""
    fix = FIXES.get(error.errno or 0, "check the path and the connection")
    if arguments.continues and error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix += "; the same command then goes on from here"
    return f"{where}{reason}: {fix}"


def _output(arguments: argparse.Namespace) -> str | None:
    """Where the command's result was to go, if it was said."""
    given = (getattr(arguments, name, None) for name in OUTPUTS)
    return next((value for value in given if value), None)
