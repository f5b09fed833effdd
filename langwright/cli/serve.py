"""``langwright serve``: the model over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from langwright.base import UserError, say
from langwright.cli.generate import open_model
from langwright.generate import Engine, EngineConfig, load
from langwright.recipe import parse_override
from langwright.serve import ServeConfig, run


def serve(arguments: argparse.Namespace) -> None:
    """Open the model and answer until the process is told to end."""
    settings, engine_settings = _settings(arguments)
    config = ServeConfig.parse(settings, where="serve")
    if arguments.draft is not None:
        engine_settings.setdefault("speculate", "draft")
    engine_settings.setdefault("threads", "auto")
    chosen = EngineConfig.parse(engine_settings, where="engine")
    lm = open_model(arguments, chosen.weights)
    draft = None
    if arguments.draft is not None:
        draft = load(arguments.draft, device=arguments.device, dtype=arguments.dtype)
    say(f"serving {config.name} ...")
    engine = Engine(lm, chosen, draft=draft)
    say(engine.threads.told())
    run(engine, config, ready=lambda url: say(_ready(url, config)))


def _ready(url: str, config: ServeConfig) -> str:
    keys = f"keys of {config.api_keys}" if config.api_keys else "no keys"
    return f"ready at {url}/v1 ({keys}); Ctrl-C or SIGTERM ends it"


def _settings(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of server and engine: options, then --set."""
    options: dict[str, Any] = {
        "name": arguments.name or _name(arguments.folder),
        "host": arguments.host,
        "port": arguments.port,
        "api_keys": None if arguments.api_keys is None else Path(arguments.api_keys),
        "without_keys": arguments.without_keys,
        "origins": None if arguments.origin is None else tuple(arguments.origin),
    }
    tables: dict[str, dict[str, Any]] = {
        "serve": {key: value for key, value in options.items() if value is not None},
        "engine": {},
    }
    for text in arguments.overrides:
        path, value = parse_override(text)
        if len(path) != 2 or path[0] not in tables:
            raise UserError(
                "no such setting",
                where=f"--set {text}",
                expected="serve.KEY=VALUE or engine.KEY=VALUE",
                fix="langwright serve --help lists them",
            )
        tables[str(path[0])][str(path[1])] = value
    return tables["serve"], tables["engine"]


def _name(folder: str) -> str:
    path = Path(folder).resolve()
    return path.stem if path.suffix == ".gguf" else path.name
