"""Losses against the plain computation, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.dataset import Batch, RowArrays, Rows
from langwright.evaluate import (
    Loss,
    bits_per_byte,
    bootstrap_interval,
    document_losses,
    evaluate_rows,
    ratio_standard_error,
    row_losses,
    token_losses,
)
from langwright.evaluate import loss as loss_module
from langwright.evaluate.documents import _windows
from langwright.model import Transformer
from langwright.tokenizer import CharTokenizer


class FixedRows(Rows):
    """Rows with some targets masked out; row i is drawn from seed i."""

    def __init__(self, rows: int | None = 7, length: int = 12) -> None:
        self.sequence_length, self.epoch_rows, self.fingerprint = length, rows, "fixed"

    def gather(self, indices: np.ndarray) -> RowArrays:
        inputs, targets = [], []
        for index in indices:
            draw = np.random.default_rng(int(index))
            ids = draw.integers(0, 100, self.sequence_length + 1)
            inputs.append(ids[:-1])
            targets.append(np.where(draw.random(self.sequence_length) < 0.6, ids[1:], -100))
        return RowArrays(np.stack(inputs), np.stack(targets))


def plain_losses(model: Transformer, batch: Batch) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        logits = model(batch.inputs, segments=batch.segments, positions=batch.positions)
    flat = F.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100, reduction="none"
    )
    return flat.view(batch.targets.shape)


def test_token_losses(tiny_model: Callable[..., Transformer], monkeypatch) -> None:
    model, batch = tiny_model(), FixedRows().batch(0, 7)
    expected = plain_losses(model, batch)
    with torch.no_grad():
        torch.testing.assert_close(token_losses(model, batch), expected)
        monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 105 * 5)  # five tokens at a time
        torch.testing.assert_close(token_losses(model, batch), expected)
        nothing = Batch(batch.inputs, torch.full_like(batch.targets, -100))
        assert token_losses(model, nothing).abs().sum() == 0


def test_token_losses_with_documents_in_a_row(tiny_model: Callable[..., Transformer]) -> None:
    model, batch = tiny_model().eval(), FixedRows(1, 12).batch(0, 1)
    segments = torch.tensor([[0] * 5 + [1] * 7], dtype=torch.int32)
    positions = torch.tensor([[*range(5), *range(7)]])
    packed = Batch(batch.inputs, batch.targets, segments, positions)
    second = Batch(batch.inputs[:, 5:], batch.targets[:, 5:])
    with torch.no_grad():
        found = token_losses(model, packed)
        torch.testing.assert_close(found, plain_losses(model, packed))
        torch.testing.assert_close(found[:, 5:], plain_losses(model, second))


@pytest.mark.parametrize("batch_rows", [None, 1, 3])
def test_evaluate_rows(tiny_model: Callable[..., Transformer], batch_rows: int | None) -> None:
    model, rows = tiny_model(), FixedRows()
    exact = plain_losses(model, rows.batch(0, 7)).double()
    counted = int((rows.batch(0, 7).targets != -100).sum())
    model.train()
    done: list[int] = []
    loss = evaluate_rows(model, rows, batch_rows=batch_rows, progress=done.append)
    assert model.training and all(module.training for module in model.modules())
    assert loss.tokens == counted and loss.units == 7 and sum(done) == 7
    assert loss.nats_per_token == pytest.approx(exact.sum().item() / counted, rel=1e-6)
    assert loss.perplexity == pytest.approx(math.exp(loss.nats_per_token))
    assert loss.bits_per_byte is None
    some = evaluate_rows(model, rows, 3, start=2)
    part = exact[2:5].sum().item() / int((rows.batch(2, 3).targets != -100).sum())
    assert some.nats_per_token == pytest.approx(part, rel=1e-6)
    with pytest.raises(ValueError, match="max_rows"):
        evaluate_rows(model, FixedRows(None))


def test_a_model_that_knows_nothing(tiny_model: Callable[..., Transformer]) -> None:
    model = tiny_model(tied=False)
    with torch.no_grad():
        model.head.weight.zero_()
    loss = evaluate_rows(model, FixedRows())
    assert loss.perplexity == pytest.approx(105, rel=1e-6)
    assert loss.standard_error == pytest.approx(0, abs=1e-6)


def test_loss_values() -> None:
    loss = Loss.from_sums(np.array([2.0, 4.0]), np.array([1, 1]), np.array([2, 4]))
    assert loss.nats_per_token == 3.0
    assert loss.standard_error == pytest.approx(1.0)  # sd sqrt(2) over sqrt(2)
    assert loss.bits_per_byte == pytest.approx(1 / math.log(2))
    assert loss.bits_per_byte_error == pytest.approx(0.0, abs=1e-12)  # 1 nat a byte in both
    assert loss.bytes == 6
    assert Loss.from_sums(np.array([1.0]), np.array([1])).standard_error is None
    assert Loss.from_sums(np.array([1e4]), np.array([1])).to_json()["perplexity"] is None
    with pytest.raises(ValueError, match="no tokens"):
        Loss.from_sums(np.array([0.0]), np.array([0]))


def test_standard_error_covers_the_truth() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        tokens = draw.integers(5, 50, 60)
        nats = tokens * draw.normal(2.0, 0.5, 60)
        error = ratio_standard_error(nats, tokens)
        hits += abs(nats.sum() / tokens.sum() - 2.0) < 1.96 * error
    assert 0.90 < hits / 400 < 0.98


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(1).normal(10, 2, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(np.array([3.0])) == (3.0, 3.0)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_windows_count_each_token_once(inputs: int, context: int, stride: int) -> None:
    stride = min(stride, context)
    targets: list[int] = []
    for window in _windows(0, inputs, context, stride):
        assert 0 < window.stop - window.start <= context
        if window.start > 0:  # all but the first window see at least context - stride before
            assert window.stop - window.counted - window.start >= context - stride
        targets.extend(range(window.stop - window.counted, window.stop))
    assert targets == list(range(inputs))


@pytest.mark.parametrize("stride", [None, 1, 7, 32])
def test_bits_per_byte_of_documents(
    tiny_model: Callable[..., Transformer], tokenizer: CharTokenizer, stride: int | None
) -> None:
    """Token by token, each from the window that the stride gives it."""
    model = tiny_model()
    texts = ["short", "a longer text that needs several windows: " * 3, "é", "x" * 31, "y" * 32]
    found = document_losses(model, tokenizer, texts, stride=stride)
    step, context = stride or 16, 32
    for index, text in enumerate(texts):
        ids = [tokenizer.eos_id, *tokenizer.encode(text), tokenizer.eos_id]
        nats = 0.0
        for place in range(1, len(ids)):
            if place <= context:
                start = 0
            else:
                end = min(len(ids) - 1, context + -(-(place - context) // step) * step)
                start = end - context
            window = torch.tensor([ids[start:place]])
            model.eval()
            with torch.no_grad():
                nats -= model(window)[0, -1].log_softmax(-1)[ids[place]].item()
        assert found.nats[index] == pytest.approx(nats, rel=1e-5)
        assert found.tokens[index] == len(ids) - 1
        assert found.bytes[index] == len(text.encode())
    whole = bits_per_byte(model, tokenizer, texts, stride=stride)
    assert whole.bits_per_byte == pytest.approx(found.nats.sum() / math.log(2) / found.bytes.sum())
    assert whole.bytes == sum(len(text.encode()) for text in texts)


def test_bits_per_byte_needs_a_beginning(tiny_model: Callable[..., Transformer]) -> None:
    with pytest.raises(UserError, match="beginning"):
        bits_per_byte(tiny_model(), CharTokenizer.train(["ab"]), ["ab"])


def test_documents_read_together_equal_one_long_window(
    tiny_model: Callable[..., Transformer], tokenizer: CharTokenizer
) -> None:
    """Read together, a later document is predicted from the earlier ones, each token once."""
    model = tiny_model(context_length=64).eval()
    texts = ["one two three", "four", "one two three four"]
    together = document_losses(model, tokenizer, texts, together=True)
    eos = tokenizer.eos_id
    ids = [eos]
    lengths = []
    for text in texts:
        part = [*tokenizer.encode(text), eos]
        ids += part
        lengths.append(len(part))
    assert len(ids) - 1 <= model.config.context_length
    logits = model(torch.tensor([ids[:-1]]))[0]
    losses = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    expected = [part.sum().item() for part in losses.split(lengths)]
    assert together.tokens.tolist() == lengths
    assert together.nats == pytest.approx(expected, rel=1e-5)
    alone = document_losses(model, tokenizer, texts)
    assert alone.nats[0] == pytest.approx(together.nats[0], rel=1e-5)
    assert abs(alone.nats[2] - together.nats[2]) > 1e-3


@pytest.mark.parametrize("parts", [2, 3, 5, 9])
@pytest.mark.parametrize("batch_rows", [1, 2, 3, None])
def test_parts_have_every_row_once(
    tiny_model: Callable[..., Transformer], parts: int, batch_rows: int | None
) -> None:
    model, rows = tiny_model(), FixedRows()
    whole = row_losses(model, rows)
    found, passes = [], set()
    for part in range(parts):
        done: list[int] = []
        found.append(
            row_losses(
                model, rows, batch_rows=batch_rows, progress=done.append, part=part, parts=parts
            )
        )
        assert sum(done) == len(found[-1][0]) == len(found[-1][1])
        passes.add(len(done))
    assert len(passes) == 1
    for right, pieces in zip(whole, zip(*found), strict=True):
        joined = np.concatenate(pieces)
        assert len(joined) == len(right)
        np.testing.assert_allclose(np.sort(joined), np.sort(right), rtol=1e-6)
