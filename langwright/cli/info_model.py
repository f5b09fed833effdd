"""What ``langwright info`` tells of a model; no weight is read for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from langwright.base import UserError, human_bytes, human_count, machine, read_json
from langwright.cli.tables import flat, indented, print_table
from langwright.formats import Peek, licence_of, peek_model, peek_tokenizer
from langwright.model import (
    Transformer,
    attention_kernel,
    kv_cache_bytes,
    module_tree,
    summary,
    training_memory,
    weight_bytes,
)
from langwright.tokenizer import Tokenizer

TEMPLATE_LINES = 12
# Keys of a GGUF file that other lines tell, or that are tables.
UNSHOWN = ("tokenizer.", "general.architecture", "general.license")


def show_model(path: Path) -> None:
    """Files, architecture, counts, memory, kernels, tokenizer, licence, provenance."""
    peek = peek_model(path)
    folder = path if path.is_dir() else path.parent
    print(f"Model {path}\n{indented(summary(peek.config))}\n")
    print_table("Files", _files(peek, folder))
    print_table("Memory", _memory(peek))
    print_table("Attention", _kernels(peek))
    set_ones = {k: v for k, v in peek.config.to_json().items() if v not in (None, False)}
    print_table("Config", set_ones)
    with torch.device("meta"):
        model = Transformer(peek.config)
    print(f"Modules\n{indented(module_tree(model))}\n")
    _show_tokenizer_of(peek)
    print_table("Metadata", _metadata(peek.metadata))
    if (folder / "provenance.json").exists():
        record = read_json(folder / "provenance.json")
        record.pop("recipe", None)
        print_table("Provenance", flat(record))


def show_tokenizer(tokenizer: Tokenizer) -> None:
    """Its size, its special tokens, and how it writes conversations."""
    special = ", ".join(f"{name} {one}" for name, one in tokenizer.special_tokens.items())
    template = tokenizer.chat_template
    print_table(
        "Tokenizer",
        {
            "kind": tokenizer.kind,
            "ids": f"{tokenizer.vocab_size:,}",
            "special": special if len(special) <= 400 else special[:400] + " ...",
            "ends at": ", ".join(map(str, tokenizer.stop_ids)) or "nothing",
            "chat template": f"yes, {len(template):,} characters" if template else "no",
        },
    )
    if template:
        lines = template.splitlines()
        more = [f"... ({len(lines)} lines)"] if len(lines) > TEMPLATE_LINES else []
        shown = [line[:160] for line in lines[:TEMPLATE_LINES]]
        print("Chat template\n" + indented("\n".join(shown + more)) + "\n")


def _files(peek: Peek, folder: Path) -> dict[str, Any]:
    """Layout, size and number types of the weights, and the licence."""
    stored = sorted(peek.values.items(), key=lambda item: -item[1])
    count = "1 file" if len(peek.files) == 1 else f"{len(peek.files)} files"
    return {
        "layout": f"{peek.layout} ({peek.family})",
        "weights": f"{count}, {human_bytes(peek.bytes)}",
        "numbers": ", ".join(f"{human_count(count)} {kind}" for kind, count in stored),
        "licence": licence_of(folder, peek.metadata) or _recorded_licence(folder) or "not told",
    }


def _recorded_licence(folder: Path) -> str | None:
    path = folder / "provenance.json"
    value = read_json(path).get("licence") if path.exists() else None
    return value if isinstance(value, str) else None


def _memory(peek: Peek) -> dict[str, str]:
    """Bytes to run the model and to train it."""
    config = peek.config
    tokens = config.context_length
    return {
        "weights in 16 bit": human_bytes(weight_bytes(config, 2)),
        "a full context in 16 bit": human_bytes(kv_cache_bytes(config, tokens)),
        "training, one full context": f"{human_bytes(training_memory(config, tokens).total)} "
        "(estimate: AdamW, 16-bit activations)",
    }


def _kernels(peek: Peek) -> dict[str, str]:
    """What attention runs on here, and why."""
    device = machine().device
    shown = {}
    for word, training in (("generation", False), ("training", True)):
        name, reason = attention_kernel(peek.config, device, training=training)
        shown[f"{word} on {device}"] = f"{name}: {reason}"
    return shown


def _show_tokenizer_of(peek: Peek) -> None:
    try:
        tokenizer = peek_tokenizer(peek.path)
    except UserError as error:  # the model is still worth showing
        print_table("Tokenizer", {"cannot be read": error.render().replace("\n", " ")})
        return
    if tokenizer is None:
        print_table("Tokenizer", {"none": "the files have none: only ids go in and out"})
    else:
        show_tokenizer(tokenizer)


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a GGUF file."""
    return {
        key: str(value)[:120]
        for key, value in metadata.items()
        if isinstance(value, str | int | float) and not key.startswith(UNSHOWN)
    }
