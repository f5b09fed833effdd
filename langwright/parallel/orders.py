"""One command, many processes: the first one leads, the others join in where they are called.

Under torchrun every process starts with the same command line. Only the first one runs it: it makes
folders, reads text, prints. Where it comes to a training it announces the call, and the others,
which have been waiting, make the same call with the same arguments.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from langwright.base import Config
from langwright.parallel.world import World

PATIENCE = datetime.timedelta(days=30)  # how long others wait while the first prepares its data
END = "end"

_line: ContextVar[Any] = ContextVar("line", default=None)  # the group over which orders are given


@contextlib.contextmanager
def leading(world: World) -> Iterator[None]:
    """Within this context, on the first process, `announce` reaches the others, which `follow`."""
    import torch.distributed as dist

    token = _line.set(dist.new_group(backend="gloo", timeout=PATIENCE))
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # the others may be gone
            announce(END)
        _line.reset(token)


def announce(call: str, /, **arguments: Any) -> None:
    """Let the others call `call` with these arguments (configs, paths, plain JSON); does nothing
    outside `leading`."""
    line = _line.get()
    if line is None:
        return
    import torch.distributed as dist

    text = json.dumps([call, {key: _plain(value) for key, value in arguments.items()}]).encode()
    dist.broadcast(torch.tensor(len(text)), 0, group=line)
    dist.broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8), 0, group=line)


def follow(calls: Mapping[str, Callable[..., Any]]) -> None:
    """On the other processes: make every call that the first one announces, until it ends."""
    import torch.distributed as dist

    line = dist.new_group(backend="gloo", timeout=PATIENCE)
    while True:
        size = torch.tensor(0)
        dist.broadcast(size, 0, group=line)
        data = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, 0, group=line)
        name, arguments = json.loads(bytes(data.tolist()))
        if name == END:
            return
        call = calls[name]
        kinds = typing.get_type_hints(call)
        call(**{key: _typed(kinds.get(key), value) for key, value in arguments.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_json()
    return str(value) if isinstance(value, Path) else value


def _typed(kind: Any, value: Any) -> Any:
    """A value of plain JSON as the type of the argument it is for."""
    if isinstance(kind, type) and issubclass(kind, Config):
        return kind.parse(value)
    return Path(value) if kind is Path and value is not None else value
