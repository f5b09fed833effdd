"""A GGUF file as a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from langwright.base import UserError
from langwright.formats.gguf.architectures import architecture_of
from langwright.formats.gguf.fields import Fields
from langwright.formats.gguf.names import Slot, slots
from langwright.formats.gguf.reader import GgufFile
from langwright.formats.gguf.rotary import FREQS, LONG, SHORT
from langwright.formats.gguf.vocabulary import read_tokenizer
from langwright.model import ModelConfig, Transformer

if TYPE_CHECKING:
    from langwright.tokenizer import Tokenizer

# Divisors of rotary angles: a part of the config, not weights.
SETTINGS = (FREQS, SHORT, LONG)


def load_gguf(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    check_finite: bool = True,
    tokenizer: bool = True,
) -> tuple[Transformer, Tokenizer | None]:
    """Read a GGUF file: the model in evaluation mode, and its tokenizer (None if it has none).

    Quantised tensors become plain numbers of `dtype`, one tensor at a time.

    Args:
        path: a file with one of the architectures of `ARCHITECTURES`; nothing in it is trusted.
        device: where the parameters go.
        dtype: of parameters and computation; None: float32.
        check_finite: refuse weights that are NaN or infinite (one pass over them).
        tokenizer: read the tokenizer too.

    Raises:
        UserError: naming the file and the key or tensor that is missing, extra, of a wrong shape or
            kind, not finite, or that asks for a computation we do not have.
    """
    with GgufFile(path) as file:
        # The small part first: a mistake in it is told before gigabytes are read.
        found = read_tokenizer(file.metadata, file.path) if tokenizer else None
        return _load(file, torch.device(device), dtype or torch.float32, check_finite), found


def load_gguf_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    check_finite: bool = True,
) -> Transformer:
    """Only the model of a GGUF file; see `load_gguf`."""
    return load_gguf(path, device=device, dtype=dtype, check_finite=check_finite, tokenizer=False)[
        0
    ]


def load_gguf_tokenizer(path: str | Path) -> Tokenizer | None:
    """Only the tokenizer of a GGUF file, None where it has none."""
    with GgufFile(path) as file:
        return read_tokenizer(file.metadata, file.path)


def read_gguf_config(path: str | Path) -> tuple[ModelConfig, Mapping[str, Any]]:
    """The architecture and all metadata of a GGUF file; no weight is read."""
    with GgufFile(path) as file:
        return config_of(file), file.metadata


def config_of(file: GgufFile) -> ModelConfig:
    """The architecture that an open file describes."""
    shapes = {name: info.shape for name, info in file.tensors.items()}

    def vector(name: str) -> list[float]:
        if len(shapes[name]) != 1 or shapes[name][0] > 1 << 14:
            raise UserError(f"tensor {name} is no list of divisors", where=file.path)
        return [float(one) for one in file.read(name)]

    fields = Fields(file.metadata, shapes, vector, file.path)
    values = architecture_of(fields).read(fields)
    config = ModelConfig.parse(values, where=f"{file.path} {fields.architecture}")
    if _same_head(file):
        config = ModelConfig(**{**config.model_dump(), "tied": True})
    return config


def _same_head(file: GgufFile) -> bool:
    """Whether the file stores the embedding a second time as the head, as old GPT-2 files do."""
    head, embedding = (file.tensors.get(f"{name}.weight") for name in ("output", "token_embd"))
    if head is None or embedding is None:
        return False
    same = (head.kind, head.shape) == (embedding.kind, embedding.shape)
    return same and file.same_bytes(head, embedding)


def _load(
    file: GgufFile, device: torch.device, dtype: torch.dtype, check_finite: bool
) -> Transformer:
    config = config_of(file)
    with torch.device("meta"):  # shapes only: nothing is allocated before the file is checked
        model = Transformer(config)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    for slot in _match(file, config, shapes):
        tensor = torch.from_numpy(file.read(slot.theirs, check_finite))
        for name, part in slot.split(tensor, shapes).items():
            module, attribute = name.rsplit(".", 1)
            part = part.to(device, dtype, copy=len(slot.ours) > 1).contiguous()
            setattr(model.get_submodule(module), attribute, nn.Parameter(part))
    model.compute_dtype = dtype
    return model.eval()


def _match(
    file: GgufFile, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]
) -> list[Slot]:
    """The slot of each tensor; nothing may be missing, extra or misshapen."""
    fields = Fields(file.metadata, {}, lambda name: [], file.path)
    found = slots(architecture_of(fields), config, list(shapes))
    assert sum(len(slot.ours) for slot in found) == len(shapes), "a parameter has no name"
    missing = [slot.theirs for slot in found if slot.theirs not in file.tensors]
    if missing:
        raise UserError(
            f"{len(missing)} tensors are missing", where=file.path, expected=_some(missing)
        )
    implied = {*SETTINGS, *(["output.weight"] if config.tied else [])}
    extra = set(file.tensors) - {slot.theirs for slot in found} - implied
    extra = {name for name in extra if not name.endswith(".rope_freqs.weight")}
    if extra:
        raise UserError(
            f"{len(extra)} tensors that the architecture has no place for",
            where=file.path,
            found=_some(sorted(extra)),
            fix="nothing was loaded: without them the model's answers would be wrong",
        )
    for slot in found:
        if file.tensors[slot.theirs].shape != slot.shape(shapes):
            raise UserError(
                f"tensor {slot.theirs} has another shape than the metadata say",
                where=file.path,
                found=file.tensors[slot.theirs].shape,
                expected=slot.shape(shapes),
            )
    return found


def _some(names: list[str]) -> str:
    """The first few of a list of names."""
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
