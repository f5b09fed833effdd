"""Every family beside `transformers`: how far logits, gradients and decoding are from its own.

    python benchmarks/families.py

The tiny random models are those of tests/formats; the largest differences of all their logits are
in fp32, the KL divergence is computed in float64 from these logits.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from common import CHECKOUT, finish, table

sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests" / "formats")]


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Figures of one case."""
    import torch
    from family_cases import CASES
    from family_compare import (
        divergence,
        gradient_difference,
        greatest,
        ids_of,
        make_theirs,
        mutated,
        their_logits,
    )
    from transformers import AutoModelForCausalLM

    from langwright.formats import load_model, save_model

    case, ids = CASES[name], ids_of()
    theirs = make_theirs(case)
    theirs.save_pretrained(folder / "theirs")
    ours = load_model(folder / "theirs")
    save_model(folder / "ours", ours)
    back = AutoModelForCausalLM.from_pretrained(folder / "ours", attn_implementation="eager")
    with torch.no_grad():
        expected, logits = their_logits(theirs, ids), ours(ids)
        returned = their_logits(back.eval(), ids)
        wrong = [mutated(ours, changes)(ids) for changes in case.mutations]
    noticed = sum(greatest(one, expected) > 1e-3 for one in wrong)
    return {
        "family": name,
        "parameters": sum(p.numel() for p in ours.parameters()),
        "std": expected.std().item(),
        "logits": greatest(expected, logits),
        "kl": divergence(expected, logits),
        "back": greatest(returned, logits),
        "gradients": gradient_difference(theirs, ours, ids, folder / "gradients"),
        "mutations": f"{noticed} of {len(wrong)}",
    }


def main() -> None:
    """Measure all cases and print them."""
    import transformers
    from family_cases import CASES

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = []
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(name, Path(folder)))
    columns = ["family", "parameters", "std of logits", "max logits", "max KL, nat"]
    columns += ["saved and back", "max gradient, relative", "wrong settings noticed"]
    rows = [
        [
            one["family"],
            f"{one['parameters']:,}",
            f"{one['std']:.1f}",
            *(f"{one[key]:.0e}" for key in ("logits", "kl", "back", "gradients")),
            one["mutations"],
        ]
        for one in found
    ]
    table("Tiny random models of transformers, loaded by Langwright (fp32)", columns, rows)
    finish("families", {"cases": found})


if __name__ == "__main__":
    main()
