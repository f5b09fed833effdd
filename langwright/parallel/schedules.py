"""In which order a pipeline's processes do their work.

A batch is cut into micro-batches, the layers into stages; stage s is on process s mod P. Process
and order decide how long processes wait for one another (the bubble) and how many micro-batches'
activations they hold:

- ``gpipe``: all forward passes, then all backward passes (Huang et al. 2018, arXiv:1811.06965). It
  holds all micro-batches.
- ``1f1b``: as soon as a process has filled the pipe behind it, one backward for each forward
  (Narayanan et al. 2019, PipeDream; 2021, arXiv:2104.04473, section 2.2.1). It holds at most P.
- ``interleaved``: 1f1b with several smaller stages on each process: a smaller bubble, more messages
  (ibid., section 2.2.2).
- ``zero-bubble``: 1f1b with the backward pass in two, the gradient of the inputs, for which others
  wait, and that of the weights, which fills the gaps (Qi et al. 2023, arXiv:2401.10241, section
  2.3, ZB-H1). It holds at most P too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["forward", "backward", "inputs", "weights"]


class Action(NamedTuple):
    """One piece of a process's work."""

    kind: Kind  # "backward" is "inputs" and "weights" in one
    stage: int
    micro: int


def schedule(name: str, processes: int, chunks: int, micros: int) -> list[list[Action]]:
    """The actions of every process, in order.

    Args:
        name: gpipe, 1f1b, interleaved or zero-bubble.
        processes: P.
        chunks: stages on each process; 1 but for interleaved.
        micros: micro-batches; for interleaved a multiple of P.
    """
    if name == "gpipe":
        return [_gpipe(process, micros) for process in range(processes)]
    if name == "interleaved":
        return [_interleaved(process, processes, chunks, micros) for process in range(processes)]
    plain = [_one_each(process, processes, micros) for process in range(processes)]
    return _fill_gaps(plain) if name == "zero-bubble" else plain


def _gpipe(process: int, micros: int) -> list[Action]:
    forwards = [Action("forward", process, micro) for micro in range(micros)]
    return forwards + [Action("backward", process, micro) for micro in range(micros)]


def _one_each(process: int, processes: int, micros: int) -> list[Action]:
    forwards = [Action("forward", process, micro) for micro in range(micros)]
    backwards = [Action("backward", process, micro) for micro in range(micros)]
    return _alternate(forwards, backwards, ahead=processes - process - 1)


def _interleaved(process: int, processes: int, chunks: int, micros: int) -> list[Action]:
    """Groups of P micro-batches go through the process's first stage, then its second, ..."""

    def nth(k: int, backward: bool) -> Action:
        group, place = divmod(k, processes * chunks)
        chunk, micro = divmod(place, processes)
        chunk = chunks - 1 - chunk if backward else chunk
        kind: Kind = "backward" if backward else "forward"
        return Action(kind, chunk * processes + process, group * processes + micro)

    total = micros * chunks
    ahead = 2 * (processes - process - 1) + (chunks - 1) * processes
    return _alternate([nth(k, False) for k in range(total)], [nth(k, True) for k in range(total)],
                      ahead)  # fmt: skip


def _alternate(forwards: list[Action], backwards: list[Action], ahead: int) -> list[Action]:
    """`ahead` forward passes, then one forward and one backward in turn, then what is left."""
    ahead = min(ahead, len(forwards))
    actions = forwards[:ahead]
    for forward, backward in zip(forwards[ahead:], backwards, strict=False):
        actions += [forward, backward]
    return actions + backwards[len(forwards) - ahead :]


def _fill_gaps(plain: list[list[Action]]) -> list[list[Action]]:
    """Of 1f1b: where a process would wait it makes gradients of weights that are still due. Found
    by playing it through, every action taking the same time. What a gradient of weights needs is
    held until then, so it may not be put off beyond the P micro-batches that 1f1b holds."""
    processes = len(plain)
    todo = [list(actions) for actions in plain]
    held = [0] * processes  # micro-batches with a forward pass and no gradients of weights
    due: list[list[Action]] = [[] for _ in plain]
    filled: list[list[Action]] = [[] for _ in plain]
    done: set[Action] = set()
    while any(todo) or any(due):
        now = []
        for process, actions in enumerate(todo):
            full = held[process] >= processes and actions and actions[0].kind == "forward"
            if actions and _ready(actions[0], done, processes) and not full:
                action = actions.pop(0)
                if action.kind == "backward":
                    action = action._replace(kind="inputs")
                    due[process].append(action._replace(kind="weights"))
                else:
                    held[process] += 1
                now.append((process, action))
            elif due[process]:
                held[process] -= 1
                now.append((process, due[process].pop(0)))
        for process, action in now:
            filled[process].append(action)
            done.add(action)
    return filled


def _ready(action: Action, done: set[Action], stages: int) -> bool:
    """Whether what comes from the neighbouring stage is there (plain stages: one per process)."""
    _, stage, micro = action
    if action.kind == "forward":
        return stage == 0 or Action("forward", stage - 1, micro) in done
    if Action("forward", stage, micro) not in done:
        return False
    after = stage + 1
    return after == stages or any(Action(kind, after, micro) in done for kind in _BACK)


_BACK: tuple[Kind, ...] = ("backward", "inputs")


def duration(actions: list[list[Action]], processes: int) -> tuple[int, int]:
    """(time until all is done, time that one process works), counted in thirds of a whole forward
    and backward pass of a stage: forward 1, inputs 1, weights 1, backward 2. Messages take none.

    Raises:
        ValueError: the processes wait for one another for ever.
    """
    stages = 1 + max(action.stage for some in actions for action in some)
    ends: dict[Action, int] = {}
    clock, place = [0] * processes, [0] * processes
    while any(place[p] < len(actions[p]) for p in range(processes)):
        moved = False
        for process in range(processes):
            while place[process] < len(actions[process]):
                action = actions[process][place[process]]
                start = _start(action, ends, stages)
                if start is None:
                    break
                clock[process] = max(clock[process], start) + (
                    2 if action.kind == "backward" else 1
                )
                ends[action] = clock[process]
                place[process] += 1
                moved = True
        if not moved:
            raise ValueError("the schedule cannot be carried out: everybody waits")
    work = max(sum(_cost(action) for action in some) for some in actions)
    return max(clock), work


def _cost(action: Action) -> int:
    return 2 if action.kind == "backward" else 1


def _start(action: Action, ends: dict[Action, int], stages: int) -> int | None:
    """When what an action needs is there; None: not yet known."""
    kind, stage, micro = action
    if kind == "forward":
        return 0 if stage == 0 else ends.get(Action("forward", stage - 1, micro))
    if kind == "weights":
        return ends.get(Action("inputs", stage, micro))
    own = ends.get(Action("forward", stage, micro))
    if own is None or stage == stages - 1:
        return own
    behind = [ends[a] for a in (Action(k, stage + 1, micro) for k in _BACK) if a in ends]
    return max(own, behind[0]) if behind else None
