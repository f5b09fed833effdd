"""GPT-2 as OpenAI released it: ``hparams.json``, a TensorFlow checkpoint, ``encoder.json`` and
``vocab.bpe``.

Each variable's shape is checked before it is assigned. Matrices are stored as (1, in, out) and are
transposed; queries, keys and values lie side by side in one matrix; the head is the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from langwright.base import Config, UserError, read_untrusted_json, regular_file_size
from langwright.formats.tf_checkpoint import FLOATS, TensorFlowCheckpoint
from langwright.model import ModelConfig, Transformer
from langwright.tokenizer import Tokenizer, gpt2_tokenizer

HPARAMS, ENCODER, MERGES = "hparams.json", "encoder.json", "vocab.bpe"
MOST_HPARAMS_BYTES = 2**16
MOST_VOCABULARY_BYTES = 2**24  # GPT-2's has 1 MB
OPTIMIZER_SLOTS = ("/Adam", "/Adam_1", "/Momentum")  # fine-tuning leaves these beside the weights


class _HParams(Config):
    """The content of hparams.json."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int


@dataclass(frozen=True)
class Entry:
    """Variable `theirs` holds the parameters `ours`, side by side along its last axis."""

    theirs: str
    ours: tuple[str, ...]
    matrix: bool = False  # stored as (1, in, out)

    def shape(self, shapes: dict[str, torch.Size]) -> tuple[int, ...]:
        """The shape the variable must have, from the shapes of our parameters."""
        rows = sum(shapes[name][0] for name in self.ours)
        rest = shapes[self.ours[0]][1:]
        return (1, *rest, rows) if self.matrix else (rows, *rest)


def is_openai_folder(path: str | Path) -> bool:
    """Whether `path` is a folder in OpenAI's layout (and in no other)."""
    path = Path(path)
    return (path / HPARAMS).is_file() and not (path / "config.json").exists()


def openai_config(path: str | Path) -> ModelConfig:
    """The `ModelConfig` of a folder's hparams.json: GPT-2, with biases on q, k and v."""
    where = Path(path) / HPARAMS
    h = _HParams.parse(read_untrusted_json(where, MOST_HPARAMS_BYTES), where=where)
    values: dict[str, Any] = {
        "vocab_size": h.n_vocab,
        "context_length": h.n_ctx,
        "width": h.n_embd,
        "layers": h.n_layer,
        "heads": h.n_head,
        "position": "learned",
        "norm": "layernorm",
        "norm_bias": True,
        "norm_eps": 1e-5,
        "feedforward": "gelu_tanh",
        "hidden_width": 4 * h.n_embd,
        "qkv_bias": True,
        "attention_out_bias": True,
        "feedforward_bias": True,
        "tied": True,
        "init_std": 0.02,
    }
    return ModelConfig.parse(values, where=where)


def load_openai_gpt2(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    check_finite: bool = True,
) -> Transformer:
    """Read a GPT-2 from OpenAI's files, in evaluation mode; TensorFlow is not needed.

    Args:
        path: the folder; nothing in it is trusted.
        device: where the parameters go.
        dtype: of parameters and computation; None: fp32.
        check_finite: refuse weights that are NaN or infinite.

    Raises:
        UserError: naming the file and the variable that is missing, extra, damaged, of a wrong
            shape or type, or not finite.
    """
    folder = Path(path)
    config = openai_config(folder)
    checkpoint = TensorFlowCheckpoint(find_checkpoint(folder))
    layers = len(
        {name.split("/")[1] for name in checkpoint.variables if name.startswith("model/h")}
    )
    if layers != config.layers:  # before a model of so many layers is made, if only of shapes
        raise UserError(
            "hparams.json and the checkpoint belong to different models",
            where=checkpoint.index,
            found=f"{layers} layers",
            expected=f"n_layer = {config.layers}",
        )
    with torch.device("meta"):  # shapes only: nothing is allocated before the file is checked
        model = Transformer(config)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    entries = list(openai_entries(config))
    _match(checkpoint, entries, shapes)
    for entry in entries:
        for name, part in _parts(checkpoint, entry, shapes, check_finite).items():
            tensor = torch.from_numpy(part).to(device, dtype or torch.float32)
            module, attribute = name.rsplit(".", 1)
            setattr(model.get_submodule(module), attribute, nn.Parameter(tensor))
    model.compute_dtype = dtype or torch.float32
    return model.eval()


def openai_tokenizer(path: str | Path) -> Tokenizer | None:
    """The tokenizer of encoder.json and vocab.bpe; None if the folder has neither."""
    files = [Path(path) / name for name in (ENCODER, MERGES)]
    if not any(file.exists() for file in files):
        return None
    for file in files:
        if (size := regular_file_size(file)) > MOST_VOCABULARY_BYTES:
            raise UserError("far too large for a vocabulary", where=file, found=f"{size:,} bytes")
    return gpt2_tokenizer(*files)


