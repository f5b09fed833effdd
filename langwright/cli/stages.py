"""Commands that make things: a whole recipe, or one stage."""

from __future__ import annotations

import argparse
from pathlib import Path

from langwright.base import UserError, say
from langwright.formats import model_in
from langwright.recipe import (
    Places,
    Recipe,
    Stage,
    apply_override,
    check_recipe,
    corpus_stage,
    dataset_stage,
    evaluate_stage,
    full_path,
    known_settings,
    load_recipe,
    open_tables,
    parse_override,
    plan,
    pretrain_stage,
    run_recipe,
    sft_stage,
    tokenizer_stage,
    with_corpus,
    write_report,
)


def run(arguments: argparse.Namespace) -> None:
    """``langwright run RECIPE``."""
    if arguments.plan:
        recipe = load_recipe(arguments.recipe, arguments.overrides, name=arguments.name)
        if arguments.corpus:
            recipe = with_corpus(recipe, arguments.corpus, say)
        for name, reason in plan(recipe, Path(arguments.runs) / recipe.name):
            print(f"{name:<10} {'run: ' + reason if reason else 'up to date'}")
        return
    done = run_recipe(
        arguments.recipe,
        arguments.overrides,
        corpus=arguments.corpus,
        runs=arguments.runs,
        name=arguments.name,
    )
    print("\n" + done.summary())


def corpus(arguments: argparse.Namespace) -> None:
    """``langwright corpus PATH ... --out DIR``."""
    config = _recipe(arguments, "corpus").corpus
    if arguments.paths:
        config = config.replace(sources=arguments.paths)
    _make(corpus_stage(config, _out(arguments)))


def tokenizer(arguments: argparse.Namespace) -> None:
    """``langwright tokenizer --corpus DIR --out DIR``, or ``... DIR --show TEXT``."""
    if arguments.show is not None or arguments.html is not None:
        from langwright.cli.show import show

        show(arguments)
        return
    if arguments.corpus is None:
        raise UserError(
            "nothing to do", where="tokenizer", fix="give --corpus and --out, or DIR and --show"
        )
    config = _recipe(arguments, "tokenizer").tokenizer
    _make(tokenizer_stage(config, _existing(arguments.corpus), _out(arguments)))


def dataset(arguments: argparse.Namespace) -> None:
    """``langwright dataset --corpus DIR --tokenizer DIR --out DIR``."""
    config = _recipe(arguments, "dataset").dataset
    folders = _existing(arguments.corpus), _existing(arguments.tokenizer)
    _make(dataset_stage(config, *folders, _out(arguments)))


def pretrain(arguments: argparse.Namespace) -> None:
    """``langwright pretrain --dataset DIR --tokenizer DIR --out DIR``."""
    recipe = _recipe(arguments, "pretrain")
    folders = _existing(arguments.dataset), _existing(arguments.tokenizer)
    _make(pretrain_stage(recipe.pretrain, recipe.architecture, *folders, _out(arguments)))


def sft(arguments: argparse.Namespace) -> None:
    """``langwright sft --model DIR --corpus DIR --out DIR``."""
    config = _recipe(arguments, "sft").sft
    assert config is not None
    _make(
        sft_stage(config, model_in(arguments.model), _existing(arguments.corpus), _out(arguments))
    )


def evaluate(arguments: argparse.Namespace) -> None:
    """``langwright eval --model DIR --corpus DIR --out DIR``."""
    config = _recipe(arguments, "evaluate").evaluate
    assert config is not None
    base = None if arguments.base is None else model_in(arguments.base)
    folders = model_in(arguments.model), _existing(arguments.corpus)
    _make(evaluate_stage(config, *folders, _out(arguments), base))


def report(arguments: argparse.Namespace) -> None:
    """``langwright report RUN``."""
    print(write_report(arguments.run, arguments.out)["path"])


def _recipe(arguments: argparse.Namespace, section: str) -> Recipe:
    """The settings of a stage: a recipe's if one is given, else the defaults, with changes.

    A key in --set may leave out the name of the stage's own section.
    """
    overrides = [_in_section(text, section) for text in arguments.overrides]
    if arguments.config is not None:
        recipe = load_recipe(arguments.config, overrides)
        if getattr(recipe, section) is not None:
            return recipe
        raise UserError(f"the recipe has no section [{section}]", where=arguments.config)
    values: dict = {"name": "command-line", section: {}}
    for text in overrides:
        keys, value = parse_override(text)
        values = apply_override(values, keys, value)
    given = {parse_override(text)[0]: text for text in overrides}
    return check_recipe(values, Places("settings", {}, given))


def _in_section(text: str, section: str) -> str:
    """``lr=3e-4`` as ``pretrain.lr=3e-4``, whole and checked."""
    keys, _ = parse_override(text)
    if keys[0] not in Recipe.model_fields or keys[0] == "name":
        keys = (section, *keys)
    full = full_path(keys, known_settings(), open_tables(Recipe))
    return ".".join(full) + "=" + text.partition("=")[2]


def _out(arguments: argparse.Namespace) -> Path:
    if arguments.out is None:
        raise UserError("where should the result go?", fix="give --out DIR")
    return Path(arguments.out)


def _existing(folder: str) -> Path:
    path = Path(folder)
    if not path.exists():
        raise UserError("folder not found", where=path)
    return path


def _make(stage: Stage) -> None:
    """Run a stage and show what it found."""
    manifest = stage.run(say)
    for name, value in manifest.metrics.items():
        if not isinstance(value, dict | list):
            shown = f"{value:,.4g}" if isinstance(value, float) else value
            print(f"{name.replace('_', ' '):<28} {shown}")
    print(stage.out)
