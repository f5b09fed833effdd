"""A config and a model in words: what `info` and logs show."""

from __future__ import annotations

from torch import nn

from langwright.model.config import ModelConfig
from langwright.model.costs import flops_per_token, kv_cache_bytes, weight_bytes
from langwright.model.counts import Counts, parameter_count
from langwright.model.experts import ExpertFeedForward

MIB = 2**20


def module_tree(model: nn.Module, depth: int | None = None) -> str:
    """A nested listing of the modules with their parameters, equal neighbours folded ("0-5 x 6").

    ``blocks                        10,624,512``
    """
    lines: list[tuple[str, str, int]] = []
    _walk(model, type(model).__name__, 0, depth, lines)
    name_width = max(len(name) for name, _, _ in lines) + 2
    kind_width = max(len(kind) for _, kind, _ in lines) + 2
    return "\n".join(
        f"{name:<{name_width}}{kind:<{kind_width}}{size:>15,}" for name, kind, size in lines
    )


def _walk(
    module: nn.Module, name: str, level: int, depth: int | None, lines: list[tuple[str, str, int]]
) -> None:
    lines.append(("  " * level + name, _kind(module), _size(module)))
    if depth is not None and level >= depth:
        return
    children = list(module.named_children())
    start = 0
    while start < len(children):
        end = start + 1
        if isinstance(module, nn.ModuleList):  # equal layers are told once
            while end < len(children) and repr(children[end][1]) == repr(children[start][1]):
                end += 1
        child_name, child = children[start]
        if end - start > 1:
            child_name = f"{child_name}-{children[end - 1][0]} (each of {end - start})"
        _walk(child, child_name, level + 1, depth, lines)
        start = end


def _kind(module: nn.Module) -> str:
    """Class and shape: ``Linear 384 -> 1024``."""
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        bias = ", bias" if module.bias is not None else ""
        return f"{kind} {module.in_features} -> {module.out_features}{bias}"
    if isinstance(module, ExpertFeedForward):
        return f"{kind} {module.extra_repr()}"
    weight = getattr(module, "weight", None)
    if weight is not None and not list(module.children()):
        return f"{kind} {' x '.join(str(n) for n in weight.shape)}"
    return kind


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def summary(config: ModelConfig) -> str:
    """The counts of a config in a few lines, for `info` and logs."""
    counts = parameter_count(config)
    shared = " (shared)" if config.tied else ""
    of_experts = f" ({counts.active:,} for one token)" if counts.resting else ""
    rows = [
        ("shape", f"{config.layers} layers, width {config.width}, {_heads(config)}"),
        *([("reach", _reach(config))] if config.window else []),
        ("feed-forward", _feedforward(config)),
        ("norm", f"{config.norm}, {config.norm_placement}" + (", QK norm" * config.qk_norm)),
        ("position", f"{_position(config)}, context {config.context_length:,} tokens"),
        ("vocabulary", f"{config.vocab_size:,} ids, head {'tied' if config.tied else 'untied'}"),
        *([("unexported", _unexported(config))] if config.unexported else []),
        ("parameters", f"{counts.total:,}{of_experts}"),
        ("  embedding", f"{counts.embedding:,}{_value_tables(counts)}"),
        ("  attention", f"{counts.attention:,}"),
        ("  feed-forward", f"{counts.feedforward:,}"),
        ("  norm", f"{counts.norm:,}"),
        *([("  mixing", f"{counts.mixing:,}")] if counts.mixing else []),
        ("  head", f"{counts.head:,}{shared}"),
        ("weights", f"{weight_bytes(config) / MIB:,.2f} MiB fp32"),
        (
            "KV cache",
            f"{kv_cache_bytes(config, config.context_length) / MIB:,.2f} MiB "
            f"for {config.context_length:,} tokens in 16 bit",
        ),
        (
            "compute",
            f"{flops_per_token(config, config.context_length) / 1e6:,.1f} MFLOP per trained token",
        ),
    ]
    return "\n".join(f"{label:<16}{value}" for label, value in rows)


def _unexported(config: ModelConfig) -> str:
    """The options that keep a model from opening elsewhere."""
    return ", ".join(config.unexported).replace("_", " ") + ": only Langwright opens it"


def _value_tables(counts: Counts) -> str:
    return f", {counts.values:,} of them value tables" if counts.values else ""


def _heads(config: ModelConfig) -> str:
    text = f"{config.heads} heads"
    if config.key_heads != config.heads:
        text += f", {config.key_heads} key/value heads"
    if config.latent:
        text += f", keys and values through a latent vector of {config.latent.kv_rank}"
    return text + ", sinks" * config.attention_sinks


def _reach(config: ModelConfig) -> str:
    local = sum(config.is_local(layer) for layer in range(config.layers))
    return f"{local} of {config.layers} layers see the last {config.window:,} tokens"


def _feedforward(config: ModelConfig) -> str:
    e = config.experts
    if e is None:
        return f"{config.feedforward}, width {config.hidden_size}"
    layers = sum(config.has_experts(layer) for layer in range(config.layers))
    width = e.hidden_width or config.hidden_size
    text = f"{config.feedforward}, {e.chosen} of {e.count} experts of width {width}"
    if e.shared_width:
        text += f" and a shared one of {e.shared_width}"
    return text if layers == config.layers else f"{text} in {layers} of {config.layers} layers"


def _position(config: ModelConfig) -> str:
    if config.position != "rotary":
        return config.position
    scaling = config.rotary_scaling
    text = f"rotary (base {config.rotary_base:g}"
    return text + (f", {scaling.kind} x {scaling.factor:g})" if scaling else ")")
