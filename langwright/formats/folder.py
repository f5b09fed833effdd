"""A model as a folder: ``config.json``, ``model.safetensors``, and the tokenizer's files.

The layout is Hugging Face's, so what is saved opens in transformers, vLLM and llama.cpp's converter
wherever the architecture exists there. Only safetensors and JSON are read: a pickle can run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from langwright.base import UserError, atomic_path, read_json, write_json
from langwright.formats.hf_config import FAMILIES, OWN_TYPE, from_hf_config, to_hf_config
from langwright.formats.names import Rule, rules_for
from langwright.formats.tensors import SafeFile, save_tensors
from langwright.model import Transformer

if TYPE_CHECKING:
    from langwright.tokenizer import Tokenizer

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MAX_CONFIG_BYTES = 1 << 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Buffers that old checkpoints store beside the parameters and that a config already implies.
IMPLIED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def save_model(
    folder: str | Path,
    model: Transformer,
    tokenizer: Tokenizer | None = None,
    extra: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `model` (and `tokenizer`) to `folder`, each file by atomic rename.

    Args:
        folder: made if it is not there; files of the same name are replaced.
        model: its config decides the architecture, see `to_hf_config`.
        tokenizer: its files are written too, and its special ids into the configs.
        extra: plain JSON kept under "langwright" in config.json (where the model comes from).
        dtype: of the stored weights: float32, bfloat16 or float16.
    """
    folder = Path(folder)
    names = {value: name for name, value in DTYPES.items()}
    if dtype not in names:
        raise UserError("cannot store weights so", found=dtype, expected=", ".join(DTYPES))
    table = to_hf_config(model.config)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    rules = rules_for(table["model_type"], model.config, list(parameters))
    table["dtype"] = names[dtype]
    if extra:
        table["langwright"] = extra
    generation: dict[str, Any] = {}
    if tokenizer is not None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                "the tokenizer has ids that the model does not",
                found=f"{tokenizer.vocab_size} ids",
                expected=f"at most vocab_size = {model.config.vocab_size}",
            )
        ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        generation = {f"{name}_token_id": value for name, value in ids.items()}
        table |= generation
        generation["eos_token_id"] = list(tokenizer.stop_ids) or None
    else:  # GPT-2's and Llama's classes would fill in ids that this vocabulary may not have
        table |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {rule.theirs: rule.join(parameters).to("cpu", dtype) for rule in rules}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_tensors(temporary, tensors)
    if tokenizer is not None:
        tokenizer.save(folder)
        write_json(folder / "generation_config.json", generation)
    write_json(folder / CONFIG, table)  # last: a folder with a config is whole


def load_model(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    check_finite: bool = True,
) -> Transformer:
    """Read a model folder of ours, or of transformers (Qwen3, Llama, GPT-2), in evaluation mode.

    Args:
        folder: holds config.json and model.safetensors; nothing in it is trusted.
        device: where the parameters go.
        dtype: of parameters and computation; None: fp32 parameters, computed in fp32.
        check_finite: refuse weights that are NaN or infinite (one pass over them).

    Raises:
        UserError: naming the file and tensor or field that is missing, extra, of a wrong shape or
            type, not finite, or that asks for a computation we do not have.
    """
    folder = Path(folder)
    table = _read_config(folder)
    config = from_hf_config(table, where=folder / CONFIG)
    with torch.device("meta"):  # shapes only: nothing is allocated before the file is checked
        model = Transformer(config)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    kind = table["model_type"] if table["model_type"] in FAMILIES else OWN_TYPE
    with SafeFile(_weights_file(folder)) as file:
        rules = _match(file, rules_for(kind, config, list(shapes)), shapes, config.tied)
        for rule, name in rules:
            tensor = file.read(name, check_finite)
            for ours, part in rule.split(tensor, shapes).items():
                part = part.to(device, dtype or torch.float32, copy=True)
                _assign(model, ours, nn.Parameter(part))
    model.compute_dtype = dtype or torch.float32
    return model.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError("there is no such model folder", where=folder)
    if not path.is_file():
        raise UserError(
            "this folder holds no model",
            where=folder,
            found=", ".join(sorted(item.name for item in folder.iterdir())[:8]) or "nothing",
            expected=f"{CONFIG} and {WEIGHTS}",
        )
    if (size := path.stat().st_size) > MAX_CONFIG_BYTES:
        raise UserError("far too large for a config", where=path, found=f"{size:,} bytes")
    table = read_json(path)
    if not isinstance(table, dict):
        raise UserError("not a model config", where=path, expected="a JSON object")
    return table


def _weights_file(folder: Path) -> Path:
    path = folder / WEIGHTS
    if path.is_file():
        return path
    if (folder / f"{WEIGHTS}.index.json").exists():
        raise UserError(
            "the weights are split over several files, which is not supported yet",
            where=folder,
            fix=f"save the model as one {WEIGHTS} (transformers: save_pretrained("
            "..., max_shard_size='100GB'))",
        )
    pickles = sorted(item.name for pattern in PICKLES for item in folder.glob(pattern))
    if pickles:
        raise UserError(
            "the weights are a Python pickle, which can run code when it is read; Langwright never "
            "opens one",
            where=folder / pickles[0],
            expected=WEIGHTS,
            fix="convert it where you trust it: transformers' save_pretrained writes safetensors",
        )
    raise UserError("the weights are missing", where=folder, expected=WEIGHTS)


def _match(
    file: SafeFile, rules: list[Rule], shapes: dict[str, torch.Size], tied: bool
) -> list[tuple[Rule, str]]:
    """Each rule with the name its tensor has in `file`; nothing may be missing, extra or misshapen.

    GPT-2 files on the hub leave out the prefix "transformer.".
    """
    present = set(file.names)
    bare = "transformer.wte.weight" not in present and "wte.weight" in present
    matched, missing = [], []
    for rule in rules:
        name = rule.theirs.removeprefix("transformer.") if bare else rule.theirs
        if name not in present:
            missing.append(name)
            continue
        file.check_shape(name, rule.shape(shapes))
        matched.append((rule, name))
    if missing:
        raise UserError(
            f"{len(missing)} tensors are missing",
            where=file.path,
            found=_some(sorted(present)),
            expected=_some(missing),
        )
    extra = present - {name for _, name in matched}
    extra = {name for name in extra if not name.endswith(IMPLIED)}
    if tied and "lm_head.weight" in extra:
        _check_tied_head(file, next(name for rule, name in matched if rule.ours[0] == EMBEDDING))
        extra.discard("lm_head.weight")
    if extra:
        raise UserError(
            f"{len(extra)} tensors that the config has no place for",
            where=file.path,
            found=_some(sorted(extra)),
            fix="config.json and the weights belong to different models",
        )
    return matched


EMBEDDING = "tokens.weight"


def _check_tied_head(file: SafeFile, embedding: str) -> None:
    """A tied model may store its one matrix twice, but then both must be the same."""
    if not torch.equal(file.read("lm_head.weight", False), file.read(embedding, False)):
        raise UserError(
            "config.json says that the head shares the embedding, but the file has two different",
            where=file.path,
            found=f"lm_head.weight differs from {embedding}",
            fix='set "tie_word_embeddings": false if the head is really its own',
        )


def _some(names: list[str]) -> str:
    """The first few of a list of names."""
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")


def _assign(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    module, attribute = name.rsplit(".", 1)
    setattr(model.get_submodule(module), attribute, parameter)
