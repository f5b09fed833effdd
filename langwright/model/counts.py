"""How many parameters a config has, as arithmetic: nothing here builds a model."""

from __future__ import annotations

from dataclasses import dataclass

from langwright.model.config import GATE_CHANNELS, SMEAR_CHANNELS, Experts, Latent, ModelConfig


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters. `total` is the sum of the parts; a tied head is 0."""

    embedding: int  # token table V D, plus learned positions C D and value tables V K h
    positions: int  # the learned positions' part of `embedding`
    values: int  # the value tables' part of `embedding`, all layers
    attention: int  # all layers, with QK norms and the gates of value embeddings
    feedforward: int  # all layers, with experts and routers
    norm: int  # all block norms, the final one and the embeddings'
    mixing: int  # residual scalars, smear and backout
    head: int  # V D, or 0 where tied; plus V with a bias
    trainable: int  # all but the routers' selection biases
    resting: int  # parameters of experts that one token does not visit, all layers
    tied_table: int  # V D where the head shares the token table, else 0

    @property
    def total(self) -> int:
        """All parameters, each shared one once."""
        blocks = self.attention + self.feedforward + self.norm
        return self.embedding + blocks + self.mixing + self.head

    @property
    def active(self) -> int:
        """Parameters that one token goes through: all, or less with a mixture of experts."""
        return self.total - self.resting

    @property
    def non_embedding(self) -> int:
        """Parameters that multiply activations: all but the lookup tables. A tied table is used as
        the head too, and counts (as nanoGPT counts: total less positions)."""
        return self.total - self.embedding + self.tied_table


def parameter_count(config: ModelConfig) -> Counts:
    """Count by part. For GPT-2's shape: attention 4d^2 + d (+3d with qkv bias), feed-forward
    8d^2 + 5d, two norms 4d for each layer (facts FM13)."""
    d, layers = config.width, config.layers
    norm_width = (int(config.norm_affine) + int(config.norm_bias)) * d
    norms = layers * (4 if config.norm_placement == "sandwich" else 2)
    norms += (config.norm_placement != "post") + config.embedding_norm

    e, with_experts = config.experts, sum(config.has_experts(i) for i in range(layers))
    feedforward = (layers - with_experts) * _feedforward(config)
    resting = selection = 0
    if e is not None:
        expert = expert_size(config, e)
        selection = with_experts * e.selection_bias * e.count
        feedforward += with_experts * (e.count * expert + beside_experts(config, e)) + selection
        resting = with_experts * (e.count - e.chosen) * expert

    positions = config.context_length * d if config.position == "learned" else 0
    table = config.vocab_size * d
    attention = _latent(config, config.latent) if config.latent else _attention(config)
    with_values = sum(config.has_values(i) for i in range(layers))
    values = with_values * config.vocab_size * config.key_heads * config.head_size
    parts = {
        "embedding": table + positions + values,
        "attention": layers * attention + with_values * gate_size(config),
        "feedforward": feedforward,
        "norm": norms * norm_width,
        "mixing": _mixing(config),
        "head": (0 if config.tied else table) + config.head_bias * config.vocab_size,
    }
    return Counts(
        **parts,
        positions=positions,
        values=values,
        trainable=sum(parts.values()) - selection,
        resting=resting,
        tied_table=table if config.tied else 0,
    )


def _attention(config: ModelConfig) -> int:
    """Parameters of one layer's attention."""
    d, h = config.width, config.head_size
    queries, keys = config.heads * h, config.key_heads * h
    count = d * queries + 2 * d * keys + queries * d
    count += config.qkv_bias * (queries + 2 * keys) + config.attention_out_bias * d
    normed = queries + keys if config.qk_norm_over == "all" else 2 * h
    count += config.qk_norm * config.norm_affine * normed
    count += config.attention_sinks * config.heads
    return count + (config.position == "relative") * config.relative_buckets * config.heads


def gate_size(config: ModelConfig) -> int:
    """Parameters of the gates of one layer's value embedding."""
    return min(GATE_CHANNELS, config.width) * config.key_heads


def smear_size(config: ModelConfig) -> int:
    """Parameters of the smear's gate."""
    return min(SMEAR_CHANNELS, config.width)


def _mixing(config: ModelConfig) -> int:
    """Two factors for each layer, the smear's gate and factor, the backout's factor."""
    smear = config.smear * (smear_size(config) + 1)
    return 2 * config.layers * config.residual_scalars + smear + config.backout


def _latent(config: ModelConfig, latent: Latent) -> int:
    """Parameters of one layer's latent attention: matrices, norms of the latent vectors, biases."""
    query_rank = latent.query_rank or 0
    count = latent_matrices(config, latent)
    count += config.norm_affine * (latent.kv_rank + query_rank)
    count += config.qkv_bias * (query_rank + latent.kv_rank + latent.rotary_width)
    return count + config.attention_out_bias * config.width + config.attention_sinks * config.heads


def latent_matrices(config: ModelConfig, latent: Latent) -> int:
    """Parameters of the matrices: q (or q_down and q_up), kv_down, kv_up, out."""
    d, heads = config.width, config.heads
    query, value = latent_widths(config, latent)
    count = d * heads * query
    if latent.query_rank:
        count = d * latent.query_rank + latent.query_rank * heads * query
    count += d * (latent.kv_rank + latent.rotary_width)
    return count + latent.kv_rank * heads * (config.head_size + value) + heads * value * d


def latent_widths(config: ModelConfig, latent: Latent) -> tuple[int, int]:
    """Widths of one head in latent attention: of queries and keys, and of values."""
    return config.head_size + latent.rotary_width, latent.value_width or config.head_size


def _feedforward(config: ModelConfig) -> int:
    """Parameters of one layer's feed-forward without experts."""
    inputs, hidden = (2 if config.gated else 1), config.hidden_size
    biases = config.feedforward_bias * (inputs * hidden + config.width)
    return (inputs + 1) * config.width * hidden + biases


def expert_size(config: ModelConfig, experts: Experts) -> int:
    """Parameters of one expert: gate, up and down."""
    return 3 * config.width * (experts.hidden_width or config.hidden_size)


def beside_experts(config: ModelConfig, experts: Experts) -> int:
    """Parameters of matrices that every token meets in a layer with experts: the router, the shared
    feed-forward and its gate."""
    return config.width * (experts.count + 3 * experts.shared_width + experts.shared_gate)
