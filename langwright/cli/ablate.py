"""``langwright ablate RECIPE``: which ingredients earn their place, at equal compute."""

from __future__ import annotations

import argparse
import json

from langwright.recipe import ablate as run_ablation
from langwright.recipe import ablation_text


def ablate(arguments: argparse.Namespace) -> None:
    """Run what is not finished, then print the table and where it lies."""
    result = run_ablation(
        arguments.recipe,
        arguments.over,
        vary=arguments.vary,
        seeds=arguments.seeds,
        overrides=arguments.overrides,
        corpus=arguments.corpus,
        out=arguments.out,
        run=arguments.run,
    )
    if arguments.json:
        print(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
        return
    print(ablation_text(result))
    print(f"\n{result.folder / 'ablation.html'}")
