"""`compare`: whether two runs agree, and where they part."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from langwright.base import UserError
from langwright.cli import main
from langwright.recipe import compare_runs, comparison_json, comparison_page, comparison_text


def _records(steps=200, seed=0, batch=64):
    random = np.random.default_rng(seed)
    return [
        {
            "step": s,
            "tokens": s * batch,
            "loss": 2.0 + 3.0 * math.exp(-s / 50) + 0.01 * float(random.standard_normal()),
            "grad_norm": 1.0 + float(random.random()),
            "tokens_per_second": 1000.0 * (1 + seed),
        }
        for s in range(1, steps + 1)
    ]


def _write(folder, records, precision="fp32", stage="pretrain", **choices):
    folder = folder / stage
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    table = {name: {"value": v} for name, v in {"precision": precision, **choices}.items()}
    (folder / "choices.json").write_text(json.dumps({"key": "k", "choices": table}))
    return folder.parent


def _changed(records, **changes):
    """Copies with ``{name: {step: difference}}`` added."""
    copies = [dict(record) for record in records]
    for name, by_step in changes.items():
        for step, difference in by_step.items():
            copies[step - 1][name] += difference
    return copies


def _compare(tmp_path, first, second, **options):
    (found,) = compare_runs(
        _write(tmp_path / "a", first), _write(tmp_path / "b", second), **options
    )
    return found


def test_equal_runs_agree_to_the_bit(tmp_path):
    found = _compare(tmp_path, _records(), _records())
    assert found.agree and found.parting is None
    assert [q.largest for q in found.quantities] == [0.0, 0.0]
    text = comparison_text(found)
    assert "The runs agree, to the bit." in text and "never" in text


def test_rounding_agrees_and_is_measured(tmp_path):
    random = np.random.default_rng(3)
    noise = {s: float(random.uniform(-4e-7, 4e-7)) for s in range(5, 201)}
    found = _compare(tmp_path, _records(), _changed(_records(), loss=noise))
    loss = found.quantities[0]
    assert found.agree and loss.unequal == 4
    assert loss.largest == pytest.approx(max(map(abs, noise.values())), rel=1e-6)
    assert loss.mean == pytest.approx(-sum(noise.values()) / 200, rel=1e-4)
    assert abs(loss.mean) < 2 * loss.mean_error < 2e-7


def test_one_large_difference_is_found_where_it_begins(tmp_path):
    later = dict.fromkeys(range(77, 90), 0.001)
    second = _changed(_records(), loss={40: 1e-7, **later}, grad_norm={78: 0.5})
    found = _compare(tmp_path, _records(), second)
    quantity, index = found.parting
    assert not found.agree and quantity.name == "loss" and quantity.places[index] == 77
    text = comparison_text(found)
    assert "The runs part at step 77" in text and "first difference of all is at step 40" in text
    # the same with wider limits
    wide = compare_runs(tmp_path / "a", tmp_path / "b", largest=2e-3, mean=1e-3, norm=1.0)[0]
    assert wide.agree


def test_a_small_drift_is_found_by_the_mean(tmp_path):
    drift = dict.fromkeys(range(1, 201), 1.5e-06)
    found = _compare(tmp_path, _records(), _changed(_records(), loss=drift))
    assert not found.agree and found.parting is None
    assert found.quantities[0].mean == pytest.approx(-1.5e-6, rel=1e-4)
    assert "point the same way" in comparison_text(found)


def test_gradient_norms_are_compared_relatively(tmp_path):
    first = _records()
    for record in first:
        record["grad_norm"] *= 1000
    second = _changed(first, grad_norm={9: 1e-5 * first[8]["grad_norm"] * 0.9})
    assert _compare(tmp_path, first, second).agree
    second = _changed(first, grad_norm={9: 1e-5 * first[8]["grad_norm"] * 1.2})
    found = _compare(tmp_path / "more", first, second)
    assert found.parting[0].name == "grad_norm" and found.parting[0].places[8] == 9


def test_a_skipped_update_parts_the_runs(tmp_path):
    second = _records()
    second[19] |= {"loss": None, "grad_norm": None, "skipped": True}
    found = _compare(tmp_path, _records(), second)
    assert found.parting[1] == 19 and found.quantities[0].largest == math.inf
    assert "not finite" in comparison_text(found)
    assert json.loads(json.dumps(comparison_json(found)))["quantities"][0]["largest"] is None


def test_bf16_has_wider_limits(tmp_path):
    a = _write(tmp_path / "a", _records(), "fp32")
    b = _write(tmp_path / "b", _changed(_records(), loss={5: 3e-3}), "bf16")
    (found,) = compare_runs(a, b)
    assert found.agree and ("choices.precision", "fp32", "bf16") in found.settings
    assert "choices.precision" in comparison_text(found)


def test_another_learning_rate_is_told(tmp_path):
    first, second = ([{**r, "lr": 1e-3 * r["step"]} for r in _records(30)] for _ in range(2))
    for record in second[11:]:
        record["lr"] *= 1.001
    found = _compare(tmp_path, first, second)
    assert found.other_rate == 12
    assert "Learning rates differ from step 12 on" in comparison_text(found)
    assert "Learning rates" not in comparison_text(_compare(tmp_path / "same", first, first))


def test_runs_with_other_batches_are_matched_by_tokens(tmp_path):
    first = _records(100, batch=64)
    second = [dict(r) for r in first if r["step"] % 2 == 0]
    for record in second:
        record["step"] //= 2
    found = _compare(tmp_path, first, second)
    assert found.axis == "tokens" and found.agree
    assert len(found.quantities[0].places) == 50 and found.missing == (50, 0)
    assert "50 updates are in" in comparison_text(found)


def test_validation_losses_and_stages(tmp_path):
    looks = [{"step": 100, "tokens": 6400, "valid_loss": 2.5, "valid_perplexity": 12.2}]
    later = [{**looks[0], "valid_loss": 2.6}]
    for name, extra in (("a", looks), ("b", later)):
        _write(tmp_path / name, _records() + extra)
        _write(tmp_path / name, _records(20), stage="sft")
    both = compare_runs(tmp_path / "a", tmp_path / "b")
    assert [one.first.stage for one in both] == ["pretrain", "sft"]
    assert [one.agree for one in both] == [False, True]
    assert [q.name for q in both[0].quantities] == ["loss", "grad_norm", "valid_loss"]
    (only,) = compare_runs(tmp_path / "a", tmp_path / "b", stage="sft")
    assert only.agree
    (files,) = compare_runs(tmp_path / "a/sft/metrics.jsonl", tmp_path / "b/sft/metrics.jsonl")
    assert files.agree and files.quantities[0].places[-1] == 20


def test_weights_are_compared(tmp_path):
    a, b = (_write(tmp_path / name, _records(5)) for name in "ab")
    weights = {"x": torch.arange(6.0), "y": torch.ones(2, 3)}
    for folder in (a, b):
        (folder / "pretrain" / "model").mkdir()
        save_file(weights, folder / "pretrain" / "model" / "model.safetensors")
        weights = {**weights, "y": weights["y"] + torch.tensor([[0.0, 0.0, 0.5], [0.0] * 3])}
    (found,) = compare_runs(a, b)
    assert (found.weights.tensors, found.weights.unequal) == (2, 1)
    assert found.weights.largest == 0.5 and found.weights.worst == "y"
    norm = math.sqrt(sum(i * i for i in range(6)) + 6)
    assert found.weights.relative == pytest.approx(0.5 / norm)
    assert "1 of 2 tensors differ" in comparison_text(found)
    assert compare_runs(a, a)[0].weights.unequal == 0
    (b / "pretrain" / "model" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot read the weights"):
        compare_runs(a, b)


def test_what_cannot_be_compared_is_said(tmp_path):
    a = _write(tmp_path / "a", _records(5))
    with pytest.raises(UserError, match="run folder not found"):
        compare_runs(a, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no training in this folder"):
        compare_runs(a, tmp_path / "empty")
    with pytest.raises(UserError, match="no training stage in common"):
        compare_runs(a, _write(tmp_path / "s", _records(5), stage="sft"))
    late = [dict(r) for r in _records(20) if r["step"] > 10]
    with pytest.raises(UserError, match="no update in common"):
        compare_runs(a, _write(tmp_path / "late", late))
    (a / "pretrain" / "metrics.jsonl").write_text('{"step": "x", "loss": []}\nnonsense')
    with pytest.raises(UserError, match="no update is written down"):
        compare_runs(a, a)


def test_the_command(tmp_path, capsys):
    a = _write(tmp_path / "a", _records())
    b = _write(tmp_path / "b", _changed(_records(), loss={3: 0.5}))
    assert main(["compare", str(a), str(a)]) == 0
    assert "to the bit" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert main(["compare", str(a), str(b), "--html", str(page)]) == 1
    assert "part at step 3" in capsys.readouterr().out
    assert "Absolute difference" in page.read_text() and "part at step 3" in page.read_text()
    assert main(["compare", str(a), str(b), "--json", "--max-tolerance", "1",
                 "--mean-tolerance", "1"]) == 0  # fmt: skip
    (table,) = json.loads(capsys.readouterr().out)
    assert table["agree"] and table["quantities"][0]["largest"] == pytest.approx(0.5)
    assert main(["compare", str(a), str(tmp_path / "no")]) == 2
    assert "run folder not found" in capsys.readouterr().err


def test_the_page_of_equal_runs(tmp_path):
    assert "The runs agree" in comparison_page([_compare(tmp_path, _records(), _records())])
