"""``langwright export``: a model in the layout of other software."""

from __future__ import annotations

import argparse
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from langwright.base import UserError, human_bytes, read_json, say
from langwright.formats import (
    Peek,
    check_exportable,
    licence_of,
    load_parts,
    model_in,
    peek_model,
    save_gguf,
    save_model,
    tokenizer_in,
    transformers_architecture,
)
from langwright.generate import LanguageModel
from langwright.tokenizer import Tokenizer, load_tokenizer
from langwright.train import consolidate, is_checkpoint

HF_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
CARRIED = ("provenance.json", "README.md", "LICENSE*", "LICENCE*", "NOTICE*")


def export(arguments: argparse.Namespace) -> None:
    """Write the model, or that of a run's checkpoint, to `--out` and say how it is opened there."""
    folder = Path(arguments.folder)
    if not is_checkpoint(folder):
        _export(model_in(folder), arguments)
        return
    # The parts of a checkpoint become one folder, also where only Langwright opens it.
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / folder.resolve().name
        consolidate(folder, whole, _tokenizer_of(folder))
        _export(whole, arguments, own=True)


def _tokenizer_of(checkpoint: Path) -> Tokenizer | None:
    """That of the run a checkpoint lies in (RUN/pretrain.partial/checkpoints/step-...)."""
    run = checkpoint.resolve().parents[2]
    if (run / "tokenizer").is_dir():
        return load_tokenizer(tokenizer_in(run))
    say(f"note: no tokenizer in {run}: the weights are written without one")
    return None


def _export(source: Path, arguments: argparse.Namespace, own: bool = False) -> None:
    out = Path(arguments.out)
    peek = peek_model(source)
    target = arguments.to
    check_exportable(peek.config, "GGUF" if target == "gguf" else "Hugging Face's layout")
    if target == "hf" and not own:
        transformers_architecture(peek.config)
    kind = _kind(target, arguments.type, peek)
    if target == "gguf" and out.suffix != ".gguf":
        out = out / f"{source.resolve().stem}-{kind}.gguf"
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(
            "there is something already", where=out, fix="give another --out, or remove it"
        )
    # What is stored in 16 bits is loaded so: no more memory, and no digit is lost.
    loaded = HF_TYPES.get(peek.type if kind == peek.type else "f32")
    model, tokenizer = load_parts(source, dtype=loaded)
    lm = LanguageModel(model, tokenizer)
    if target == "gguf":
        save_gguf(lm, out, kind, about=_about(source, peek))
        say(f"run it: llama-cli -m {shlex.quote(str(out))}")
    else:
        _save_folder(lm, out, HF_TYPES[kind], arguments.max_shard_bytes)
        _carry(source, out)
        if read_json(out / "config.json")["model_type"] == "langwright":
            say("note: transformers has no architecture for this model: only Langwright opens it")
    size = sum(f.stat().st_size for f in ([out] if out.is_file() else out.iterdir()))
    print(f"{out}\n  {kind}, {human_bytes(size)}")


def _kind(target: str, asked: str | None, peek: Peek) -> str:
    """The stored type: what was asked for, else the source's own where the target has it."""
    known = GGUF_TYPES if target == "gguf" else tuple(HF_TYPES)
    if asked is None:
        if target == "hf" and peek.type in known:
            return peek.type
        return "bf16" if target == "gguf" and peek.type == "bf16" else "f16"
    if asked not in known:
        raise UserError(
            f"{target} has no weights of this type",
            where="--type",
            found=asked,
            expected=", ".join(known),
        )
    return asked


def _save_folder(lm: LanguageModel, out: Path, dtype: torch.dtype, shard: int | None) -> None:
    options: dict[str, Any] = {} if shard is None else {"max_shard_bytes": shard}
    save_model(out, lm.model, lm.tokenizer, dtype=dtype, **options)


def _carry(source: Path, out: Path) -> None:
    """Papers that belong to the model go with it."""
    if source.is_dir():
        for pattern in CARRIED:
            for paper in source.glob(pattern):
                shutil.copyfile(paper, out / paper.name)


def _about(source: Path, peek: Peek) -> dict[str, str]:
    """What a GGUF file tells of its origin."""
    folder = source if source.is_dir() else source.parent
    about = {"name": source.resolve().stem}
    if licence := licence_of(folder, peek.metadata):
        about["license"] = licence
    record = read_json(folder / "provenance.json") if (folder / "provenance.json").exists() else {}
    if record.get("repository"):
        about["source.huggingface.repository"] = str(record["repository"])
    return about
