"""Open a model, in whichever of the layouts that we read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from langwright.base import UserError, read_untrusted_json
from langwright.formats.folder import CONFIG, MOST_CONFIG_BYTES, load_folder
from langwright.model import Transformer

if TYPE_CHECKING:
    from langwright.tokenizer import Tokenizer

GGUF = ".gguf"


def load_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    check_finite: bool = True,
) -> Transformer:
    """Read a model, in evaluation mode; nothing in its files is trusted.

    Args:
        path: a folder of ours or of transformers (config.json, model.safetensors or shards with an
            index), a folder of OpenAI's GPT-2 (hparams.json), or a .gguf file.
        device: where the parameters go.
        dtype: of parameters and computation; None: fp32 parameters, computed in fp32.
        check_finite: refuse weights that are NaN or infinite (one pass over them).

    Beside the model itself, one tensor at a time is in memory.

    Raises:
        UserError: naming the file and tensor or field that is missing, extra, of a wrong shape or
            type, not finite, or that asks for a computation we do not have.
    """
    return load_parts(path, device=device, dtype=dtype, check_finite=check_finite, tokenizer=False)[
        0
    ]


def load_parts(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    check_finite: bool = True,
    tokenizer: bool = True,
) -> tuple[Transformer, Tokenizer | None]:
    """A model, and its tokenizer if `tokenizer` is asked for and the files have one.

    Other arguments and errors are those of `load_model`.
    """
    from langwright.formats import openai_gpt2

    path = Path(path)
    file = _gguf_file(path)
    if file is not None:
        from langwright.formats.gguf import load_gguf

        return load_gguf(
            file, device=device, dtype=dtype, check_finite=check_finite, tokenizer=tokenizer
        )
    if openai_gpt2.is_openai_folder(path):
        model = openai_gpt2.load_openai_gpt2(
            path, device=device, dtype=dtype, check_finite=check_finite
        )
        return model, openai_gpt2.openai_tokenizer(path) if tokenizer else None
    # The small files first: a mistake in them is told before gigabytes are read.
    found = folder_tokenizer(path) if tokenizer else None
    return load_folder(path, device, dtype, check_finite), found


def folder_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a model folder: ``tokenizer.json``, or the older pair of files of a GPT-2
    (other models have files of these names too, but cut text otherwise)."""
    from langwright.tokenizer import gpt2_tokenizer, load_tokenizer

    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder)
    pair = folder / "vocab.json", folder / "merges.txt"
    if not all(file.exists() for file in pair) or not (folder / CONFIG).exists():
        return None
    if read_untrusted_json(folder / CONFIG, MOST_CONFIG_BYTES).get("model_type") != "gpt2":
        return None
    return gpt2_tokenizer(*pair)


def _gguf_file(path: Path) -> Path | None:
    """The .gguf file that `path` is, or that it holds instead of a config."""
    if path.is_dir():
        if (path / CONFIG).exists():
            return None
        files = sorted(path.glob(f"*{GGUF}"))
        if len(files) > 1:
            raise UserError(
                "this folder holds several models",
                where=path,
                found=", ".join(file.name for file in files[:8]),
                fix="name one of the files",
            )
        return files[0] if files else None
    return path if path.suffix == GGUF else None
