"""What a model is, from the small files and headers alone: no weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from langwright.base import UserError, read_untrusted_json
from langwright.formats.folder import CONFIG, MOST_CONFIG_BYTES
from langwright.formats.hf_config import from_hf_config
from langwright.formats.openai_gpt2 import (
    find_checkpoint,
    is_openai_folder,
    openai_config,
    openai_tokenizer,
)
from langwright.formats.opening import _gguf_file as gguf_file
from langwright.formats.opening import folder_tokenizer
from langwright.formats.shards import Weights
from langwright.formats.tensors import SafeFile
from langwright.formats.tf_checkpoint import TensorFlowCheckpoint
from langwright.model import ModelConfig
from langwright.tokenizer import Tokenizer

# Names of stored number types, as files have them -> as people write them.
SHORT_TYPES = {
    "float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64",
}  # fmt: skip


@dataclass(frozen=True)
class Peek:
    """A model's layout, architecture and weights.

    `values` counts the stored numbers of each type ("bf16", "q4_k" ...); `bytes` is the size of all
    files with weights; `family` the foreign name of the architecture; `metadata` a GGUF's keys.
    """

    path: Path
    layout: str
    family: str
    config: ModelConfig
    files: list[Path]
    values: dict[str, int]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of the files with weights."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def type(self) -> str:
        """The type of most of the stored numbers."""
        return max(self.values, key=lambda kind: self.values[kind]) if self.values else "f32"


def peek_model(path: str | Path) -> Peek:
    """Look at a model folder or .gguf file.

    Raises:
        UserError: there is no model, or it is damaged, or one that we do not compute.
    """
    path = Path(path)
    file = gguf_file(path)
    if file is not None:
        return _gguf(file)
    if is_openai_folder(path):
        return _openai(path)
    if not path.is_dir():
        raise UserError("there is no such model", where=path, expected="a folder or a .gguf file")
    if not (path / CONFIG).exists():
        raise UserError(
            "this folder holds no model",
            where=path,
            expected="config.json, hparams.json or a .gguf file",
        )
    return _hugging_face(path)


def _hugging_face(path: Path) -> Peek:
    table = read_untrusted_json(path / CONFIG, MOST_CONFIG_BYTES)
    config = from_hf_config(table, where=path / CONFIG)
    values: Counter[str] = Counter()
    with Weights(path) as weights:
        files = sorted({weights.path_of(name) for name in weights.names})
    for path_of_file in files:
        with SafeFile(path_of_file) as file:
            for place in file.places.values():
                values[place.dtype.lower()] += prod(place.shape)
    return Peek(
        path, "Hugging Face folder", str(table.get("model_type")), config, files, dict(values)
    )


def _openai(path: Path) -> Peek:
    config = openai_config(path)
    checkpoint = TensorFlowCheckpoint(find_checkpoint(path))
    values: Counter[str] = Counter()
    for variable in checkpoint.variables.values():
        values[SHORT_TYPES.get(variable.type, variable.type)] += prod(variable.shape)
    return Peek(path, "OpenAI's GPT-2 files", "gpt2", config, checkpoint.data_files(), dict(values))


def _gguf(path: Path) -> Peek:
    from langwright.formats.gguf import GgufFile, read_gguf_config

    values: Counter[str] = Counter()
    config, metadata = read_gguf_config(path)
    with GgufFile(path) as file:
        for tensor in file.tensors.values():
            values[tensor.kind.name.lower()] += tensor.values
    family = str(metadata.get("general.architecture"))
    return Peek(path, "GGUF file", family, config, [path], dict(values), dict(metadata))


def peek_tokenizer(path: str | Path) -> Tokenizer | None:
    """The tokenizer among a model's files, without the model; None if there is none."""
    path = Path(path)
    file = gguf_file(path)
    if file is not None:
        from langwright.formats.gguf import load_gguf_tokenizer

        return load_gguf_tokenizer(file)
    if is_openai_folder(path):
        return openai_tokenizer(path)
    return folder_tokenizer(path)
