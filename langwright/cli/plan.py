"""``langwright plan RECIPE``: what its training will need and take, without doing it."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict

from langwright.base import UserError
from langwright.plan import (
    Device,
    Plan,
    device_named,
    dry_run_text,
    dry_runs,
    make_plan,
    plan_text,
)
from langwright.recipe import Recipe, load_recipe, recipe_job
from langwright.train import PretrainConfig

ROUNDS = 5  # a budget of minutes: the speed depends on the size, and the size on the speed


def plan(arguments: argparse.Namespace) -> None:
    """Print the plan of a recipe's pretraining on so many devices."""
    if arguments.world < 1:
        raise UserError(
            "a run has at least one device", where="--world", found=arguments.world, expected=">= 1"
        )
    device = device_named(arguments.device, arguments.per_node)
    given = {"depth": arguments.depth, "flops": arguments.flops, "minutes": arguments.minutes}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) > 1:
        raise UserError("give one of --depth, --flops and --minutes", found=" and ".join(chosen))
    overrides = list(arguments.overrides)
    if arguments.minutes is not None:
        overrides.append(_budget(arguments, device))
    elif chosen:
        overrides += [f"dial.{name}={value}" for name, value in chosen.items()]
    made = _plan(arguments, overrides, device)
    counted = dry_runs(made) if arguments.dry_run else []
    if arguments.json:
        more = {"dry_run": [asdict(stage) for stage in counted]} if counted else {}
        print(json.dumps(made.to_json() | more, indent=2))
        return
    if chosen:
        print(_dial_text(load_recipe(arguments.recipe, overrides), overrides[-1]) + "\n")
    print(plan_text(made))
    for stage in counted:
        print("\n" + dry_run_text(stage))


def _plan(arguments: argparse.Namespace, overrides: list[str], device: Device) -> Plan:
    recipe = load_recipe(arguments.recipe, overrides)
    return make_plan(recipe_job(recipe, device), device, arguments.world)


def _budget(arguments: argparse.Namespace, device: Device) -> str:
    """The FLOPs that the devices are expected to do in so many minutes, as a setting."""
    if not 0 < arguments.minutes < math.inf:  # NaN too is neither
        raise UserError(
            "no time to train",
            where="--minutes",
            found=arguments.minutes,
            expected="a number above 0",
        )
    share, setting = 0.3, ""
    precision = "bf16" if "bf16" in device.peaks else next(iter(device.peaks))
    most = 60 * arguments.minutes * arguments.world * device.peak(precision)
    for _ in range(ROUNDS):
        setting = f"dial.flops={share * most:.4g}"
        share = _plan(arguments, [*arguments.overrides, setting], device).utilisation
    return setting


def _dial_text(recipe: Recipe, setting: str) -> str:
    """What the dial chose, and how to run it."""
    config, optimizer = recipe.pretrain, recipe.pretrain.optim
    model = recipe.model
    lines = [
        f"Dial: --set {setting}",
        f"  shape     {model['layers']} layers, width {model['width']}, {model['heads']} heads",
        f"  length    {_length(config)} in batches of {config.batch_tokens:,} tokens",
        f"  rates     {optimizer.name} {optimizer.peak_lr:g}, embedding "
        f"{optimizer.rate('embedding'):g}, head {optimizer.rate('head'):g}; "
        f"weight decay {optimizer.weight_decay:g}",
    ]
    return "\n".join(lines)


def _length(config: PretrainConfig) -> str:
    for name in ("tokens", "steps", "minutes", "epochs"):
        if (value := getattr(config, name)) is not None:
            return f"{value:,} {name}"
    return "one pass"
