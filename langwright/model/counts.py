"""What a model costs, as arithmetic on its config: parameters, FLOPs, bytes.

Nothing here builds a model; the tests build some and compare.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from langwright.model.config import ModelConfig
from langwright.model.losses import default_chunk

MIB = 2**20


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters. `total` is the sum of the parts; a tied head is 0."""

    embedding: int  # token table V D, plus learned positions C D
    positions: int  # the learned positions' part of `embedding`
    attention: int  # all layers, with QK norms
    feedforward: int  # all layers
    norm: int  # all block norms and the final one
    head: int  # V D, or 0 where tied
    trainable: int  # all of them: nothing is frozen in a config

    @property
    def total(self) -> int:
        """All parameters, each shared one once."""
        return self.embedding + self.attention + self.feedforward + self.norm + self.head

    @property
    def non_embedding(self) -> int:
        """Parameters that multiply activations: all but the lookup tables. A tied table is used as
        the head too, and counts (as nanoGPT counts: total less positions)."""
        tied_table = self.embedding - self.positions if self.head == 0 else 0
        return self.total - self.embedding + tied_table


def parameter_count(config: ModelConfig) -> Counts:
    """Count by part. For GPT-2's shape: attention 4d^2 + d (+3d with qkv bias), feed-forward
    8d^2 + 5d, two norms 4d for each layer (facts FM13)."""
    d, h, layers = config.width, config.head_size, config.layers
    queries, keys = config.heads * h, config.key_heads * h
    norm_width = (int(config.norm_affine) + int(config.norm_bias)) * d

    attention = d * queries + 2 * d * keys + queries * d
    attention += config.qkv_bias * (queries + 2 * keys) + config.attention_out_bias * d
    attention += config.qk_norm * config.norm_affine * 2 * h

    inputs, hidden = (2 if config.gated else 1), config.hidden_size
    feedforward = (inputs + 1) * d * hidden
    feedforward += config.feedforward_bias * (inputs * hidden + d)

    positions = config.context_length * d if config.position == "learned" else 0
    table = config.vocab_size * d
    parts = {
        "embedding": table + positions,
        "attention": layers * attention,
        "feedforward": layers * feedforward,
        "norm": (2 * layers + (config.norm_placement == "pre")) * norm_width,
        "head": 0 if config.tied else table,
    }
    return Counts(**parts, positions=positions, trainable=sum(parts.values()))


def flops_per_token(config: ModelConfig, sequence_length: int, training: bool = True) -> float:
    """FLOPs for one token by the usual rule: 6 N + 12 L d T in training, a third of it forward.

    N is `Counts.non_embedding`; d is the width of all heads together; attention is counted unmasked
    (Kaplan et al. 2020, arXiv:2001.08361; Chowdhery et al. 2022, PaLM, appendix B). Shares of a
    machine's peak are given by this number. `matmul_flops_per_token` counts exactly.
    """
    n = parameter_count(config).non_embedding
    attention = config.layers * config.heads * config.head_size * sequence_length
    return (6 * n + 12 * attention) / (1 if training else 3)


def matmul_flops_per_token(
    config: ModelConfig, sequence_length: int, training: bool = True, causal: bool = True
) -> float:
    """FLOPs of the matrix products alone: no biases, norms or lookups; with `causal`, only scores
    that are not masked, (T + 1) / 2 for each token. The backward pass costs twice the forward."""
    d, h = config.width, config.head_size
    queries, keys = config.heads * h, config.key_heads * h
    attention = 2 * d * queries + 2 * d * keys
    feedforward = (3 if config.gated else 2) * d * config.hidden_size
    matrices = config.layers * (attention + feedforward) + config.vocab_size * d
    seen = (sequence_length + 1) / 2 if causal else sequence_length
    forward = 2 * matrices + config.layers * 4 * queries * seen
    return forward * (3 if training else 1)


def weight_bytes(config: ModelConfig, bytes_per_parameter: float = 4) -> int:
    """Bytes of the weights: 4 in fp32, 2 in bf16."""
    return int(parameter_count(config).total * bytes_per_parameter)


def kv_cache_bytes(
    config: ModelConfig, tokens: int, batch: int = 1, bytes_per_value: float = 2
) -> int:
    """Keys and values of `tokens` places: 2 L K h tokens batch bytes (facts FM12)."""
    values = 2 * config.layers * config.key_heads * config.head_size * tokens * batch
    return int(values * bytes_per_value)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that one training step holds, by cause. An estimate: see `training_memory`."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def training_memory(
    config: ModelConfig,
    tokens: int,
    bytes_per_value: int = 2,
    chunk_tokens: int | None = None,
    recompute: bool = False,
) -> TrainingMemory:
    """Bytes for one micro-batch of `tokens` (rows x length) with AdamW.

    16 bytes a parameter: fp32 weight 4, gradient 4, two moments 8. Activations: what each layer
    keeps for its backward pass (inputs of norms and matrices, q, k, v, attention's output, the
    activation's input and output), `bytes_per_value` each; with `recompute` only each block's
    input. Logits: one chunk in fp32 and in the compute dtype; `chunk_tokens` as in
    `linear_cross_entropy`.
    """
    n = parameter_count(config).total
    d, hidden = config.width, config.hidden_size
    queries, keys = config.heads * config.head_size, config.key_heads * config.head_size
    rotary = queries + keys if config.position == "rotary" else 0
    qk_norm = queries + keys if config.qk_norm else 0
    kept = 4 * d + 2 * queries + 2 * keys + rotary + qk_norm  # norms, their outputs, q k v, mixed
    kept += hidden * (4 if config.gated else 2)
    per_layer = d if recompute else kept
    chunk = (
        tokens
        if chunk_tokens == 0
        else min(tokens, chunk_tokens or default_chunk(config.vocab_size, "cpu"))
    )
    return TrainingMemory(
        weights=4 * n,
        gradients=4 * n,
        optimizer=8 * n,
        activations=tokens * (config.layers * per_layer + 2 * d) * bytes_per_value,
        logits=chunk * config.vocab_size * (4 + bytes_per_value),
    )


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
    weight = getattr(module, "weight", None)
    if weight is not None and not list(module.children()):
        return f"{kind} {' x '.join(str(n) for n in weight.shape)}"
    return kind


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def summary(config: ModelConfig) -> str:
    """The counts of a config in a few lines, for `info` and logs."""
    counts = parameter_count(config)
    attention = f"{config.heads} heads"
    if config.key_heads != config.heads:
        attention += f", {config.key_heads} key/value heads"
    position: str = config.position
    if position == "rotary":
        position += f" (base {config.rotary_base:g})"
    rows = [
        ("shape", f"{config.layers} layers, width {config.width}, {attention}"),
        ("feed-forward", f"{config.feedforward}, width {config.hidden_size}"),
        ("norm", f"{config.norm}, {config.norm_placement}" + (", QK norm" * config.qk_norm)),
        ("position", f"{position}, context {config.context_length:,} tokens"),
        ("vocabulary", f"{config.vocab_size:,} ids, head {'tied' if config.tied else 'untied'}"),
        ("parameters", f"{counts.total:,}"),
        ("  embedding", f"{counts.embedding:,}"),
        ("  attention", f"{counts.attention:,}"),
        ("  feed-forward", f"{counts.feedforward:,}"),
        ("  norm", f"{counts.norm:,}"),
        ("  head", f"{counts.head:,}" + (" (shared)" if config.tied else "")),
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
