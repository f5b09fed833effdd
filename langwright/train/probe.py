"""Short measurements before a run begins; they leave weights and optimizer as they found them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from langwright.base import UserError
from langwright.dataset import Batch, Rows
from langwright.parallel import Alone
from langwright.plan import rules
from langwright.train.activation_checkpointing import (
    Method,
    activation_bytes,
)
from langwright.train.choices import DTYPES, Choices, largest
from langwright.train.compiling import (
    blocks_of,
    compiler_error,
    first_line,
)
from langwright.train.float8 import use_float8
from langwright.train.offload import HostOptimizer
from langwright.train.update import Updater, out_of_memory

SHORT_ROW = 256  # tokens on which activations are counted
FEW_STEPS = 20  # a run of fewer hardly learns; somebody who gives it a time should know
BUDGET_MARGIN = 0.03  # of a time budget, kept back for checkpoints and what was not foreseen


class Probe:
    """Times parts of a step on the run's first rows."""

    def __init__(self, updater: Updater, rows: Rows, batch_rows: int) -> None:
        self.updater = updater
        self.rows = rows
        self.batch_rows = batch_rows

    @property
    def own_rows(self) -> int:
        """Of a batch, those of this process."""
        return self.batch_rows // self.updater.form.data_size

    def micro_seconds(self, micro_rows: int) -> float:
        """Seconds of the quickest forward and backward pass of `micro_rows` rows.

        One pass to warm up, then 2 to 10 within about 0.3 s (others may use the machine too).
        """
        batch = self.rows.batch(0, micro_rows)
        self._pass(batch)
        seconds = [self._pass(batch), self._pass(batch)]
        while sum(seconds) < 0.3 and len(seconds) < 10:
            seconds.append(self._pass(batch))
        return min(seconds)

    def batch_seconds(self, batch: Batch, repeats: int = 2) -> float:
        """Seconds of the quickest accumulation of a whole batch, after one more to warm up."""
        seconds = []
        for _ in range(1 + repeats):
            started = time.perf_counter()
            self.updater.accumulate(0, batch)
            seconds.append(time.perf_counter() - started)
            self.updater.optimizer.zero_grad()
        return self.updater.form.agree(min(seconds[1:]))

    def fits(self, micro_rows: int) -> bool:
        """Whether `micro_rows` rows fit into the device's memory."""
        room = None
        try:
            room = self._room_for_moments()
            self._pass(self.rows.batch(0, micro_rows))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            fits = False
        else:
            fits = True
        del room
        self.updater.forget()
        if not fits and self.updater.device.type == "cuda":
            torch.cuda.empty_cache()
        return fits

    def activation_bytes(self, method: Method = "none") -> float:
        """Bytes that this process keeps of a forward pass for each of its tokens.

        The difference between three short rows and two: what does not grow with the rows (casts of
        weights, the head's gradient) is left out. All processes measure together; not for stages of
        a pipeline.

        method: the one with which the model's blocks work now.
        """
        form = self.updater.form
        shared = 1 if form.layout is None else form.layout.cp
        tokens = min(SHORT_ROW * shared, self.rows.sequence_length)
        two, three = (self._kept(rows, tokens, method) for rows in (2, 3))
        return max(0.0, (three - two) * shared / tokens)

    def _kept(self, rows: int, tokens: int, method: Method) -> int:
        """Bytes kept of a forward pass of rows that are cut to `tokens`."""
        updater, kept = self.updater, [0]
        batch = self.rows.batch(0, rows)
        short = Batch(
            *(
                None if tensor is None else tensor[:, :tokens]
                for tensor in (batch.inputs, batch.targets, batch.segments, batch.positions)
            )  # type: ignore[arg-type]
        )

        def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | float]:
            found: list[tuple[Tensor, Tensor | float]] = []
            kept[0] = activation_bytes(
                lambda: found.append(updater.objective(model, batch)), method
            )
            return found[0]

        micro = updater.form.own_part(short).to(updater.device)
        updater.form.gradients(objective, [micro], 1.0, lambda index: None)
        updater.forget()
        return kept[0]

    def _room_for_moments(self) -> torch.Tensor | None:
        """Memory as large as the optimizer's state will be, while there is none yet."""
        optimizer = self.updater.optimizer
        if isinstance(optimizer, HostOptimizer):
            return None
        numbers = sum(parameter.numel() for parameter in optimizer.parameters)
        return torch.empty(2 * numbers, device=self.updater.device)

    def update_seconds(self, at_least: float, most_steps: int = 20) -> float:
        """Mean seconds of whole updates with a learning rate of 0, over `at_least` seconds.

        The first one warms up and is not counted. The optimizer's state is dropped afterwards.
        """
        scale = self.updater.loss_scale
        scale_state = None if scale is None else scale.state_dict()
        spent, counted = 0.0, 0
        for step in range(most_steps + 1):
            started = time.perf_counter()
            own = self.updater.form.own_rows(step * self.batch_rows, self.batch_rows)
            batch = self.rows.batch(*own)
            self.updater.update(step, batch, multiplier=0.0)
            self._wait()
            if step:
                took = self.updater.form.agree(time.perf_counter() - started)
                spent, counted = spent + took, counted + 1
            if counted >= 2 and spent >= at_least:
                break
        self.updater.optimizer.clear_state()
        if scale is not None and scale_state is not None:
            scale.load_state_dict(scale_state)
        return spent / counted

    def _pass(self, batch: Batch) -> float:
        started = time.perf_counter()
        micro_rows, self.updater.micro_rows = self.updater.micro_rows, batch.inputs.shape[0]
        try:
            self.updater.accumulate(0, batch)
            self._wait()
        except RuntimeError as error:
            if self.updater.form.size > 1 and out_of_memory(error):
                raise self.updater.give_up(batch.rows) from None
            raise
        finally:
            self.updater.micro_rows = micro_rows
            self.updater.optimizer.zero_grad()
        return self.updater.form.agree(time.perf_counter() - started)

    def _wait(self) -> None:
        if self.updater.device.type == "cuda":
            torch.cuda.synchronize(self.updater.device)
        elif self.updater.device.type == "mps":
            torch.mps.synchronize()


