"""``langwright chat``: a talk in the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langwright.base import UserError, human_count
from langwright.cli.generate import chosen, open_model
from langwright.cli.talk import Talk
from langwright.cli.talk_commands import COMMANDS, LEAVE, is_command, obey
from langwright.cli.terminal import TornError, line_editing, prepare_output, read_text
from langwright.generate import Engine, EngineConfig, Sampling, load
from langwright.model import parameter_count
from langwright.recipe import parse_override

MAX_TOKENS = 512  # of an answer, where the person does not say


def chat(arguments: argparse.Namespace) -> None:
    """Open the model and talk until the person leaves."""
    sampling = {"max_tokens": MAX_TOKENS, **chosen(arguments)}
    Sampling.parse(sampling, where="chat")
    config = engine_config(arguments.overrides, draft=arguments.draft is not None)
    lm = open_model(arguments, config.weights)
    if lm.tokenizer is None:
        raise UserError("this model has no tokenizer: it only takes ids", where=arguments.folder)
    if lm.tokenizer.chat_template is None:
        raise UserError(
            "this model has no chat template: it has not learnt to talk",
            where=arguments.folder,
            fix="use `langwright generate`",
        )
    draft = None
    if arguments.draft is not None:
        draft = load(arguments.draft, device=arguments.device, dtype=arguments.dtype)
    talk = Talk(Engine(lm, config, draft=draft), sampling)
    if arguments.load is not None:
        talk.load(Path(arguments.load))
    if arguments.system is not None:
        talk.system = arguments.system or None
    history = None if arguments.history is None else Path(arguments.history).expanduser()
    count = parameter_count(lm.config).total
    prepare_output()
    with line_editing([*COMMANDS, *LEAVE], history):
        print(f"A model of {human_count(count)} parameters. /help lists commands, /quit leaves.")
        print(f"({talk.engine.threads.told()})")
        converse(talk, input)


def converse(talk: Talk, read: Callable[[str], str]) -> None:
    """Read and answer until the end of the input or /quit.

    Args:
        read: gives a line after showing its argument; EOFError at the end of the input.
    """
    while True:
        try:
            text = read_text(read)
            if is_command(text):
                if not obey(talk, text):
                    return
            elif text.strip():
                talk.ask(text)
        except EOFError:
            print()
            return
        except TornError:
            raise
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /quit leaves)")
        except UserError as error:
            print(error.render())
        except UnicodeDecodeError:
            print("this terminal sent bytes that are not text in its own encoding")


def engine_config(overrides: Sequence[str], *, draft: bool = False) -> EngineConfig:
    """The engine of one person: one text at a time, and what ``--set engine.KEY=VALUE`` says."""
    settings: dict[str, Any] = {"max_running": 1, "threads": "auto"}
    if draft:
        settings["speculate"] = "draft"
    for text in overrides:
        path, value = parse_override(text)
        if len(path) != 2 or path[0] != "engine":
            raise UserError(
                "no such setting",
                where=f"--set {text}",
                expected="engine.KEY=VALUE",
                fix="langwright chat --help lists them",
            )
        settings[str(path[1])] = value
    return EngineConfig.parse(settings, where="engine")
