"""The description of a transformer: every choice that its shape and arithmetic depend on."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from langwright.base import Config

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu"]
Position = Literal["learned", "sinusoidal", "rotary", "none"]


class ModelConfig(Config):
    """One decoder-only transformer. GPT-2, Llama and Qwen3 are values of this config."""

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
    qk_norm: bool = Field(False, description="normalise queries and keys per head (RMS)")
    qkv_bias: bool = Field(False, description="bias on the query, key and value projections")
    attention_out_bias: bool = Field(False, description="bias on attention's output projection")

    feedforward: Activation = Field("swiglu", description="activation; swiglu and geglu are gated")
    hidden_width: int | None = Field(
        None,
        description="feed-forward width; default 4 x width, gated 8/3, up to a multiple of 64",
        ge=1,
        le=2**20,
    )
    feedforward_bias: bool = Field(False, description="bias on the feed-forward matrices")

    position: Position = Field("rotary", description="how a token's place enters the model")
    rotary_base: float = Field(10_000.0, description="base of the rotary wavelengths", gt=1.0)

    norm: Literal["layernorm", "rmsnorm"] = Field("rmsnorm", description="kind of normalisation")
    norm_placement: Literal["pre", "post"] = Field(
        "pre", description="pre: inside the branch, with a final norm; post: after each addition"
    )
    norm_eps: float = Field(1e-5, description="epsilon inside the norm's root", gt=0.0, le=1.0)
    norm_affine: bool = Field(True, description="norms have a trainable scale")
    norm_bias: bool = Field(False, description="LayerNorm has a trainable shift")

    tied: bool = Field(True, description="the head shares the token embedding's matrix")

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
        return self.feedforward in ("swiglu", "geglu")

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
        for broken, message in (
            (
                self.heads % self.key_heads,
                f"heads ({self.heads}) must be a multiple of kv_heads ({self.key_heads})",
            ),
            (
                self.head_width is None and self.width % self.heads,
                f"width ({self.width}) must be a multiple of heads ({self.heads}), "
                "or head_width must be set",
            ),
            (
                self.position == "rotary" and self.head_size % 2,
                f"rotary position turns pairs: head_width ({self.head_size}) must be even",
            ),
            (
                self.position == "sinusoidal" and self.width % 2,
                f"sinusoidal position needs an even width (found {self.width})",
            ),
            (
                self.norm_bias and self.norm == "rmsnorm",
                "norm_bias needs norm = 'layernorm': RMSNorm has no shift",
            ),
            (
                self.norm_bias and not self.norm_affine,
                "norm_bias needs norm_affine: a norm without scale has no shift either",
            ),
        ):
            if broken:
                raise PydanticCustomError("fields_disagree", "{why}", {"why": message})
        return self
