"""Less memory for activations: drop some in the forward pass, compute them again in the backward.

Per block of the model, without touching the model's code or the names of its parameters:

- full: only the block's input is kept; the whole block runs twice (Chen et al. 2016,
  arXiv:1604.06174). About a third more work.
- selective: results of matrix products and of attention are kept, everything cheap (norms,
  activations, casts, rotations) is made again (Korthikanti et al. 2022, arXiv:2205.05198).
- budget: a share of the activations is kept. A compiled block is cut by the compiler's own solver,
  which drops what is cheapest to remake; uncompiled, that share of the blocks keeps all of its
  activations and the others are checkpointed in full.

Gradients are those of the plain model: the same operations on the same numbers.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch._functorch.config as settings
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from langwright.train.compiling import blocks_of

Method = Literal["none", "selective", "full", "budget"]
METHODS: tuple[Method, ...] = ("none", "selective", "full", "budget")


def checkpoint_activations(
    model: nn.Module, method: Method, budget: float = 0.5, *, compiled: bool = False
) -> None:
    """Let the model's blocks train with `method` from now on; "none" undoes it.

    Args:
        model: its blocks are the members of its first `nn.ModuleList`.
        budget: of the method "budget": share of the activations that is kept, 0 to 1.
        compiled: the blocks will be compiled; "budget" is then a setting of the compiler, for all
            that this process compiles until it is undone.
    """
    by_compiler = method == "budget" and compiled
    settings.activation_memory_budget = budget if by_compiler else 1.0
    blocks = blocks_of(model)
    for block in blocks:
        block.__dict__.pop("forward", None)
    if method == "none" or by_compiler:
        return
    forward = _selective if method == "selective" else _full
    for block in _spread(blocks, 1.0 - budget) if method == "budget" else blocks:
        # A bound method: a deep copy of the block (one for each lane) gets its own.
        block.forward = types.MethodType(forward, block)  # type: ignore[method-assign]


def activation_bytes(work: Callable[[], Any], method: Method = "none") -> int:
    """Bytes that are kept for the backward pass of what `work` computes, the parameters left out.

    Tensors that share memory count once. With the method "selective" what that keeps beside
    autograd counts too.
    """
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    class Kept(TorchDispatchMode):
        supports_higher_order_operators = True  # FlexAttention is one

        @classmethod
        def ignore_compile_internals(cls) -> bool:  # what is compiled stays so under this mode
            return True

        def __torch_dispatch__(self, operation, types, inputs=(), options=None):  # type: ignore[no-untyped-def]
            result = operation(*inputs, **(options or {}))
            if operation in _dear():
                note(result[0] if isinstance(result, tuple) else result)
            return result

    keeping = Kept() if method == "selective" else contextlib.nullcontext()
    with keeping, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = work()
    total = sum(seen.values())
    del held
    return total


def _full(block: nn.Module, *inputs: Any, **options: Any) -> Any:
    """A block's forward pass, of which only the input is kept."""
    plain = functools.partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return plain(*inputs, **options)
    if not _leaves_traces(block):
        return checkpoint(plain, *inputs, use_reentrant=False, **options)
    contexts = functools.partial(_guarded, block, contextlib.nullcontext)
    return checkpoint(plain, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _selective(block: nn.Module, *inputs: Any, **options: Any) -> Any:
    """A block's forward pass, of which products and attention are kept."""
    plain = functools.partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return plain(*inputs, **options)
    contexts = _contexts
    if _leaves_traces(block):
        contexts = functools.partial(_guarded, block, _contexts)
    return checkpoint(plain, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)


# What a mixture of experts leaves on its module while it runs.
TRACES = ("router_loss", "load")


def _leaves_traces(block: nn.Module) -> bool:
    return any(hasattr(module, TRACES[0]) for module in block.modules())


def _guarded(block: nn.Module, contexts: Callable[[], Any]) -> tuple[Any, Any]:
    """Contexts of the first and of the second run; the second must leave no traces."""
    found = contexts()
    first, second = found if isinstance(found, tuple) else (found, contextlib.nullcontext())
    return first, _without_traces(block, second)


@contextlib.contextmanager
def _without_traces(block: nn.Module, inner: Any) -> Iterator[None]:
    modules = [module for module in block.modules() if hasattr(module, TRACES[0])]
    before = [{name: getattr(module, name) for name in TRACES} for module in modules]
    try:
        with inner:
            yield
    finally:
        for module, values in zip(modules, before, strict=True):
            for name, value in values.items():
                setattr(module, name, value)


def _policy(context: Any, operation: Any, *inputs: Any, **options: Any) -> CheckpointPolicy:
    """Keep what took long to compute."""
    if operation in _dear():
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


@functools.cache
def _dear() -> frozenset[Any]:
    """Operations whose results are kept."""
    aten = torch.ops.aten
    names = [
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "linear",
        "_scaled_mm",
        "_grouped_mm",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    ]
    found = {getattr(aten, name).default for name in names if hasattr(aten, name)}
    own = torch.ops.langwright
    if hasattr(own, "sliced_attention"):
        found.add(own.sliced_attention.default)
    return frozenset(found)


def _spread(blocks: list[nn.Module], share: float) -> list[nn.Module]:
    """About `share` of the blocks, evenly spread."""
    count = round(share * len(blocks))
    return [blocks[i * len(blocks) // count] for i in range(count)]
