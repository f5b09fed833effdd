"""Rotary position in transformers' words and in ours.

Files of transformers 4 say ``rope_theta`` beside ``rope_scaling`` (whose kind is under "type" or
"rope_type"), files of transformers 5 say all of it in ``rope_parameters``; both are read and both
are written. The meaning of each scaling is in the model's positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langwright.base import UserError
from langwright.formats.families.common import Fields, Table, parse, unsupported
from langwright.model import ModelConfig

NAMES = {"ntk": "dynamic"}  # our kinds that transformers calls otherwise


class RopeFields(Fields):
    rope_theta: float | None = None
    rope_type: str | None = None
    type: str | None = None
    partial_rotary_factor: float | None = None
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    short_factor: list[float] | None = None
    long_factor: list[float] | None = None


class _Holder(Fields):
    """The fields of a config that may say something about rotary position."""

    max_position_embeddings: int
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    original_max_position_embeddings: int | None = None


@dataclass(frozen=True)
class Rotary:
    """What a file says: the base, the share of a head that turns, and the scaling."""

    base: float
    share: float
    scaling: Table | None

    @property
    def values(self) -> Table:
        """As fields of `ModelConfig`."""
        return {
            "position": "rotary",
            "rotary_base": self.base,
            "rotary_share": self.share,
            "rotary_scaling": self.scaling,
        }


def read_rotary(
    table: Table, where: object, *, context: int, base: float = 10_000.0, share: float = 1.0
) -> Rotary:
    """The rotary position of a ``config.json``.

    Args:
        table: the whole config.
        context: its max_position_embeddings, or the default of its family.
        base, share: used where the file is silent.
    """
    held = parse(_Holder, {"max_position_embeddings": context, **table}, where)
    name = "rope_scaling" if held.rope_scaling else "rope_parameters"
    inner = held.rope_scaling or held.rope_parameters or {}
    if any(isinstance(value, dict) for value in inner.values()):
        raise unsupported(name, inner, where, "one table for each kind of layer")
    fields = parse(RopeFields, inner, f"{where} {name}" if where else name)
    scaling = read_scaling(
        fields,
        where,
        name=name,
        context=context,
        original=held.original_max_position_embeddings,
    )
    other = parse(RopeFields, held.rope_parameters or {}, where)
    return Rotary(
        base=_first(fields.rope_theta, other.rope_theta, held.rope_theta, base),
        share=_first(fields.partial_rotary_factor, held.partial_rotary_factor, share),
        scaling=scaling,
    )


def read_scaling(
    f: RopeFields, where: object, *, name: str, context: int, original: int | None = None
) -> Table | None:
    """The table of one kind of layer as `RotaryScaling`'s fields; None: the angles are plain.

    `original` is a length that stands beside the table, as Phi-3's files have it; it goes first.
    """
    kind = f.rope_type or f.type or "default"
    if kind == "default":
        return None
    before = original or f.original_max_position_embeddings or context
    factor = f.factor
    if factor is None and kind in ("yarn", "longrope", "su"):
        factor = max(context / before, 1.0)  # shorter than before: nothing to scale by
    if factor is None and kind in ("linear", "dynamic", "llama3"):
        raise _missing(name, kind, "factor", where)
    if kind == "linear":
        return {"kind": "linear", "factor": factor}
    if kind == "dynamic":  # the reference measures the text against the config's whole length
        return {"kind": "ntk", "factor": factor, "original_context": context}
    if kind == "llama3":
        return {
            "kind": "llama3",
            "factor": factor,
            "original_context": before,
            "low_frequency": _first(f.low_freq_factor, 1.0),
            "high_frequency": _first(f.high_freq_factor, 4.0),
        }
    if kind == "yarn":
        return {
            "kind": "yarn",
            "factor": factor,
            "original_context": before,
            "beta_fast": f.beta_fast or 32.0,
            "beta_slow": f.beta_slow or 1.0,
            "truncate": f.truncate,
            "attention_factor": f.attention_factor,
            "mscale": f.mscale,
            "mscale_all": f.mscale_all_dim,
        }
    if kind in ("longrope", "su"):  # "su" is its name in the first files of Phi-3
        if f.short_factor is None or f.long_factor is None:
            raise _missing(name, kind, "short_factor and long_factor", where)
        return {
            "kind": "longrope",
            "factor": factor,
            "original_context": before,
            "attention_factor": f.attention_factor,
            "short_factors": f.short_factor,
            "long_factors": f.long_factor,
        }
    raise unsupported(name, f.model_dump(exclude_none=True), where)


def write_rotary(config: ModelConfig) -> Table:
    """The fields of ``config.json`` for a model whose layers all turn alike."""
    scaling = write_scaling(config)
    plain: Table = {"rope_theta": config.rotary_base, "rope_scaling": scaling}
    if config.rotary_share != 1.0:
        plain["partial_rotary_factor"] = config.rotary_share
    parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": config.rotary_base}
    if config.rotary_share != 1.0:
        parameters["partial_rotary_factor"] = config.rotary_share
    return {**plain, "rope_parameters": parameters}


def write_scaling(config: ModelConfig) -> Table | None:
    """`rotary_scaling` in transformers' words; None: there is none."""
    s = config.rotary_scaling
    if s is None:
        return None
    table: Table = {"rope_type": NAMES.get(s.kind, s.kind), "factor": s.factor}
    if s.kind in ("linear", "ntk"):
        return table
    table["original_max_position_embeddings"] = s.original_context or config.context_length
    if s.kind == "llama3":
        table |= {"low_freq_factor": s.low_frequency, "high_freq_factor": s.high_frequency}
    elif s.kind == "yarn":
        table |= {"beta_fast": s.beta_fast, "beta_slow": s.beta_slow, "truncate": s.truncate}
        optional = {"mscale": s.mscale, "mscale_all_dim": s.mscale_all}
        table |= {key: value for key, value in optional.items() if value is not None}
    else:
        table |= {"short_factor": list(s.short_factors or ())}
        table |= {"long_factor": list(s.long_factors or ())}
    if s.attention_factor is not None:
        table["attention_factor"] = s.attention_factor
    return table


def _first(*values: float | None) -> float:
    """The first value that is there; the last one always is."""
    return float(next(value for value in values if value is not None))


def _missing(name: str, kind: str, field: str, where: object) -> UserError:
    return UserError(f"{name} of kind {kind!r} needs {field}", where=where, expected=field)
