"""A model as a folder: ``config.json``, ``model.safetensors``, and the tokenizer's files.

The layout is Hugging Face's, so what is saved opens in transformers and llama.cpp's converter
wherever the architecture exists there. Only safetensors and JSON are read: a pickle can run code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from langwright.base import UserError, read_untrusted_json, write_json
from langwright.formats.families import FAMILIES
from langwright.formats.hf_config import OWN_TYPE, from_hf_config, to_hf_config
from langwright.formats.names import Rule, rules_for
from langwright.formats.shards import MAX_SHARD_BYTES, WEIGHTS, Weights, write_weights
from langwright.formats.tensors import Planned
from langwright.model import ModelConfig, Transformer

if TYPE_CHECKING:
    from langwright.tokenizer import Tokenizer

CONFIG = "config.json"
MOST_CONFIG_BYTES = 1 << 20
MOST_EXPERTS = 1 << 17  # of all layers together; DeepSeek-V3 has 15,000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EMBEDDING, HEAD = "tokens.weight", "lm_head.weight"


def save_model(
    folder: str | Path,
    model: Transformer,
    tokenizer: Tokenizer | None = None,
    extra: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `model` (and `tokenizer`) to `folder`, each file by atomic rename.

    Args:
        folder: made if it is not there; the model that it holds is replaced.
        model: its config decides the architecture, see `to_hf_config`.
        tokenizer: its files are written too, and its special ids into the configs.
        extra: plain JSON kept under "langwright" in config.json (where the model comes from).
        dtype: of the stored weights: float32, bfloat16 or float16.
        max_shard_bytes: beyond this size the weights become several files with an index.

    No second copy of the model is made: one tensor at a time is converted and written.
    """
    folder = Path(folder)
    names = {value: name for name, value in DTYPES.items()}
    if dtype not in names:
        raise UserError("cannot store weights so", found=dtype, expected=", ".join(DTYPES))
    table = to_hf_config(model.config)
    parameters = {name: value.detach() for name, value in _weights_of(model).items()}
    shapes = {name: value.shape for name, value in parameters.items()}
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
    planned = [
        Planned(rule.theirs, rule.shape(shapes), partial(rule.join, parameters)) for rule in rules
    ]
    write_weights(folder, planned, dtype, max_shard_bytes)
    if tokenizer is not None:
        tokenizer.save(folder)
        write_json(folder / "generation_config.json", generation)
    write_json(folder / CONFIG, table)  # last: a folder with a config is whole


def load_folder(
    folder: Path, device: torch.device | str, dtype: torch.dtype | None, check_finite: bool
) -> Transformer:
    """Read a model folder in Hugging Face's layout; see `load_model` for the arguments."""
    table = _read_config(folder)
    config = from_hf_config(table, where=folder / CONFIG)
    with Weights(folder) as weights:
        _check_counts(weights, config, folder)
        with torch.device("meta"):  # shapes only: nothing is allocated before the file is checked
            model = Transformer(config)
        kind = table["model_type"] if table["model_type"] in FAMILIES else OWN_TYPE
        shapes = {name: value.shape for name, value in _weights_of(model).items()}
        rules = rules_for(kind, config, list(shapes))
        unread = FAMILIES[kind].unread if kind in FAMILIES else ()
        matched = _match(weights, rules, shapes, config.tied, unread)
        for rule, name in matched:
            tensor = weights.read(name, check_finite)
            _fill(model, rule, rule.split(tensor, shapes), device, dtype or torch.float32)
    model.compute_dtype = dtype or torch.float32
    return model.eval()