def choose_precision(wanted: str, choices: Choices, fast_bf16: bool, probe: Probe) -> str:
    """fp32 or bf16; where the CPU has bf16 instructions, by measuring which is quicker here.

    (Small matrices can be quicker in fp32: casts and overheads outweigh the products.)
    """
    if wanted != "auto":
        return choices.decide("precision", wanted, "as asked")
    if not fast_bf16:
        return choices.decide("precision", "fp32", "no fast bfloat16 on this device")
    if choices["device"] != "cpu":
        return choices.decide("precision", "bf16", "the device multiplies it fast")
    rows = max(1, min(probe.batch_rows, 2048 // probe.rows.sequence_length))
    seconds = {}
    for name in ("fp32", "bf16"):
        set_dtype(probe.updater, name)
        seconds[name] = probe.micro_seconds(rows)
    best = "bf16" if seconds["bf16"] < 0.95 * seconds["fp32"] else "fp32"
    reason = " against ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items())
    return choices.decide("precision", best, f"measured on {rows} rows: {reason}")


def choose_compile(
    wanted: str | bool,
    choices: Choices,
    probe: Probe,
    *,
    steps: int | None,
    seconds: float | None,
) -> bool:
    """Whether to run compiled blocks; leaves the model in that state.

    Args:
        wanted: "auto", or a decision.
        probe: all processes of the run call this together, and decide alike.
        steps: length of the run, if known.
        seconds: its length in time, if that is what is known.
    """
    updater, device = probe.updater, probe.updater.device.type
    if wanted is False or not blocks_of(updater.model):
        return choices.decide("compile", False, "as asked" if wanted is False else "no blocks")
    if wanted == "auto" and (reason := rules.why_not_compiled(updater.form.layout)) is not None:
        return choices.decide("compile", False, reason)
    if wanted is True:
        if (error := try_compile(probe)) is not None:
            raise UserError(
                f"the model could not be compiled: {error}",
                where="compile",
                fix="install a C++ compiler (g++), or set compile = false",
            )
        return choices.decide("compile", True, "as asked")
    if device not in rules.COMPILE_GAIN:
        return choices.decide("compile", False, f"not used on {device}")
    if seconds is not None and not rules.pays_to_compile(device, seconds):
        return choices.decide("compile", False, _too_short(seconds))
    plain = probe.micro_seconds(updater.pass_rows)
    passes = -(-probe.own_rows // updater.pass_rows)
    if seconds is None:
        assert steps is not None
        seconds = steps * passes * plain
    if not rules.pays_to_compile(device, seconds):
        return choices.decide("compile", False, _too_short(seconds))
    if (error := try_compile(probe)) is not None:
        return choices.decide("compile", False, f"the compiler failed: {error}")
    compiled = probe.micro_seconds(updater.pass_rows)
    figures = f"a pass takes {1e3 * compiled:.1f} ms compiled, {1e3 * plain:.1f} ms not"
    if compiled > 0.97 * plain:
        updater.undo_compile()
        return choices.decide("compile", False, figures)
    return choices.decide("compile", True, figures)


def try_compile(probe: Probe) -> str | None:
    """Compile the blocks by running them once; the first line of the error if that fails.

    Of several processes all undo it where one of them cannot compile.
    """
    updater, form = probe.updater, probe.updater.form
    if form.size > 1 and (error := _told_by(form, compiler_error(updater.device))) is not None:
        return error
    updater.compile()
    error = None
    try:
        probe.micro_seconds(updater.pass_rows)
    except (torch.OutOfMemoryError, UserError):
        raise
    except Exception as failure:  # the compiler and its C++ compiler can fail in many ways
        error = first_line(failure)
    if (error := _told_by(form, error)) is not None:
        updater.undo_compile()
        updater.forget()
        torch.compiler.reset()
    return error


def _told_by(form: Alone, error: str | None) -> str | None:
    """The first process's error that has one, alike on all."""
    found = [(rank, one) for rank, one in enumerate(form.gather(error)) if one is not None]
    if not found:
        return None
    rank, text = found[0]
    return text if form.size == 1 else f"process {rank}: {text}"


def choose_steps_for_time(
    seconds: float, extra: Callable[[int, float], float], choices: Choices, probe: Probe
) -> int:
    """How many steps fit into `seconds` from now.

    Args:
        seconds: what is left of the budget.
        extra: seconds of evaluations in a run of so many steps of so many seconds.
    """
    step_seconds = probe.update_seconds(at_least=min(5.0, 0.02 * seconds))
    usable = (1.0 - BUDGET_MARGIN) * seconds

    def fits(steps: int) -> bool:
        return steps * step_seconds + extra(steps, step_seconds) <= usable

    steps = largest(fits, int(usable / step_seconds))
    reason = f"{step_seconds:.3g} s per step measured, {seconds:.0f} s left of the budget"
    choices.decide("total_steps", steps, reason)
    if steps < FEW_STEPS:
        wanted = FEW_STEPS * step_seconds + extra(FEW_STEPS, step_seconds)
        more = max(1, math.ceil((wanted / (1.0 - BUDGET_MARGIN) - seconds) / 60))
        choices.say(
            f"warning: only {steps} update{'s' if steps > 1 else ''} in the time given, too few to "
            f"learn much: give more minutes (about {more:,} more for {FEW_STEPS} updates), a "
            "smaller batch_tokens or a smaller model"
        )
    return steps


def set_dtype(updater: Updater, precision: str) -> None:
    """Let the model compute in `precision`."""
    if precision == "fp8":
        use_float8(updater.model)
    updater.model.compute_dtype = DTYPES[precision]  # type: ignore[assignment]


def _too_short(seconds: float) -> str:
    cost = rules.COMPILE_SECONDS
    return f"a run of about {seconds:.0f} s would not win back the {cost:.0f} s it costs"