def openai_parameters(path: str | Path) -> tuple[dict[str, int], dict[str, Any]]:
    """A folder as (settings, nested dictionaries of arrays): ``params["blocks"][0]["attn"]...``.

    The view that explanations of GPT-2's files use: ``wte``, ``wpe``, ``g``, ``b`` and ``blocks``;
    the leading axis of 1 of matrices is gone, nothing else is changed.
    """
    folder = Path(path)
    config = openai_config(folder)
    checkpoint = TensorFlowCheckpoint(find_checkpoint(folder))
    params: dict[str, Any] = {"blocks": [{} for _ in range(config.layers)]}
    for entry in openai_entries(config):
        if entry.theirs not in checkpoint.variables:
            raise UserError(f"variable {entry.theirs} is missing", where=checkpoint.index)
        words = entry.theirs.split("/")[1:]
        target = params
        if words[0].startswith("h"):
            target = params["blocks"][int(words[0][1:])]
        if words[0] == "ln_f" or target is not params:
            words = words[1:]
        for word in words[:-1]:
            target = target.setdefault(word, {})
        target[words[-1]] = np.squeeze(checkpoint.read(entry.theirs))
    return read_untrusted_json(folder / HPARAMS, MOST_HPARAMS_BYTES), params


def openai_entries(config: ModelConfig) -> Iterator[Entry]:
    """Every variable of OpenAI's GPT-2 and the parameters of ours that it holds."""
    yield Entry("model/wte", ("tokens.weight",))
    yield Entry("model/wpe", ("positions.weight",))
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model/h{layer}"
        for short, kind in (("g", "weight"), ("b", "bias")):
            yield Entry(f"{theirs}/ln_1/{short}", (f"{ours}.attention_norm.{kind}",))
            yield Entry(f"{theirs}/ln_2/{short}", (f"{ours}.feedforward_norm.{kind}",))
        for short, kind in (("w", "weight"), ("b", "bias")):
            matrix = short == "w"
            qkv = tuple(f"{ours}.attention.{part}.{kind}" for part in "qkv")
            yield Entry(f"{theirs}/attn/c_attn/{short}", qkv, matrix)
            yield Entry(f"{theirs}/attn/c_proj/{short}", (f"{ours}.attention.out.{kind}",), matrix)
            yield Entry(f"{theirs}/mlp/c_fc/{short}", (f"{ours}.feedforward.up.{kind}",), matrix)
            yield Entry(
                f"{theirs}/mlp/c_proj/{short}", (f"{ours}.feedforward.down.{kind}",), matrix
            )
    yield Entry("model/ln_f/g", ("norm.weight",))
    yield Entry("model/ln_f/b", ("norm.bias",))


def find_checkpoint(folder: Path) -> Path:
    """The prefix of the checkpoint in `folder`: the one that TensorFlow's own file ``checkpoint``
    names, if it lies here, else the only one there is."""
    prefixes = {file.name.removesuffix(".index") for file in folder.glob("*.index")}
    if len(prefixes) == 1:
        return folder / prefixes.pop()
    latest = folder / "checkpoint"
    if prefixes and latest.is_file() and latest.stat().st_size < 2**20:
        for line in latest.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            name = value.strip().strip('"').rsplit("/", 1)[-1]  # never outside this folder
            if key == "model_checkpoint_path" and name in prefixes:
                return folder / name
    raise UserError(
        "it is not clear which checkpoint is meant" if prefixes else "the checkpoint is missing",
        where=folder,
        found=", ".join(sorted(prefixes)) or "no .index file",
        expected="model.ckpt.index and its data file",
    )


def _match(
    checkpoint: TensorFlowCheckpoint, entries: list[Entry], shapes: dict[str, torch.Size]
) -> None:
    """Nothing may be missing, extra, misshapen or of another type (`Shape-checked` assignment)."""
    for entry in entries:
        if entry.theirs not in checkpoint.variables:
            raise UserError(
                f"variable {entry.theirs} is missing",
                where=checkpoint.index,
                found=f"{len(checkpoint.variables)} variables",
                expected=f"{len(entries)}, by hparams.json",
            )
        variable = checkpoint.variables[entry.theirs]
        if variable.shape != (wanted := entry.shape(shapes)):
            raise UserError(
                f"variable {entry.theirs} has another shape than hparams.json says",
                where=checkpoint.index,
                found=variable.shape,
                expected=wanted,
            )
        if variable.type not in FLOATS:
            raise UserError(
                f"variable {entry.theirs} is not made of floating-point numbers",
                where=checkpoint.index,
                found=variable.type,
                expected=", ".join(FLOATS),
            )
    known = {entry.theirs for entry in entries}
    extra = [
        name
        for name in sorted(checkpoint.variables)
        if name.startswith("model/") and name not in known and not name.endswith(OPTIMIZER_SLOTS)
    ]
    if extra:
        raise UserError(
            f"{len(extra)} variables that hparams.json has no place for",
            where=checkpoint.index,
            found=", ".join(extra[:5]),
            fix="hparams.json and the checkpoint belong to different models",
        )


def _parts(
    checkpoint: TensorFlowCheckpoint,
    entry: Entry,
    shapes: dict[str, torch.Size],
    check_finite: bool,
) -> dict[str, np.ndarray]:
    """Our parameters out of one variable, in float32 and row by row."""
    value = checkpoint.read(entry.theirs)
    if check_finite and not np.isfinite(value).all():
        raise UserError(
            f"variable {entry.theirs} holds NaN or infinite values",
            where=checkpoint.index,
            found=f"{int((~np.isfinite(value)).sum()):,} of {value.size:,}",
            expected="finite weights",
        )
    if entry.matrix:  # (1, in, out) to (out, in)
        value = value[0].T
    ends = np.cumsum([shapes[name][0] for name in entry.ours])[:-1]
    return {
        name: np.ascontiguousarray(part, np.float32)
        for name, part in zip(entry.ours, np.split(value, ends), strict=True)
    }
