"""The description of a transformer: every choice that its shape and arithmetic depend on."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from langwright.base import Config
from langwright.model.contradictions import contradictions

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu", "geglu_tanh"]
Position = Literal["learned", "sinusoidal", "rotary", "relative", "alibi", "none"]
Placement = Literal["pre", "post", "output", "sandwich"]
Reach = Literal["global", "local"]

GATE_CHANNELS = 12  # of attention's input that a value embedding's gates look at
SMEAR_CHANNELS = 24  # of a token's vector that the smear's gate looks at
UNEXPORTED = ("residual_scalars", "value_embeddings", "smear", "backout")


class RotaryScaling(Config):
    """How rotary angles are changed so that a model reads more than it was trained on."""

    kind: Literal["linear", "ntk", "yarn", "llama3", "longrope"] = Field(description="the method")
    factor: float = Field(1.0, description="new length / original length", ge=1.0, le=1e6)
    original_context: int | None = Field(
        None, description="tokens seen at once before; default the model's context_length", ge=1
    )
    low_frequency: float = Field(1.0, description="llama3: waves longer are divided", gt=0.0)
    high_frequency: float = Field(4.0, description="llama3: waves shorter are kept", gt=0.0)
    beta_fast: float = Field(32.0, description="yarn: turns above which a wave is kept", gt=0.0)
    beta_slow: float = Field(1.0, description="yarn: turns below which it is divided", gt=0.0)
    truncate: bool = Field(True, description="yarn: round the borders to whole pairs")
    attention_factor: float | None = Field(
        None, description="yarn, longrope: scale of cosine and sine; default from the factor", gt=0
    )
    mscale: float | None = Field(
        None, description="yarn, DeepSeek's form of attention_factor", ge=0
    )
    mscale_all: float | None = Field(None, description="yarn, DeepSeek's divisor of mscale", ge=0)
    short_factors: tuple[float, ...] | None = Field(
        None, description="longrope: divisor of each pair's angle up to original_context"
    )
    long_factors: tuple[float, ...] | None = Field(
        None, description="longrope: divisor of each pair's angle beyond original_context"
    )


class Experts(Config):
    """A mixture of feed-forwards: each token is sent to a few of many (Shazeer et al. 2017)."""

    count: int = Field(8, description="number of experts E", ge=1, le=4096)
    chosen: int = Field(2, description="experts per token k", ge=1, le=256)
    hidden_width: int | None = Field(
        None, description="width inside one expert; default the model's hidden width", ge=1
    )
    shared_width: int = Field(
        0, description="width of the feed-forward that every token visits; 0: none", ge=0
    )
    shared_gate: bool = Field(False, description="the shared one is weighted by sigmoid(x w)")
    scores: Literal["softmax", "sigmoid"] = Field("softmax", description="router's scores")
    normalise: bool = Field(True, description="the chosen experts' weights are made to sum to 1")
    weight_scale: float = Field(1.0, description="factor on the chosen experts' weights", gt=0.0)
    selection_bias: bool = Field(
        False, description="a bias per expert for choosing only (DeepSeek-V3's balance)"
    )
    groups: int = Field(1, description="experts stand in this many groups", ge=1)
    groups_chosen: int = Field(1, description="a token chooses among this many groups", ge=1)
    balance_loss: float = Field(
        0.0, description="weight of the load-balance loss (Fedus et al. 2021, eq. 4)", ge=0.0
    )
    router_z_loss: float = Field(
        0.0, description="weight of the mean squared logsumexp of the router", ge=0.0
    )


class Latent(Config):
    """Multi-head latent attention: keys and values pass through a narrow vector, which is all
    that the cache need keep (DeepSeek-AI 2024, arXiv:2405.04434, section 2.1)."""

    kv_rank: int = Field(512, description="width of the latent vector", ge=1, le=2**16)
    query_rank: int | None = Field(None, description="queries pass through this width too", ge=1)
    rotary_width: int = Field(64, description="rotary part of a head, shared by keys", ge=2)
    value_width: int | None = Field(
        None, description="width of one head's values; default the head width", ge=1
    )


class ModelConfig(Config):
    """One decoder-only transformer. GPT-2, Llama, Qwen, Gemma ... are values of this config."""

    vocab_size: int = Field(description="number of token ids V", ge=1, le=2**24)
    context_length: int = Field(1024, description="tokens seen at once", ge=1, le=2**24)
    width: int = Field(384, description="width D of the residual stream", ge=1, le=2**17)
    layers: int = Field(6, description="number of blocks", ge=1, le=1024)

    heads: int = Field(6, description="query heads H", ge=1, le=4096)
    kv_heads: int | None = Field(
        None,
        description="key/value heads K: equal to heads (MHA, default), fewer (GQA), 1 (MQA)",
        ge=1,
    )
    head_width: int | None = Field(
        None, description="width of one head; default width / heads", ge=1, le=2**14
    )
    latent: Latent | None = Field(
        None, description="multi-head latent attention; head_width is then the part without rotary"
    )
    qk_norm: bool = Field(False, description="normalise queries and keys (RMS)")
    qk_norm_over: Literal["head", "all"] = Field(
        "head", description="each head by itself (Qwen3, Gemma 3), or all heads together (OLMo 2)"
    )
    qkv_bias: bool = Field(False, description="bias on the query, key and value projections")
    attention_out_bias: bool = Field(False, description="bias on attention's output projection")
    attention_scale: float | None = Field(
        None, description="factor on the scores; default 1 / sqrt(head width)", gt=0.0
    )
    attention_softcap: float | None = Field(
        None, description="scores become cap tanh(score / cap) (Gemma 2)", gt=0.0
    )
    attention_sinks: bool = Field(
        False, description="a learned logit per head that takes weight and gives nothing"
    )
    window: int | None = Field(
        None, description="local layers see this many tokens, themselves included", ge=1
    )
    reach: tuple[Reach, ...] | None = Field(
        None,
        description="which layers are local, repeated over the depth: ['local', 'global']; "
        "default: all local if window is set, else all global",
        min_length=1,
        max_length=1024,
    )

    feedforward: Activation = Field("swiglu", description="activation; the -glu ones are gated")
    hidden_width: int | None = Field(
        None,
        description="feed-forward width; default 4 x width, gated 8/3, up to a multiple of 64",
        ge=1,
        le=2**20,
    )
    feedforward_bias: bool = Field(False, description="bias on the feed-forward matrices")
    experts: Experts | None = Field(None, description="mixture of experts; default: none")
    expert_layers: tuple[bool, ...] | None = Field(
        None,
        description="which layers have experts, repeated over the depth; default: all",
        min_length=1,
        max_length=1024,
    )

    position: Position = Field("rotary", description="how a token's place enters the model")
    rotary_base: float = Field(10_000.0, description="base of the rotary wavelengths", gt=1.0)
    rotary_share: float = Field(
        1.0, description="share of each head that is turned, its first part", gt=0.0, le=1.0
    )
    rotary_interleaved: bool = Field(
        False, description="pairs are neighbours (x[2i], x[2i+1]) instead of (x[i], x[i + h/2])"
    )
    rotary_scaling: RotaryScaling | None = Field(None, description="for longer contexts")
    rotary_base_local: float | None = Field(
        None, description="base in local layers, which then have no scaling (Gemma 3)", gt=1.0
    )
    rotary_layers: tuple[bool, ...] | None = Field(
        None,
        description="which layers turn, the others have no position (NoPE), repeated over the "
        "depth: [true, true, true, false] is SmolLM3; default: all",
        min_length=1,
        max_length=1024,
    )
    relative_buckets: int = Field(
        32, description="relative: distances told apart (T5's buckets)", ge=2, le=4096
    )
    relative_distance: int = Field(
        128, description="relative: distances from here on share one bucket", ge=2, le=2**20
    )

    norm: Literal["layernorm", "rmsnorm"] = Field("rmsnorm", description="kind of normalisation")
    norm_placement: Placement = Field(
        "pre",
        description="pre: of each branch's input; output: of its output; sandwich: of both; "
        "post: after each addition, without a final norm",
    )
    norm_eps: float = Field(1e-5, description="epsilon inside the norm's root", gt=0.0, le=1.0)
    norm_affine: bool = Field(True, description="norms have a trainable scale")
    norm_bias: bool = Field(False, description="LayerNorm has a trainable shift")
    norm_offset: bool = Field(
        False, description="RMSNorm's scale is 1 + weight, the weight starting at 0 (Gemma)"
    )
    parallel: bool = Field(
        False, description="attention and feed-forward side by side on the same input (GPT-NeoX)"
    )

    tied: bool = Field(True, description="the head shares the token embedding's matrix")
    head_bias: bool = Field(False, description="bias on the head")
    embedding_scale: float | None = Field(
        None, description="factor on token embeddings; Gemma: sqrt(width)", gt=0.0
    )
    embedding_norm: bool = Field(False, description="a norm right after the embeddings")
    logit_softcap: float | None = Field(
        None, description="logits become cap tanh(logit / cap)", gt=0.0
    )

    # For the most speed in training; no format of other software holds them.
    residual_scalars: bool = Field(
        False, description="each block takes in stream x + skip x0, two trained factors"
    )
    value_embeddings: bool = Field(
        False, description="a second token table added to the values, in every other layer"
    )
    smear: bool = Field(False, description="embeddings take in some of the token before")
    backout: bool = Field(
        False, description="before the final norm some of the stream of the middle is taken out"
    )

    dropout_embedding: float = Field(0.0, description="dropout after the embedding", ge=0.0, lt=1.0)
    dropout_attention: float = Field(
        0.0, description="dropout on the attention weights", ge=0.0, lt=1.0
    )
    dropout_residual: float = Field(
        0.0, description="dropout on each branch before it is added", ge=0.0, lt=1.0
    )

    init: Literal["gpt2", "modern"] = Field("gpt2", description="how parameters start; see init.py")
    init_std: float | None = Field(
        None,
        description="standard deviation: gpt2 of all matrices (0.02); modern of the embeddings",
        gt=0.0,
        le=10.0,
    )

    def is_local(self, layer: int) -> bool:
        """Whether this layer sees only the last `window` tokens."""
        if self.reach is None:
            return self.window is not None
        return self.reach[layer % len(self.reach)] == "local"

    def turns(self, layer: int) -> bool:
        """Whether this layer turns queries and keys (rotary)."""
        if self.position != "rotary":
            return False
        return self.rotary_layers is None or self.rotary_layers[layer % len(self.rotary_layers)]

    def has_experts(self, layer: int) -> bool:
        """Whether this layer's feed-forward is a mixture of experts."""
        if self.experts is None:
            return False
        return self.expert_layers is None or self.expert_layers[layer % len(self.expert_layers)]

    def has_values(self, layer: int) -> bool:
        """Whether this layer has a value embedding: every other one, the last among them."""
        return self.value_embeddings and (self.layers - 1 - layer) % 2 == 0

    @property
    def unexported(self) -> tuple[str, ...]:
        """Which options are on that no format of other software can hold."""
        return tuple(name for name in UNEXPORTED if getattr(self, name))

    @property
    def rotary_width(self) -> int:
        """Width of the part of each head that rotary position turns; even."""
        if self.latent:
            return self.latent.rotary_width
        return int(self.head_size * self.rotary_share)

    @property
    def key_heads(self) -> int:
        """K: key/value heads; each serves heads / K query heads."""
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.head_width or self.width // self.heads

    @property
    def gated(self) -> bool:
        """True for feed-forwards with a gate matrix (GLU variants)."""
        return self.feedforward.endswith("glu") or self.feedforward == "geglu_tanh"

    @property
    def hidden_size(self) -> int:
        """Width inside the feed-forward.

        A gated one has three matrices instead of two, so 8/3 of the width keeps the parameters of
        a plain one of 4 widths (Shazeer 2020, arXiv:2002.05202).
        """
        if self.hidden_width:
            return self.hidden_width
        return -(-8 * self.width // (3 * 64)) * 64 if self.gated else 4 * self.width

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        for broken, message in contradictions(self):
            if broken:
                raise PydanticCustomError("fields_disagree", "{why}", {"why": message})
        return self
