"""What a model costs, as arithmetic on its config: FLOPs and bytes.

Nothing here builds a model; the tests build some and compare.
"""

from __future__ import annotations

from dataclasses import dataclass

from langwright.model.config import ModelConfig
from langwright.model.counts import (
    beside_experts,
    expert_size,
    gate_size,
    latent_matrices,
    latent_widths,
    parameter_count,
    smear_size,
)
from langwright.model.losses import default_chunk


def flops_per_token(config: ModelConfig, sequence_length: int, training: bool = True) -> float:
    """FLOPs for one token by the usual rule: 6 N + 12 L d T in training, a third of it forward.

    N is `Counts.non_embedding` without the experts that the token does not visit; d is the width of
    all heads together; attention is counted unmasked, in local layers over the window (Kaplan et
    al. 2020, arXiv:2001.08361; Chowdhery et al. 2022, PaLM, appendix B). Shares of a machine's peak
    are given by this number. `matmul_flops_per_token` counts exactly.
    """
    counts = parameter_count(config)
    seen = sum(_reach(config, layer, sequence_length) for layer in range(config.layers))
    attention = 6 * _score_widths(config) * seen
    return (6 * (counts.non_embedding - counts.resting) + attention) / (1 if training else 3)


def matmul_flops_per_token(
    config: ModelConfig, sequence_length: int, training: bool = True, causal: bool = True
) -> float:
    """FLOPs of the matrix products alone: no biases, norms or lookups; with `causal`, only scores
    that are not masked, (T + 1) / 2 for each token, in local layers less; without, all T. The
    backward pass costs twice the forward."""
    layers = range(config.layers)
    matrices = config.vocab_size * config.width + sum(_matrices(config, i) for i in layers)
    matrices += config.smear * smear_size(config)
    seen = float(config.layers * sequence_length)  # keys that a query meets, all layers together
    if causal:
        reaches = [_reach(config, i, sequence_length) for i in layers]
        seen = sum(_mean_seen(sequence_length, reach) for reach in reaches)
    forward = 2 * matrices + 2 * _score_widths(config) * seen
    return forward * (3 if training else 1)


def _reach(config: ModelConfig, layer: int, length: int) -> int:
    """Tokens that the last of `length` sees in this layer."""
    return min(length, config.window) if config.window and config.is_local(layer) else length


def _mean_seen(length: int, reach: int) -> float:
    """Mean over t = 1 ... length of min(t, reach)."""
    return (reach * (reach + 1) / 2 + (length - reach) * reach) / length


def _score_widths(config: ModelConfig) -> int:
    """Products for one query and one key, all heads: the score's and the weighted value's."""
    if config.latent:
        return config.heads * sum(latent_widths(config, config.latent))
    return config.heads * 2 * config.head_size


def _matrices(config: ModelConfig, layer: int) -> int:
    """Entries of the matrices that one token is multiplied by in this layer."""
    d, h = config.width, config.head_size
    if config.latent:
        count = latent_matrices(config, config.latent)
    else:
        count = 2 * d * config.heads * h + 2 * d * config.key_heads * h
        count += config.has_values(layer) * gate_size(config)
    if config.experts and config.has_experts(layer):
        count += config.experts.chosen * expert_size(config, config.experts)
        return count + beside_experts(config, config.experts)
    return count + (3 if config.gated else 2) * d * config.hidden_size


def weight_bytes(config: ModelConfig, bytes_per_parameter: float = 4) -> int:
    """Bytes of the weights: 4 in fp32, 2 in bf16."""
    return int(parameter_count(config).total * bytes_per_parameter)


def kv_cache_bytes(
    config: ModelConfig, tokens: int, batch: int = 1, bytes_per_value: float = 2
) -> int:
    """Keys and values of `tokens` places: 2 L K h tokens batch bytes (facts FM12).

    A local layer keeps its window only; latent attention keeps kv_rank + rotary_width values of a
    token instead of 2 K h.
    """
    latent = config.latent
    each = 2 * config.key_heads * config.head_size
    if latent:
        each = latent.kv_rank + latent.rotary_width
    places = sum(_reach(config, layer, tokens) for layer in range(config.layers))
    return int(each * places * batch * bytes_per_value)


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

    16 bytes a trained parameter: fp32 weight 4, gradient 4, two moments 8. Activations: what each
    layer keeps for its backward pass (inputs of norms and matrices, q, k, v, attention's output,
    the activation's input and output), `bytes_per_value` each; with `recompute` only each block's
    input. Logits: one chunk in fp32 and in the compute dtype; `chunk_tokens` as in
    `linear_cross_entropy`.
    """
    counts, d = parameter_count(config), config.width
    norms = (6 if config.norm_placement == "sandwich" else 4) * d  # their inputs and outputs
    layers = range(config.layers)
    kept = sum(norms + _kept_attention(config, i) + _kept_feedforward(config, i) for i in layers)
    kept += config.layers * config.residual_scalars * d  # the block's input, once more
    if recompute:
        kept = config.layers * d
    chunk = (
        tokens
        if chunk_tokens == 0
        else min(tokens, chunk_tokens or default_chunk(config.vocab_size, "cpu"))
    )
    return TrainingMemory(
        weights=4 * counts.total,
        gradients=4 * counts.trainable,
        optimizer=8 * counts.trainable,
        activations=tokens * (kept + (2 + config.smear) * d) * bytes_per_value,
        logits=chunk * config.vocab_size * (4 + bytes_per_value),
    )


def _kept_attention(config: ModelConfig, layer: int) -> int:
    """Values for each token that one layer's attention keeps for its backward pass."""
    if config.latent:
        query, value = latent_widths(config, config.latent)
        narrow = 2 * config.latent.kv_rank + 2 * (config.latent.query_rank or 0)
        turned = 2 * (config.heads + 1) * config.latent.rotary_width
        return narrow + turned + config.heads * (2 * query + 2 * value)
    queries, keys = config.heads * config.head_size, config.key_heads * config.head_size
    changes = (config.position == "rotary") + config.qk_norm  # of queries and keys
    values = config.has_values(layer) * (keys + 2 * config.key_heads)  # rows, gates
    return 2 * queries + 2 * keys + changes * (queries + keys) + values


def _kept_feedforward(config: ModelConfig, layer: int) -> int:
    """The same of its feed-forward."""
    e = config.experts
    if e is None or not config.has_experts(layer):
        return config.hidden_size * (4 if config.gated else 2)
    inside = 4 * (e.hidden_width or config.hidden_size) + 2 * config.width  # of one expert
    return e.chosen * inside + 4 * e.shared_width + 3 * e.count
