"""Tensors and options for tests of attention."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

SHAPES = st.tuples(
    st.integers(1, 3),  # B
    st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),  # H, K
    st.sampled_from([1, 2, 7, 64, 130, 260]),  # T
    st.sampled_from([2, 8, 16]),  # h
    st.sampled_from([None, 3, 8]),  # g, if not h
)
OPTIONS = st.fixed_dictionaries(
    {
        "bias": st.sampled_from([0, 1, 2]),  # none, one for all rows, one for each
        "scale": st.sampled_from([None, 0.3]),
        "softcap": st.sampled_from([None, 1.5]),
        "sinks": st.booleans(),
        "window": st.sampled_from([None, 1, 5, 100]),
    }
)


def heads(batch, heads, t, h, dtype=torch.float32):
    """(B, H, T, h) with the strides that the projections give."""
    return torch.randn(batch, t, heads, h, dtype=dtype).transpose(1, 2)


def segments_of(batch, t):
    """Random documents per row, the last tokens of the first row padding."""
    segments = torch.randint(0, 2, (batch, t)).cumsum(1)
    segments[0, t - t // 3 :] = -1
    return segments


def drawn(options, batch, h_q, t, s, dtype=torch.float32):
    """Tensors for the options that need one."""
    rows = {0: None, 1: 1, 2: batch}[options["bias"]]
    return {
        **options,
        "bias": None if rows is None else torch.randn(rows, h_q, t, s, dtype=dtype),
        "sinks": torch.randn(h_q, dtype=dtype) if options["sinks"] else None,
    }
