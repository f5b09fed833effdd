"""One update: accumulation, loss scaling, steps that are skipped."""

import pytest
import torch
from train_small import LENGTH, PatternRows, same_weights, small_model, weights_of

from langwright.optim import OptimConfig, build_optimizer
from langwright.train import LossScale, Updater, language_model_loss

CPU = torch.device("cpu")


def _updater(model, micro_rows, *, objective=language_model_loss, name="adamw", **options):
    optimizer = build_optimizer(model, OptimConfig(name=name, lr=1e-2))
    settings = {"device": CPU, "micro_rows": micro_rows, "clip": 1.0, "seed": 0, **options}
    return Updater(model, optimizer, objective, **settings)


def _gradients(model, micro_rows, batch, **options):
    updater = _updater(model, micro_rows, **options)
    loss, factor = updater.accumulate(0, batch)
    grads = {name: p.grad * factor for name, p in model.named_parameters()}
    updater.optimizer.zero_grad()
    return loss, grads


@pytest.mark.parametrize("micro_rows", [1, 2, 3, 5])
def test_accumulation_equals_the_big_batch_with_unequal_counts(micro_rows):
    batch = PatternRows().batch(0, 8)
    counts = {micro.tokens for micro in batch.split(micro_rows)}
    assert len(counts) > 1  # a mean of means would differ
    model = small_model().double()
    model.compute_dtype = torch.float64
    loss, whole = _gradients(model, 8, batch)
    mean = torch.nn.functional.cross_entropy(
        model(batch.inputs).flatten(0, 1).double(), batch.targets.flatten()
    )
    assert loss.item() == pytest.approx(mean.item(), rel=1e-6)
    loss, parts = _gradients(model, micro_rows, batch)
    assert loss.item() == pytest.approx(mean.item(), rel=1e-6)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-8)


def test_an_objective_with_its_own_weight():
    """A weight other than tokens (here: rows) normalises loss and gradients alike."""

    def per_row(model, batch):
        loss_sum, _ = language_model_loss(model, batch)
        return loss_sum, torch.tensor(float(batch.inputs.shape[0]))

    batch = PatternRows().batch(0, 6)
    model = small_model()
    loss, by_token = _gradients(model, 6, batch)
    row_loss, by_row = _gradients(model, 2, batch, objective=per_row)
    ratio = batch.tokens / 6
    assert float(row_loss) == pytest.approx(float(loss) * ratio, rel=1e-5)
    for name, gradient in by_token.items():
        torch.testing.assert_close(by_row[name], gradient * ratio, rtol=1e-4, atol=1e-6)


def test_a_batch_without_counted_tokens_moves_nothing_by_gradient():
    batch = PatternRows().batch(0, 2)
    batch.targets.fill_(-100)
    batch.tokens = 0
    model = small_model()
    loss, gradients = _gradients(model, 1, batch)
    assert float(loss) == 0.0
    assert all(float(g.abs().sum()) == 0.0 for g in gradients.values())


def test_dropout_depends_on_the_step_alone():
    batch = PatternRows().batch(0, 4)

    def loss(step, micro_rows=2):
        torch.rand(7)  # whatever was drawn before
        updater = _updater(small_model(dropout_residual=0.5), micro_rows)
        return float(updater.accumulate(step, batch)[0])

    assert loss(3) == loss(3)
    assert loss(3) != loss(4)


class Spoiled:
    """The usual loss, but not finite at some calls."""

    def __init__(self, bad_calls):
        self.calls, self.bad_calls = 0, bad_calls

    def __call__(self, model, batch):
        loss_sum, weight = language_model_loss(model, batch)
        self.calls += 1
        return loss_sum * (float("nan") if self.calls in self.bad_calls else 1.0), weight


def test_a_bad_step_changes_neither_weights_nor_state():
    model = small_model()
    updater = _updater(model, 4, objective=Spoiled({2}), name="muon")
    batch = PatternRows().batch(0, 4)
    assert not updater.update(0, batch, 1.0).bad
    weights = weights_of(model)
    state = {k: v.clone() for k, v in updater.optimizer.state_dict()["tensors"].items()}
    outcome = updater.update(1, batch, 1.0)
    assert outcome.bad
    assert same_weights(weights, weights_of(model))
    assert same_weights(state, updater.optimizer.state_dict()["tensors"])
    assert not updater.update(2, batch, 1.0).bad
    assert not same_weights(weights, weights_of(model))


def test_loss_scale_halves_grows_and_is_restored():
    scale = LossScale(CPU, start=8.0, patience=3)
    values = []
    for bad in [0, 0, 0, 0, 1, 0, 0, 0, 1, 1]:
        scale.update(torch.tensor(float(bad)))
        values.append(scale.scale.item())
    assert values == [8, 8, 16, 16, 8, 8, 8, 16, 8, 4]
    scale.update(torch.tensor(0.0))
    again = LossScale(CPU, patience=3)
    again.load_state_dict(scale.state_dict())
    for _ in range(2):
        scale.update(torch.tensor(0.0))
        again.update(torch.tensor(0.0))
    assert again.state_dict() == scale.state_dict() == {"scale": 8.0, "good_steps": 0.0}
    for _ in range(9):
        scale.update(torch.tensor(1.0))
    assert scale.scale.item() == 1.0  # never below


def test_scaling_is_divided_out_and_overflow_is_skipped():
    batch = PatternRows().batch(0, 4)
    plain, scaled = small_model(), small_model()
    _updater(plain, 2).update(0, batch, 1.0)
    updater = _updater(scaled, 2, loss_scale=LossScale(CPU, start=1024.0))
    assert not updater.update(0, batch, 1.0).bad
    assert same_weights(weights_of(plain), weights_of(scaled))  # powers of two are exact

    model = small_model()
    model.compute_dtype = torch.float16
    updater = _updater(model, 2, loss_scale=LossScale(CPU, start=2.0**24))
    before = weights_of(model)
    assert updater.update(0, batch, 1.0).bad  # the scaled loss overflows fp16
    assert same_weights(before, weights_of(model))
    assert updater.loss_scale.scale.item() == 2.0**23
    steps = 1
    while updater.update(steps, batch, 1.0).bad:
        steps += 1
    assert 1 < steps < 24
    assert not same_weights(before, weights_of(model))


def test_running_out_of_memory_halves_the_micro_batch_with_the_same_result():
    told = []

    def greedy(model, batch):
        if batch.inputs.shape[0] > 2:
            raise torch.OutOfMemoryError("too much")
        return language_model_loss(model, batch)

    batch = PatternRows().batch(0, 8)
    model, reference = small_model(), small_model()
    updater = _updater(model, 8, objective=greedy, say=told.append)
    updater.update(0, batch, 1.0)
    assert updater.micro_rows == 2 and len(told) == 2
    _updater(reference, 2).update(0, batch, 1.0)
    assert same_weights(weights_of(model), weights_of(reference))
    with pytest.raises(torch.OutOfMemoryError):
        _updater(
            model, 1, objective=lambda m, b: (_ for _ in ()).throw(torch.OutOfMemoryError("no"))
        ).update(0, batch, 1.0)
    assert batch.inputs.shape[1] == LENGTH
