"""``langwright compare RUN RUN``: do two runs agree, and where do they part?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from langwright.base import write_atomic
from langwright.recipe import compare_runs, comparison_json, comparison_page, comparison_text

DIFFERENT = 1  # the exit code of runs that do not agree


def compare(arguments: argparse.Namespace) -> int:
    """Print the comparison; returns 0 if the runs agree, else 1."""
    found = compare_runs(
        arguments.first,
        arguments.second,
        stage=arguments.stage,
        largest=arguments.max_tolerance,
        mean=arguments.mean_tolerance,
        norm=arguments.norm_tolerance,
    )
    if arguments.html is not None:
        write_atomic(arguments.html, comparison_page(found))
    if arguments.json:
        print(json.dumps([comparison_json(one) for one in found], indent=2, ensure_ascii=False))
    else:
        print("\n\n\n".join(comparison_text(one) for one in found))
        if arguments.html is not None:
            print(f"\n{Path(arguments.html)}")
    return 0 if all(one.agree for one in found) else DIFFERENT
