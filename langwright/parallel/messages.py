"""Activations and gradients on their way between a pipeline's processes.

Two processes must agree on the order of their messages. It follows from the schedule, which
everybody knows: messages of a channel come in the order in which the sender's actions make them. A
receiver always has the next message of every channel on order, so that it comes while it works.

On GPUs the messages of a group are dealt with one after another on each process: a message that is
waited for would hold up one that others wait for. So there are several groups, in each of which a
process only sends or only receives: see `Post`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from langwright.parallel.layout import Layout
from langwright.parallel.schedules import Action


class Message(NamedTuple):
    """What stage `stage` needs for its forward or backward pass of a micro-batch."""

    backward: bool
    stage: int
    micro: int


class Post:
    """The groups that a pipeline's messages go through. All processes must make it together.

    Forward and backward, from processes of even and of odd number; and, where their number is odd,
    from the end of the ring to its beginning.
    """

    def __init__(self, layout: Layout) -> None:
        self.peers, self.rank = layout.peers("pp"), layout.rank("pp")
        self._groups: dict[tuple[bool, int], Any] = {}
        for backward in (False, True):
            for kind in range(2 + layout.pp % 2):
                group, _ = dist.new_subgroups_by_enumeration(layout.groups_of("pp"))
                self._groups[backward, kind] = group
        self._greet(torch.device(layout.world.device))

    def group(self, backward: bool, sender: int) -> Any:
        """For what `sender` has for the next process, or, backward, the one before."""
        count = len(self.peers)
        around = count % 2 == 1 and sender == (0 if backward else count - 1)
        return self._groups[backward, 2 if around else sender % 2]

    def _greet(self, device: torch.device) -> None:
        """A first message by every channel, in an order that all keep: it makes the connection, for
        which both ends must be there."""
        count, token = len(self.peers), torch.zeros(1, device=device)
        for backward in (False, True):
            for sender in range(count):
                receiver = (sender + (-1 if backward else 1)) % count
                group = self.group(backward, sender)
                if self.rank == sender:
                    dist.send(token, self.peers[receiver], group=group)
                elif self.rank == receiver:
                    dist.recv(token, self.peers[sender], group=group)


class Messages:
    """The messages of one update.

    Args:
        post: the groups.
        plan: all processes' actions.
        stages: how many there are.
        like: a tensor of the shape, dtype and device of every message.
    """

    def __init__(self, post: Post, plan: list[list[Action]], stages: int, like: Tensor) -> None:
        self.post, self.like = post, like
        self.processes = len(plan)
        self.orders: dict[tuple[bool, int], list[Message]] = {}  # what comes by each channel
        for sender, actions in enumerate(plan):
            for action in actions:
                message = outgoing(action, stages)
                if message is not None and message.stage % self.processes == post.rank:
                    self.orders.setdefault((message.backward, sender), []).append(message)
        self.coming: dict[tuple[bool, int], tuple[Message, Tensor, Any]] = {}
        self.arrived: dict[Message, Tensor] = {}
        self.sent: list[tuple[Any, Tensor]] = []
        for channel in self.orders:
            self._expect(channel)

    def send(self, message: Message, tensor: Tensor) -> None:
        """Start to send; the work goes on."""
        self.sent = [pair for pair in self.sent if not pair[0].is_completed()]
        group = self.post.group(message.backward, self.post.rank)
        tensor = tensor.contiguous()
        to = self.post.peers[message.stage % self.processes]
        self.sent.append((dist.isend(tensor, to, group=group), tensor))

    def receive(self, message: Message) -> Tensor:
        """Wait for a message."""
        stage = message.stage + 1 if message.backward else message.stage - 1
        channel = (message.backward, stage % self.processes)
        while message not in self.arrived:
            found, tensor, work = self.coming.pop(channel)
            work.wait()
            self.arrived[found] = tensor
            self._expect(channel)
        return self.arrived.pop(message)

    def finish(self) -> None:
        """Wait until everything has been sent."""
        for work, _ in self.sent:
            work.wait()
        self.sent = []

    def _expect(self, channel: tuple[bool, int]) -> None:
        if not self.orders[channel]:
            return
        message = self.orders[channel].pop(0)
        backward, sender = channel
        tensor = torch.empty_like(self.like)
        group = self.post.group(backward, sender)
        self.coming[channel] = (message, tensor, dist.irecv(tensor, self.post.peers[sender], group))


def outgoing(action: Action, stages: int) -> Message | None:
    """What another stage gets from an action."""
    kind, stage, micro = action
    if kind == "forward" and stage + 1 < stages:
        return Message(False, stage + 1, micro)
    if kind in ("backward", "inputs") and stage > 0:
        return Message(True, stage - 1, micro)
    return None
