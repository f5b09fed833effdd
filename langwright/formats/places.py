"""From what a person names to the folder that is meant."""

from __future__ import annotations

from pathlib import Path

from langwright.base import UserError, nearest


def model_in(folder: str | Path) -> Path:
    """The model: `folder` itself (or a .gguf file), or the model inside a run or an artifact.

    A run's fine-tuned model goes before its base model.

    Raises:
        UserError: nothing is there, or no model is in it.
    """
    if not isinstance(folder, str | Path):
        raise UserError(
            "a model is opened by its path",
            found=repr(folder),
            expected="a folder or a .gguf file, as a text or a Path",
        )
    path = Path(folder)
    for place in (path, path / "model", path / "sft" / "model", path / "pretrain" / "model"):
        if holds_model(place):
            return place
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_file():
        raise UserError("this file is no model", where=path, expected="a folder or a .gguf file")
    if not path.is_dir():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        guess = nearest(path.name, names)
        fix = f"did you mean {str(path.parent / guess)!r}?" if guess else None
        raise UserError("folder not found", where=path, fix=fix)
    raise UserError(
        "no model in this folder",
        where=path,
        expected="a config.json, OpenAI's hparams.json or a .gguf file in it",
    )


def holds_model(folder: Path) -> bool:
    """Whether a folder has the files of a model, in any layout that we read."""
    if (folder / "config.json").exists() or (folder / "hparams.json").exists():
        return True
    return folder.is_dir() and any(folder.glob("*.gguf"))


def tokenizer_in(folder: str | Path) -> Path:
    """The folder with the tokenizer's files: `folder` itself, or inside a run.

    Raises:
        UserError: nothing is there, or no tokenizer is in it.
    """
    path = Path(folder)
    if path.is_file():
        return path
    for place in (path, path / "tokenizer", path / "model"):
        if (place / "tokenizer.json").exists():
            return place
    if not path.is_dir():
        raise UserError("folder not found", where=path)
    raise UserError("no tokenizer in this folder", where=path, expected="a tokenizer.json in it")
