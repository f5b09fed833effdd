"""Every step of the ladder computes the figures that are printed, and the checks can fail."""

from __future__ import annotations

import importlib
import itertools
import math
import re
from pathlib import Path

import causal_attention
import distance_biases
import figures
import ladder
import layer_norm
import plain_attention
import pytest
import several_heads
import shortcut_gradients
import torch
import toy_network
from figures import Figure, close, same

LEARN = Path(ladder.__file__).parent
# How many figures each step has: none may be lost without a word.
COUNTS = {
    "token_embeddings": 7,
    "added_positions": 8,
    "plain_attention": 15,
    "trained_attention": 9,
    "causal_attention": 17,
    "several_heads": 13,
    "fused_attention": 17,
    "layer_norm": 12,
    "activations": 16,
    "shortcut_gradients": 8,
    "transformer_block": 13,
    "gpt_sizes": 23,
    "rotary_positions": 8,
    "distance_biases": 7,
    "tensors": 11,
    "logistic_gradient": 8,
    "toy_network": 15,
    "toy_ddp": 7,
}


@pytest.mark.parametrize("step", ladder.STEPS)
def test_figures_of_a_step(step: str) -> None:
    found = list(importlib.import_module(step).figures())
    wrong = [str(figure) for figure in found if not figure.matches]
    assert not wrong, "\n".join(wrong)
    assert len(found) == COUNTS[step]


def test_every_step_is_counted_and_leads_to_the_next() -> None:
    assert list(COUNTS) == list(ladder.STEPS)
    for step, following in itertools.pairwise(ladder.STEPS):
        script = (LEARN / f"{step}.py").read_text(encoding="utf-8")
        assert re.search(rf"^    python docs/learn/{step}\.py\b", script, re.MULTILINE), step
        if step != "gpt_sizes":  # after it the whole GPT, then positions of other kinds
            assert f"# next: {following}.py" in script, step


def test_figures_can_differ() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert same("", tensor, tensor + 5e-7).matches
    assert not same("", tensor, tensor + 5e-6).matches
    assert not same("", tensor, tensor[None]).matches
    assert not same("", tensor * math.nan, tensor).matches
    assert close("", tensor, [1.0, 2.00004], figures.FOUR).matches
    assert not close("", tensor, [1.0, 2.0001], figures.FOUR).matches
    assert not close("", tensor, [1.0]).matches


def test_the_ladder_reports_what_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ladder.main(["tensors"]) == 0
    monkeypatch.setattr("tensors.figures", lambda: [Figure("made up", [1], [2])])
    assert ladder.main(["tensors"]) == 1
    assert "figures differ in tensors" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        ladder.main(["no such step"])


def wrong_figures(step: object) -> list[str]:
    return [figure.name for figure in step.figures() if not figure.matches]  # type: ignore[attr-defined]


def test_a_step_notices_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slip in each of several steps, as a reader might make it."""
    with monkeypatch.context() as slip:
        slip.setattr(causal_attention, "zero_and_renormalise", lambda weights: weights.tril())
        assert wrong_figures(causal_attention) == ["zeroed and renormalised: largest difference"]
    with monkeypatch.context() as slip:
        slip.setattr(layer_norm, "rms_norm", lambda x, w: w * (x - x.mean(-1, keepdim=True)))
        assert any("RMSNorm" in name for name in wrong_figures(layer_norm))
    with monkeypatch.context() as slip:
        slip.setattr(distance_biases, "slopes", lambda heads: [2 ** (-8 / heads)] * heads)
        assert any("ALiBi" in name for name in wrong_figures(distance_biases))
    with monkeypatch.context() as slip:
        slip.setattr(distance_biases, "FARTHEST", 31)
        slip.setattr(distance_biases, "bucket", lambda distance: min(max(distance, 0), 7))
        assert any("relative" in name for name in wrong_figures(distance_biases))
    with monkeypatch.context() as slip:
        slip.setattr(shortcut_gradients, "block_gradient", lambda scale: torch.ones(1, 8, 24))
        assert wrong_figures(shortcut_gradients) == ["and not silent: it moves"]


def test_loops_and_products_agree_for_other_inputs() -> None:
    x = torch.randn(7, 5)
    torch.testing.assert_close(plain_attention.scores_by_loops(x), x @ x.T)
    torch.testing.assert_close(plain_attention.stable_softmax(50 * x), (50 * x).softmax(-1))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="width 5 is not divisible by 2 heads"):
        several_heads.MultiHeadAttention(3, 5, heads=2)


def test_activations_write_their_plot(tmp_path: Path) -> None:
    import activations

    path = tmp_path / "curves.svg"
    assert activations.main(["--plot", str(path)]) == 0
    assert path.read_text(encoding="utf-8").startswith("<svg")


def test_the_toy_loop_takes_another_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    losses = toy_network.train("cuda")[1]
    assert losses == pytest.approx(toy_network.train("cpu")[1], abs=1e-3)
