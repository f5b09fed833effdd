"""Losing the optimizer's state costs; keeping it costs nothing."""

from __future__ import annotations

import optimizer_state


def test_the_loss_rises_without_the_state() -> None:
    curves = optimizer_state.run()
    assert curves.with_state == curves.straight
    assert curves.without_state[0] == curves.straight[0]  # the weights are the same
    assert curves.bump > 0.03
    early = slice(1, 21)
    worse = [b - a for a, b in zip(curves.straight[early], curves.without_state[early])]
    assert sum(worse) / len(worse) > 0.02
