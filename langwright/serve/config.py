"""Settings of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from langwright.base import Config

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ServeConfig(Config):
    """Where the server listens, who may use it and how much they may ask."""

    name: str = Field(default="langwright", min_length=1, description="the model's name in the API")
    host: str = Field(
        default="127.0.0.1", description="address to listen on; others than loopback need keys"
    )
    port: int = Field(default=8000, ge=0, le=65535, description="port; 0 = any that is free")
    api_keys: Path | None = Field(
        default=None, description="file of API keys, one in a line; # begins a comment"
    )
    without_keys: bool = Field(
        default=False, description="serve other machines without keys: anybody may use it"
    )
    origins: tuple[str, ...] = Field(
        default=(), description="other sites whose pages may call, as https://example.org"
    )
    hosts: tuple[str, ...] = Field(
        default=(), description="names under which the server is reached, beside loopback's"
    )
    reasoning: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="keep the text between <think> and </think> apart; auto = if the model's "
        "template or vocabulary knows <think>",
    )
    pooling: Literal["mean", "last"] = Field(
        default="mean", description="how /v1/embeddings makes one vector of a text's vectors"
    )

    body_bytes: int = Field(default=2_000_000, ge=1, description="most bytes of a request's body")
    body_seconds: float = Field(
        default=30.0, gt=0, description="time to send a request's head, and its body, seconds"
    )
    idle_seconds: float = Field(
        default=120.0,
        ge=1,
        description="a quiet connection is closed after so many seconds; more than its clients "
        "keep it, or their next request may meet the end",
    )
    connections: int = Field(default=1024, ge=1, description="most connections at a time")
    send_seconds: float = Field(
        default=60.0, gt=0, description="time in which a client must take a piece, seconds"
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="most tokens of an answer; none = what the context leaves"
    )
    max_prompts: int = Field(default=128, ge=1, description="most prompts or inputs in a request")
    max_answers: int = Field(
        default=16, ge=1, description="highest n and best_of, most beams and candidates of a search"
    )
    max_stops: int = Field(default=16, ge=1, description="most stop strings, ids and bad words")
    max_stop_bytes: int = Field(default=256, ge=1, description="most bytes of each of them")
    max_logprobs: int = Field(default=20, ge=0, description="most alternatives of each token")
    max_biases: int = Field(default=1024, ge=0, description="most entries of logit_bias")
    max_form_bytes: int = Field(
        default=20_000, ge=1, description="most bytes of a schema, regular expression or grammar"
    )
    max_form_depth: int = Field(default=32, ge=1, description="deepest nesting of a schema")
    max_tools: int = Field(default=64, ge=1, description="most tools of a request")
    max_messages: int = Field(default=1024, ge=1, description="most messages of a conversation")

    queue_requests: int = Field(
        default=64, ge=0, description="most answers that wait beyond those being written"
    )
    queue_tokens: int = Field(
        default=262_144, ge=1, description="most tokens of prompts that wait to be read"
    )
    key_requests: int | None = Field(
        default=None, ge=1, description="most answers that one key has at a time; none = no limit"
    )
    first_token_seconds: float = Field(
        default=120.0, gt=0, description="longest wait for the first token, seconds"
    )
    total_seconds: float = Field(
        default=600.0, gt=0, description="an answer is cut after so many seconds"
    )
    ping_seconds: float = Field(
        default=15.0, gt=0, description="a stream that is silent so long gets a comment, seconds"
    )
    drain_seconds: float = Field(
        default=30.0, ge=0, description="after SIGTERM, answers are cut after so many seconds"
    )
    stuck_seconds: float = Field(
        default=120.0, gt=0, description="/health is bad while a step takes longer, seconds"
    )

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.host not in LOOPBACK and self.api_keys is None and not self.without_keys:
            raise ValueError(
                f"host {self.host} can be reached by other machines: give a file of API keys "
                "(api_keys), or set without_keys if anybody may use it"
            )
        return self
