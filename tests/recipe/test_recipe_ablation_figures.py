"""The arithmetic of ablations: equal compute, paired intervals, and the table they come to."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_small import write_recipe

from langwright.base import UserError
from langwright.recipe import Ablation, ablation_text, load_recipe
from langwright.recipe.ablation_compute import Cost, planned_tokens, training_cost
from langwright.recipe.ablation_results import Outcome, VariantResult, best_of, verdict
from langwright.recipe.ablation_statistics import estimate, student_quantile
from langwright.recipe.ablation_text import ablation_page, markdown_table
from langwright.recipe.config import Recipe

# By hand, for the tiny recipe (width 32, 2 heads of 16, 1 key head, hidden 64, 320 words, T 128).
MATRICES = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64 + 320 * 32
PER_TOKEN = 3 * (2 * MATRICES + 2 * (2 * 2 * 16) * 129 / 2)


def orthogonal(m: int, n: int) -> int:
    """Five iterations of three products: X X^T, its square, and the product with X."""
    return 5 * (2 * m * m * n + 2 * m * m * m + 2 * m * m * n)


PER_UPDATE = 2 * orthogonal(32, 32) + 2 * orthogonal(16, 32) + 3 * orthogonal(32, 64)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("figures"))


def cost_of(path: Path, *overrides: str) -> tuple[Recipe, Cost]:
    recipe = load_recipe(path, overrides)
    return recipe, training_cost(recipe, recipe.architecture(320))


def test_the_cost_of_the_tiny_recipe_by_hand(recipe_file: Path) -> None:
    _, plain = cost_of(recipe_file)
    assert plain == Cost(PER_TOKEN, 0.0, 512, 1 / 512)
    _, muon = cost_of(recipe_file, "pretrain.optimizer.name=muon")
    assert muon == Cost(PER_TOKEN, PER_UPDATE, 512, 1 / 512)
    _, short = cost_of(
        recipe_file, "pretrain.optimizer.name=muon", "pretrain.optimizer.orthogonal_steps=1"
    )
    assert short.per_update == PER_UPDATE / 5


def test_every_experts_matrices_are_made_orthogonal(recipe_file: Path) -> None:
    """Four experts stand in one tensor: each counts, and so does the router."""
    experts = "model.experts={count=4, chosen=2, hidden_width=16}"
    _, cost = cost_of(recipe_file, "pretrain.optimizer.name=muon", experts)
    dense, mixture = 3 * orthogonal(32, 64), 4 * 3 * orthogonal(16, 32) + orthogonal(4, 32)
    assert cost.per_update == PER_UPDATE - dense + mixture


def test_more_flops_for_a_token_give_fewer_tokens(recipe_file: Path) -> None:
    base, cost = cost_of(recipe_file, "pretrain.tokens=102_400")
    budget = cost.planned(planned_tokens(base, cost))
    assert budget == 102_400 * PER_TOKEN
    assert cost.tokens(budget) == 102_400
    _, twice = cost_of(recipe_file, "model.layers=2")
    block = 3 * (2 * (MATRICES - 320 * 32) + 2 * 64 * 129 / 2)
    assert twice.per_token == PER_TOKEN + block
    assert twice.tokens(budget) == round(102_400 * PER_TOKEN / (PER_TOKEN + block) / 512) * 512
    _, muon = cost_of(recipe_file, "pretrain.optimizer.name=muon")
    assert muon.tokens(budget) == round(budget / (512 * PER_TOKEN + PER_UPDATE)) * 512
    assert muon.tokens(budget) < 102_400
    assert muon.tokens(1.0) == 512


def test_a_changing_batch_changes_the_optimizers_part(recipe_file: Path) -> None:
    ramp = "pretrain.changes=[{at=0.5, batch_factor=2.0}, {at=0.75, batch_tokens=2048}]"
    _, cost = cost_of(recipe_file, "pretrain.optimizer.name=muon", ramp)
    share = 0.5 / 512 + 0.25 / 1024 + 0.25 / 2048
    assert cost.updates_per_token == pytest.approx(share, rel=1e-12)
    assert cost.planned(1e6) == pytest.approx(1e6 * (PER_TOKEN + share * PER_UPDATE), rel=1e-12)


def test_lengths_that_are_no_work_are_refused(recipe_file: Path) -> None:
    recipe, cost = cost_of(recipe_file)
    assert planned_tokens(recipe, cost) == 4 * 512
    recipe, cost = cost_of(recipe_file, "pretrain.tokens=513")
    assert planned_tokens(recipe, cost) == 1024
    for length in ("minutes=1", "epochs=2"):
        recipe, cost = cost_of(recipe_file, f"pretrain.{length}")
        with pytest.raises(UserError, match="equal work"):
            planned_tokens(recipe, cost)


@pytest.mark.parametrize(
    ("degrees", "level", "t"),
    [  # tables of Student's distribution
        (1, 0.95, 12.7062), (2, 0.95, 4.30265), (3, 0.95, 3.18245), (4, 0.95, 2.77645),
        (9, 0.95, 2.26216), (10, 0.99, 3.16927), (30, 0.95, 2.04227), (120, 0.95, 1.97993),
        (5, 0.9, 2.01505),
    ],
)  # fmt: skip
def test_student_quantiles_are_those_of_the_tables(degrees: int, level: float, t: float) -> None:
    assert student_quantile(degrees, level) == pytest.approx(t, rel=3e-6)


@given(level=st.floats(0.01, 0.999))
def test_student_quantiles_in_closed_form(level: float) -> None:
    one = math.tan(math.pi * level / 2)
    two = level * math.sqrt(2 / (1 - level**2))
    assert student_quantile(1, level) == pytest.approx(one, rel=1e-9)
    assert student_quantile(2, level) == pytest.approx(two, rel=1e-9)
    assert student_quantile(400, level) < student_quantile(3, level) < two


def test_estimates_by_hand() -> None:
    found = estimate([0.1, 0.2, 0.3])
    assert found.mean == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert found.high == pytest.approx(0.2 + 4.30265 * 0.1 / math.sqrt(3), abs=1e-6)
    assert found.low == pytest.approx(0.2 - 4.30265 * 0.1 / math.sqrt(3), abs=1e-6)
    assert found.sign == 0  # 0 lies inside
    assert estimate([0.19, 0.2, 0.21]).sign == 1
    assert estimate([-0.19, -0.2, -0.21]).sign == -1
    two = estimate([0.1, 0.3])  # one degree of freedom: t is 12.7
    assert two.high == pytest.approx(0.2 + 12.7062 * 0.1, abs=1e-5) and two.sign == 0
    alone = estimate([0.5])
    assert (alone.mean, alone.standard_error, alone.low, alone.sign) == (0.5, None, None, 0)
    with pytest.raises(ValueError, match="degrees"):
        student_quantile(0)


def result_of(**losses: list[float | None]) -> Ablation:
    """An ablation with these losses, one for each seed; None: that run failed."""
    rows = []
    for name, values in losses.items():
        runs = [
            Outcome(seed, error="no memory left")
            if value is None
            else Outcome(seed, value, 1000, 10, 2e12, 5.0)
            for seed, value in enumerate(values, 1)
        ]
        rows.append(VariantResult(name, "", [f"{name}=1"], runs))
    return Ablation("tiny", 2e12, [1, 2, 3], rows[0], rows[1:], 4321, ["docs"], Path("there"))


def test_differences_are_paired_by_seed() -> None:
    """Seeds far apart, the variant always worse by the same: shown, though the losses overlap."""
    result = result_of(base=[1.0, 2.0, 3.0], worse=[1.1, 2.1, 3.1001], half=[None, 2.2, 3.3])
    worse, half = result.variants
    difference = result.difference(worse)
    assert difference is not None and difference.mean == pytest.approx(0.1, abs=1e-4)
    assert verdict(difference) == "worse"
    difference = result.difference(half)
    assert difference is not None and difference.count == 2
    assert difference.mean == pytest.approx(0.25)
    assert verdict(difference) == "not shown"
    assert verdict(None) is None


def test_the_table_says_what_was_found() -> None:
    result = result_of(
        base=[1.0, 2.0, 3.0],
        worse=[1.1, 2.1, 3.1001],
        better=[0.9, 1.9, 2.8999],
        same=[1.1, 2.0, 2.9],
        broken=[None, None, None],
    )
    lines = {line.split()[0]: line for line in ablation_text(result).splitlines() if line}
    assert lines["base"].split()[1:4] == ["2.0000", "±", "0.5774"]
    assert "+0.1000" in lines["worse"] and "earns its place in the baseline" in lines["worse"]
    assert "-0.1000" in lines["better"] and "the change earns its place" in lines["better"]
    assert "+0.0000" in lines["same"] and "no difference shown" in lines["same"]
    assert "-0.2484 to +0.2484" in lines["same"]
    assert lines["broken"].endswith("failed")
    assert "broken: seed 2 failed: no memory left" in ablation_text(result)
    table = markdown_table(result).splitlines()
    assert len({line.count("|") for line in table}) == 1 and len(table) == 7
    assert "seconds" in table[0] and "seconds" not in markdown_table(result, seconds=False)
    page = ablation_page(result)
    assert "<svg" in page and "worse=1" in page and page.count("<rect") >= 3


def test_what_else_the_table_tells() -> None:
    """Runs that failed, choices at the end of their list, own rows, and words with a bar."""
    result = result_of(base=[1.0, 2.0, 3.0], half=[None, 2.2, 3.3])
    half = result.variants[0]
    assert "no difference shown; 1 failed" in ablation_text(result)
    for chosen, beyond in (("a=1", True), ("a=2", False), ("a=3", True)):
        tried = {"a=1": 1.0, "a=2": None, "a=3": 1.5}
        told = replace(half, chosen=chosen, tried=tried, own_rows=True, about="one | other")
        text = ablation_text(replace(result, variants=[told]))
        assert f"half: {chosen} chosen on a seed of its own (a=1 1.0000, a=2 failed, a=3" in text
        assert ("a better one may lie beyond" in text) == beyond
        assert "half: trained on rows of its own cut" in text
    table = markdown_table(replace(result, variants=[told]))
    assert "half: one \\| other" in table
    assert "own cut" not in ablation_text(result)


def test_one_seed_shows_nothing() -> None:
    result = result_of(base=[1.0], worse=[9.0])
    assert "no difference shown" in ablation_text(result)
    assert result.to_json()["variants"][0]["difference"]["low"] is None
    alone = Ablation("tiny", 1.0, [1], result.baseline, [], 1, ["docs"], Path("there"))
    assert "give --seeds 3" in ablation_text(alone)


def test_the_best_of_what_was_tried() -> None:
    assert best_of({"a": 2.0, "b": 1.5, "c": None}) == "b"
    assert best_of({"a": None}) is None
    assert best_of({}) is None
