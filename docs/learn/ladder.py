"""From one vector per token to the whole GPT: runs all steps and checks their figures.

Each step is a script of its own that prints what it computes beside what the book "Build a Large
Language Model (From Scratch)" prints, and ends at the part of Langwright that does the same.

    python docs/learn/ladder.py                  # all steps: about 15 seconds
    python docs/learn/ladder.py layer_norm       # one of them
"""

from __future__ import annotations

import argparse
import importlib
import sys

from figures import show

STEPS = {
    "token_embeddings": "ids become vectors",
    "added_positions": "a place added to the vector",
    "plain_attention": "attention without weights",
    "trained_attention": "queries, keys and values",
    "causal_attention": "nobody looks ahead; dropout on the weights",
    "several_heads": "heads as a list, and as one product",
    "fused_attention": "the same by fused kernels; shared keys",
    "layer_norm": "each vector to mean 0 and variance 1",
    "activations": "ReLU, GELU, gates, the feed-forward",
    "shortcut_gradients": "why blocks add to their input",
    "transformer_block": "the block, norms before or after",
    "gpt_sizes": "how many parameters a GPT has",
    "rotary_positions": "places as angles",
    "distance_biases": "places as a bias on the scores",
    "tensors": "PyTorch: rank, dtype, shape, product",
    "logistic_gradient": "PyTorch: gradients three ways",
    "toy_network": "PyTorch: a network, trained",
    "toy_ddp": "PyTorch: the same on two processes",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the steps in order; 1 if a figure differs."""
    parser = argparse.ArgumentParser(description="The steps of the ladder.")
    parser.add_argument("steps", nargs="*", help=f"default all: {', '.join(STEPS)}")
    options = parser.parse_args(arguments)
    unknown = [step for step in options.steps if step not in STEPS]
    if unknown:
        parser.error(f"no step {unknown[0]}; there are {', '.join(STEPS)}")
    wrong = []
    for step in options.steps or STEPS:
        print(f"\n# {step}: {STEPS[step]}")
        if show(importlib.import_module(step).figures()):
            wrong.append(step)
    if wrong:
        print(f"\nfigures differ in {', '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
