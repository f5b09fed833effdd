"""Recipes: all stages joined into one reproducible run directory, and its report."""

from langwright.recipe.ablation import ablate
from langwright.recipe.ablation_results import Ablation
from langwright.recipe.ablation_text import ablation_text
from langwright.recipe.compare import Comparison, Difference, compare_runs
from langwright.recipe.compare_text import comparison_page, comparison_text
from langwright.recipe.compare_text import to_json as comparison_json
from langwright.recipe.config import (
    Places,
    Recipe,
    check_recipe,
    known_settings,
    load_recipe,
)
from langwright.recipe.dial import DialConfig, with_dial
from langwright.recipe.facts import Facts, read_facts
from langwright.recipe.job import planned_model, recipe_job
from langwright.recipe.overrides import (
    apply_override,
    full_path,
    inner_config,
    open_tables,
    parse_override,
)
from langwright.recipe.report import write_report
from langwright.recipe.run import Run, open_run, plan, recipe_text, run_recipe, with_corpus
from langwright.recipe.stages import (
    Stage,
    corpus_stage,
    dataset_stage,
    evaluate_stage,
    model_folder,
    pretrain_stage,
    sft_stage,
    tokenizer_stage,
)
from langwright.recipe.summary import summary_text
from langwright.recipe.toml import write_toml

__all__ = [
    "Ablation",
    "Comparison",
    "DialConfig",
    "Difference",
    "Facts",
    "Places",
    "Recipe",
    "Run",
    "Stage",
    "ablate",
    "ablation_text",
    "apply_override",
    "check_recipe",
    "compare_runs",
    "comparison_json",
    "comparison_page",
    "comparison_text",
    "corpus_stage",
    "dataset_stage",
    "evaluate_stage",
    "full_path",
    "inner_config",
    "known_settings",
    "load_recipe",
    "model_folder",
    "open_run",
    "open_tables",
    "parse_override",
    "plan",
    "planned_model",
    "pretrain_stage",
    "read_facts",
    "recipe_job",
    "recipe_text",
    "run_recipe",
    "sft_stage",
    "summary_text",
    "tokenizer_stage",
    "with_corpus",
    "with_dial",
    "write_report",
    "write_toml",
]
