"""Float8 products: near bf16's results, the same names, and back again."""

import sys

import pytest
import torch
from train_small import PatternRows, small_trainer

from langwright.base import UserError, read_json
from langwright.model import Linear, build_model, model_config
from langwright.train.float8 import undo_float8, use_float8

pytest.importorskip("torchao.float8")
pytestmark = pytest.mark.filterwarnings("ignore")


def _model(width=128, seed=0):
    table = {"width": width, "layers": 2, "heads": 4, "context_length": 16}
    return build_model(model_config(table, vocab_size=13), seed).train()


def _gradients(model):
    batch = PatternRows(holes=False).batch(0, 8)
    loss, count = model.loss(batch.inputs, batch.targets)
    (loss / count).backward()
    return (loss / count).item(), {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("emulate", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_near_the_exact_products(dtype, emulate):
    exact, rounded = _model(), _model()
    exact.compute_dtype = rounded.compute_dtype = dtype
    loss, wanted = _gradients(exact)
    count = use_float8(rounded, emulate=emulate)
    layers = [layer for block in exact.blocks for layer in block.modules()]
    assert count == sum(isinstance(layer, Linear) for layer in layers)
    other, grads = _gradients(rounded)
    assert other == pytest.approx(loss, rel=2e-3) and other != loss
    assert grads.keys() == wanted.keys()
    for name, gradient in wanted.items():
        error = (grads[name] - gradient).norm() / gradient.norm()
        assert error < 0.25, name  # e4m3 rounds by up to 1/16, e5m2 by 1/8
        inside = "blocks" in name and name.endswith("weight") and gradient.ndim == 2
        assert error > 0.01 or not inside, name  # it was rounded


def test_names_ties_and_back():
    model, plain = _model(), _model()
    names = list(plain.state_dict())
    assert use_float8(model) == use_float8(model)  # a second time changes nothing
    assert list(model.state_dict()) == names
    with torch.no_grad():
        model.blocks[0].feedforward.up.weight.mul_(2.0)
    undo_float8(model)
    assert list(model.state_dict()) == names
    layers = [(type(a), type(b)) for a, b in zip(model.modules(), plain.modules())]
    assert all(a is b for a, b in layers)
    with torch.no_grad():
        plain.blocks[0].feedforward.up.weight.mul_(2.0)
    ids = PatternRows().batch(0, 2).inputs
    assert torch.equal(model(ids), plain(ids))


def test_a_run_in_float8_learns_and_leaves_a_plain_model(tmp_path):
    ends = {}
    for precision in ("bf16", "fp8"):
        model = _model()
        ends[precision] = small_trainer(
            tmp_path / precision, model, precision=precision, steps=25, lr=1e-3
        ).run()["train_loss"]
    assert ends["fp8"] == pytest.approx(ends["bf16"], rel=0.05) and ends["fp8"] != ends["bf16"]
    assert ends["fp8"] < 2.3
    assert not any("Float8" in type(module).__name__ for module in model.modules())
    choices = read_json(tmp_path / "fp8" / "choices.json")["choices"]
    assert choices["precision"]["value"] == "fp8"


def test_what_cannot_be(monkeypatch):
    with pytest.raises(UserError, match="no layer of this model") as error:
        use_float8(_model(width=32))
    assert "128" in error.value.expected
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(UserError, match="needs the package torchao"):
        use_float8(_model())
