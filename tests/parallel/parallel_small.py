"""A model, its batches, and what some updates of it come to: in one process, or in many."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from langwright.dataset import Batch, RowArrays, Rows
from langwright.model import ModelConfig, build_model, model_config
from langwright.optim import Muon, OptimConfig, OptimizerSet
from langwright.parallel import Alone, Distributed, ParallelConfig, layout, parallelise, world
from langwright.train import Updater, language_model_loss
from langwright.train.activation_checkpointing import Method, checkpoint_activations

LENGTH, SYMBOLS, ROWS = 16, 37, 8


class UnevenRows(Rows):
    """Random tokens; the number of counted targets differs much from row to row. With `documents`
    every row holds two, of different length, and padding. With `skewed` the first half of every
    batch of ROWS has next to nothing to count: two rows nothing, two rows their first target."""

    def __init__(self, length: int = LENGTH, documents: bool = False, skewed: bool = False) -> None:
        self.sequence_length, self.epoch_rows, self.fingerprint = length, 64, "uneven"
        self.documents, self.skewed = documents, skewed

    def gather(self, indices: np.ndarray) -> RowArrays:
        inputs, targets = [], []
        for index in indices:
            random = np.random.default_rng([7, int(index)])
            row = random.integers(SYMBOLS, size=self.sequence_length + 1)
            target = row[1:].copy()
            if self.skewed:
                target[{0: 0, 1: 0, 2: 1, 3: 1}.get(index % ROWS, self.sequence_length) :] = -100
            else:
                target[: random.integers(0, self.sequence_length - 1)] = -100
            inputs.append(row[:-1])
            targets.append(target)
        arrays = np.stack(inputs).astype(np.int64), np.stack(targets).astype(np.int64)
        if not self.documents:
            return RowArrays(*arrays)
        places = np.arange(self.sequence_length)
        cuts = 3 + np.asarray(indices)[:, None] % (self.sequence_length - 5)  # (B, 1)
        segments = np.where(places < cuts, 0, 1)  # (B, T)
        positions = np.where(places < cuts, places, places - cuts)
        segments[:, -2:], positions[:, -2:], arrays[1][:, -2:] = -1, 0, -100
        return RowArrays(*arrays, segments.astype(np.int32), positions.astype(np.int64))


def small_config(**changes: Any) -> ModelConfig:
    """Two blocks of width 32 with every matrix different from zero."""
    table = {
        "width": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "hidden_width": 48,
        "context_length": LENGTH,
        "init": "gpt2",
        "init_std": 0.2,
        **changes,
    }
    return model_config(table, vocab_size=SYMBOLS)


@dataclass(frozen=True)
class Case:
    """Some updates of a model under a layout."""

    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    steps: int = 3
    micro_rows: int = 2  # of a process
    rows: int = ROWS
    dtype: torch.dtype = torch.float32
    documents: bool = False  # two in every row
    skewed: bool = False  # some processes have hardly a token to count
    activations: Method = "none"  # how they are checkpointed
    compiled: str = ""  # backend of the compiler for blocks, if any


@dataclass
class Outcome:
    """What the updates came to; tensors are whole."""

    losses: list[float]
    norms: list[float]
    gradients: list[dict[str, torch.Tensor]]  # of every update, before clipping
    weights: dict[str, torch.Tensor]  # after the last one


def updater_of(case: Case, form: Alone) -> Updater:
    """The updater of a case."""
    optimizer = form.optimizer(OptimConfig.parse({"lr": 3e-3, "eps": 1e-4, **case.optimizer}))
    for inner in optimizer.optimizers:
        if isinstance(inner, Muon):
            inner.dtype = torch.float32  # bf16 products would make small differences large
    return Updater(
        form.model,
        optimizer,
        language_model_loss,
        device=torch.device("cpu"),
        micro_rows=case.micro_rows,
        clip=0.5,
        seed=0,
        form=form,
        router_bias_rate=0.05,
    )


class ScaledAlone(Alone):
    """One process that divides its losses by the number of places in a batch, as several must:
    in fp32 that is nothing, in bf16 every number of a backward pass is rounded by it."""

    size = 2


def single(case: Case) -> Outcome:
    """The reference: one process, no parallel form."""
    model = build_model(small_config(**case.model), seed=3)
    model.compute_dtype = case.dtype
    model.train()
    form = Alone(model) if case.dtype == torch.float32 else ScaledAlone(model)
    gradients: list[dict[str, torch.Tensor]] = []

    def look(optimizer: OptimizerSet) -> None:
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )

    losses, norms = _updates(case, form, look)
    return Outcome(losses, norms, gradients, {n: p.detach() for n, p in model.named_parameters()})


def parallel(case: Case, **options: Any) -> Outcome:
    """The same in this process of a group; options are those of `parallelise`."""
    form = parallel_form(case, **options)
    gradients: list[dict[str, torch.Tensor]] = []

    def look(optimizer: OptimizerSet) -> None:
        gradients.append(form.full_gradients())

    losses, norms = _updates(case, form, look)
    return Outcome(losses, norms, gradients, form.full_state())


def parallel_form(case: Case, **options: Any) -> Distributed:
    """The model of a case, spread over the group."""
    place = layout(ParallelConfig.parse(case.parallel), world("cpu"))
    options = {"compute_dtype": case.dtype, **options}
    form = parallelise(small_config(**case.model), 3, place, **options)
    checkpoint_activations(form.model, case.activations)
    return form


def _compile(updater: Updater, backend: str) -> None:
    """As the trainer does, once the model is spread, but perhaps by another backend."""
    torch.compiler.reset()
    compile_module = torch.nn.Module.compile

    def with_backend(module: torch.nn.Module, **options: Any) -> None:
        compile_module(module, backend=backend, **options)

    torch.nn.Module.compile = with_backend  # type: ignore[method-assign,assignment]
    try:
        updater.compile()
    finally:
        torch.nn.Module.compile = compile_module  # type: ignore[method-assign]


def _updates(case: Case, form: Alone, look: Any) -> tuple[list[float], list[float]]:
    updater, rows = updater_of(case, form), UnevenRows(documents=case.documents, skewed=case.skewed)
    if case.compiled:
        _compile(updater, case.compiled)
    clip, losses, norms = form.clip, [], []

    def looking(optimizer: OptimizerSet, max_norm: Any, factor: Any = 1.0) -> torch.Tensor:
        clip(optimizer, None, factor)
        look(optimizer)
        return clip(optimizer, max_norm)

    form.clip = looking  # type: ignore[method-assign]
    for step in range(case.steps):
        batch = rows.batch(*form.own_rows(step * case.rows, case.rows))
        outcome = updater.update(step, batch, multiplier=1.0)
        losses.append(float(outcome.loss))
        norms.append(float(outcome.norm))
    return losses, norms


# Measured over the whole matrix: losses differ by 4.8e-7, one unit in their last place, at most;
# norms by 4e-7; gradients by 4.2e-6 in the first update and hardly more in later ones (3.9e-6, but
# for a bias of keys), though the weights differ by then, by up to 7.6e-7.
LOSS = 2e-6  # largest difference of a loss in fp32
TIED_LOSS = 5e-6  # the same with tied weights, or a loss computed in chunks
MEAN = 5e-7  # of the losses' absolute differences in fp32
NORM = 2e-6  # relative, in fp32
GRADIENT = 1e-5  # relative, of each parameter in every update, in fp32
# A gradient that is a smaller share of the whole one is measured by this share. In later updates,
# with weights that differ by rounding, that takes more room where terms cancel: for a bias of keys
# all do (1.1e-8 of the whole is left), for a single number (a residual scale) many (4e-8).
SHORT, SHORT_CANCELLED = 1e-3, 1e-2
WEIGHT = 2e-6  # of any number of a weight after all updates, in fp32
# In bf16 a form that makes the same products in the same order as one process (data parallel,
# pipeline) comes to the same bits in all but the sums over processes.
BF16_LOSS = 5e-3  # in bf16; it holds for the mean, the norms and the weights too
BF16_GRADIENT = 5e-3
# One that cuts sums up (tensor, context parallel) rounds other numbers: measured up to 4.0e-2,
# with SGD, where one process's own bf16 gradients differ from its fp32 ones by up to 5.3e-2.
BF16_CUT_GRADIENT = 5e-2


def check_equal(
    found: Outcome, wanted: Outcome, *, loss: float = LOSS, gradient: float = GRADIENT
) -> None:
    """Losses, norms, per-parameter gradients of every update and final weights agree."""
    bf16 = loss == BF16_LOSS
    differences = np.abs(np.subtract(found.losses, wanted.losses))
    assert differences.max() <= loss, (found.losses, wanted.losses)
    assert differences.mean() <= (loss if bf16 else MEAN), (found.losses, wanted.losses)
    np.testing.assert_allclose(found.norms, wanted.norms, rtol=loss if bf16 else NORM)
    assert len(found.gradients) == len(wanted.gradients)
    for step, (ours, theirs) in enumerate(zip(found.gradients, wanted.gradients)):
        least = dict.fromkeys(theirs, SHORT * wanted.norms[step])
        if step:
            cancel = [n for n, one in theirs.items() if one.numel() == 1 or n.endswith(".k.bias")]
            least |= dict.fromkeys(cancel, SHORT_CANCELLED * wanted.norms[step])
        _check_gradients(ours, theirs, gradient, least, f"update {step}")
    assert found.weights.keys() == wanted.weights.keys()
    for name, one in wanted.weights.items():
        difference = (found.weights[name] - one).abs().max()
        assert difference <= (loss if bf16 else WEIGHT), f"weight {name}: {difference:.2e}"


def _check_gradients(
    found: dict[str, torch.Tensor],
    wanted: dict[str, torch.Tensor],
    limit: float,
    least: dict[str, float],
    where: str,
) -> None:
    """Each parameter's, relative to its norm, or to `least` where it is shorter."""
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        error = (found[name] - one).norm() / one.norm().clamp(min=least[name])
        assert error <= limit, f"{where}, gradient of {name}: {error:.2e} relative"


def batch_of(case: Case) -> Batch:
    """The first global batch."""
    return UnevenRows(documents=case.documents).batch(0, case.rows)
