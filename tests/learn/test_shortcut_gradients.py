"""The book's mean gradients, layer by layer."""

from __future__ import annotations

import pytest
from shortcut_gradients import mean_gradients


def test_gradients_without_and_with_shortcuts() -> None:
    plain = [2.0174e-4, 1.2011e-4, 7.1520e-4, 1.39887e-3, 5.04965e-3]
    assert mean_gradients(shortcuts=False) == pytest.approx(plain, rel=1e-4)
    shortcuts = [0.22170, 0.20694, 0.32897, 0.26657, 1.32585]
    assert mean_gradients(shortcuts=True) == pytest.approx(shortcuts, rel=1e-4)