def _weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Everything that a file must hold: parameters, and buffers that are not computed."""
    return dict(model.state_dict(keep_vars=True))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError("there is no such model folder", where=folder)
    if not path.exists():
        raise UserError(
            "this folder holds no model",
            where=folder,
            found=", ".join(sorted(item.name for item in folder.iterdir())[:8]) or "nothing",
            expected=f"{CONFIG} and {WEIGHTS}",
        )
    return read_untrusted_json(path, MOST_CONFIG_BYTES)


def _check_counts(weights: Weights, config: ModelConfig, folder: Path) -> None:
    """A config may ask for any number of layers and experts: each wants tensors of its own."""
    if len(weights.names) < 2 * config.layers:
        raise UserError(
            "the weights have fewer tensors than config.json has layers",
            where=folder,
            found=f"{len(weights.names)} tensors",
            expected=f"those of {config.layers} layers",
            fix="config.json and the weights belong to different models",
        )
    experts = config.layers * config.experts.count if config.experts else 0
    if experts > MOST_EXPERTS:
        raise UserError(
            "far too many experts",
            where=folder / CONFIG,
            found=f"{experts:,} in all layers",
            expected=f"at most {MOST_EXPERTS:,}",
        )


def _match(
    weights: Weights,
    rules: Sequence[Rule],
    shapes: dict[str, torch.Size],
    tied: bool,
    unread: tuple[str, ...],
) -> list[tuple[Rule, str]]:
    """Each rule with the name its tensor has in the file; none may be missing, extra or misshapen.

    GPT-2 files on the hub leave out the prefix "transformer.".
    """
    present = weights.names
    bare = "transformer.wte.weight" not in present and "wte.weight" in present
    matched, missing = [], []
    for rule in rules:
        name = rule.theirs.removeprefix("transformer.") if bare else rule.theirs
        if name not in present:
            missing.append(name)
            continue
        weights.check_shape(name, rule.shape(shapes))
        matched.append((rule, name))
    if missing:
        raise UserError(
            f"{len(missing)} tensors are missing",
            where=weights.path,
            found=_some(sorted(present)),
            expected=_some(missing),
        )
    extra = present - {name for _, name in matched}
    extra = {name for name in extra if not name.endswith(unread)}
    if tied and HEAD in extra:
        _check_tied_head(weights, next(pair for pair in matched if pair[0].ours[0] == EMBEDDING))
        extra.discard(HEAD)
    if extra:
        raise UserError(
            f"{len(extra)} tensors that the config has no place for",
            where=weights.path_of(min(extra)),
            found=_some(sorted(extra)),
            fix="config.json and the weights belong to different models",
        )
    return matched


def _check_tied_head(weights: Weights, embedding: tuple[Rule, str]) -> None:
    """A tied model may store its one matrix twice, but then both must be the same."""
    name, path = embedding[1], weights.path_of(HEAD)
    weights.check_shape(HEAD, weights.shape(name))
    if not torch.equal(weights.read(HEAD, False), weights.read(name, False)):
        raise UserError(
            "config.json says that the head shares the embedding, but the file has two different",
            where=path,
            found=f"{HEAD} differs from {name}",
            fix='set "tie_word_embeddings": false if the head is really its own',
        )


def _fill(
    model: nn.Module,
    rule: Rule,
    parts: dict[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    """Put what one tensor of the file holds into the model, in memory of its own."""
    for name, part in parts.items():
        module, attribute = name.rsplit(".", 1)
        owner = model.get_submodule(module)
        slot = getattr(owner, attribute)
        if rule.expert is None:
            whole = part.to(device, dtype)
            if whole.untyped_storage().nbytes() != whole.nbytes:  # a part of a larger tensor
                whole = whole.clone()
        else:
            whole = slot
            if slot.is_meta:
                whole = torch.empty(slot.shape, dtype=dtype, device=device)
            with torch.no_grad():
                whole[rule.expert].copy_(part)
        _check_fits(whole, part, rule.theirs, dtype)
        if whole is slot:
            continue
        if isinstance(slot, nn.Parameter):
            whole = nn.Parameter(whole, requires_grad=slot.requires_grad)
        setattr(owner, attribute, whole)


def _check_fits(whole: Tensor, part: Tensor, name: str, dtype: torch.dtype) -> None:
    """Weights beyond 65,504 would become infinite in float16."""
    if dtype != torch.float16 or part.dtype == dtype or not part.numel():
        return
    if bool(whole.isinf().any()) and not bool(part.isinf().any()):
        raise UserError(
            f"tensor {name} holds values too large for float16",
            found=f"{part.abs().max().item():g}",
            expected="at most 65504",
            fix="load it in bfloat16 or float32",
        )


def _some(names: list[str]) -> str:
    """The first few of a list of names."""
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
