"""torch.compile, block by block.

All blocks share their code, so one graph is compiled for all of them: a fraction of the time that
the whole model would take, and most of the gain (fused norms, activations, casts). The final norm,
which costs as much as one of a block's, is compiled beside them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from langwright.model import prepare_compiler


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a model: the members of its first `nn.ModuleList`."""
    for module in model.children():
        if isinstance(module, nn.ModuleList):
            return list(module)
    return []


def compile_blocks(model: nn.Module) -> None:
    """Let every block and the final norm run compiled. The compiler itself works at the first call,
    and may fail."""
    prepare_compiler()
    for part in _parts(model):
        part.compile(fullgraph=True, dynamic=False)


def undo_compile(model: nn.Module) -> None:
    """Let the blocks run as plain Python again."""
    for part in _parts(model):
        part._compiled_call_impl = None


def compiler_error(device: torch.device) -> str | None:
    """The first line of the error if nothing can be compiled here, found on a tiny function.

    A process that found it out in the middle of a pass would leave the others waiting for it.
    """
    prepare_compiler()
    x = torch.ones(8, device=device, requires_grad=True)
    try:
        torch.compile(_tiny, fullgraph=True, dynamic=False)(x).backward()
    except Exception as error:  # the compiler and its C++ compiler can fail in many ways
        torch.compiler.reset()
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    """Of what an error says, with its kind."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"


def _tiny(x: torch.Tensor) -> torch.Tensor:
    return (2.0 * x + 1.0).sin().sum()


def _parts(model: nn.Module) -> list[nn.Module]:
    """What is compiled: blocks and final norm; of a block in which weights are gathered (FSDP's
    hooks, with expert parallel: no graph can hold them) what else there is."""
    parts = blocks_of(model)
    norm = getattr(model, "norm", None)
    if isinstance(norm, nn.Module):
        parts.append(norm)
    return [inner for part in parts for inner in (_children(part) if _gathers(part) else [part])]


def _children(block: nn.Module) -> list[nn.Module]:
    return [child for child in block.children() if not _sharded(child) and not _gathers(child)]


def _gathers(module: nn.Module) -> bool:
    """Whether some module inside gathers its weights by itself."""
    return any(_sharded(inner) for inner in module.modules() if inner is not module)


def _sharded(module: nn.Module) -> bool:
    return hasattr(module, "set_requires_gradient_sync")  # as FSDP's modules have it


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled blocks run as plain Python inside: evaluation and samples come in other shapes, and
    each new shape would be compiled anew."""
    with torch.compiler.set_stance("force_eager"):
        yield
