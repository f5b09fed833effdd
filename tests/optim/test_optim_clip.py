"""Clipping by global norm: the textbook's figures, and ours against them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.optim import clip_gradients, clip_reference


def _parameters(*gradients):
    result = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros(len(gradient)))
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        result.append(parameter)
    return result


def test_reference_figures():
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([12.0])]
    assert clip_reference(gradients, 1.0) == pytest.approx(13.0)
    assert torch.cat(gradients).tolist() == pytest.approx([0.23077, 0.30769, 0.92308], abs=5e-6)
    small = [torch.tensor([0.3, 0.4])]
    assert clip_reference(small, 1.0) == pytest.approx(0.5)
    assert torch.equal(small[0], torch.tensor([0.3, 0.4]))
    assert clip_reference([], 1.0) == 0.0


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=4),
    st.floats(0.01, 50),
)
def test_equal_to_the_reference(values, limit):
    parameters = _parameters(*values)
    expected = [p.grad.clone() for p in parameters]
    norm = clip_gradients(parameters, limit)
    assert float(norm) == pytest.approx(clip_reference(expected, limit), rel=1e-5)
    for parameter, gradient in zip(parameters, expected):
        torch.testing.assert_close(parameter.grad, gradient, rtol=2e-5, atol=1e-6)


def test_factor_comes_before_the_limit():
    parameters = _parameters([30.0, 40.0], [120.0])
    assert float(clip_gradients(parameters, 1.0, factor=0.1)) == pytest.approx(13.0)
    assert parameters[1].grad.item() == pytest.approx(12 / 13, rel=1e-5)
    parameters = _parameters([0.3], [0.4])
    clip_gradients(parameters, 1.0, factor=2.0)
    assert [p.grad.item() for p in parameters] == pytest.approx([0.6, 0.8], rel=1e-6)


def test_measuring_only_and_nothing_to_measure():
    parameters = _parameters([3.0, 4.0])
    assert float(clip_gradients(parameters, None)) == 5.0
    assert parameters[0].grad.tolist() == [3.0, 4.0]
    assert float(clip_gradients([torch.nn.Parameter(torch.ones(2))], 1.0)) == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_spoils_no_other(bad):
    parameters = _parameters([3.0, 4.0], [bad])
    assert not torch.isfinite(clip_gradients(parameters, 1.0))
    assert parameters[0].grad.tolist() == [3.0, 4.0]
