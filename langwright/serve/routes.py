"""The routes: paths, what they take and what they give."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from langwright.serve import about, chat, completions, embeddings, replies
from langwright.serve import openai_types as bodies

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class RouteInfo:
    """One route, for the app and for its description."""

    method: str
    path: str  # as OpenAPI writes it
    handler: Handler
    summary: str
    reply: type[BaseModel] | None  # none: plain text
    body: type[BaseModel] | None = None
    chunk: type[BaseModel] | None = None  # what a stream is made of
    errors: tuple[int, ...] = ()

    @property
    def starlette_path(self) -> str:
        """Names of models may hold slashes."""
        return self.path.replace("{model}", "{model:path}")


WORK = (400, 408, 413, 429, 500, 503)
ROUTES = (
    RouteInfo("GET", "/v1/models", about.models, "The models", replies.ModelList),
    RouteInfo(
        "GET", "/v1/models/{model}", about.model, "One model", replies.ModelCard, errors=(404,)
    ),
    RouteInfo(
        "POST",
        "/v1/chat/completions",
        chat.chat_completions,
        "The assistant's turn of a conversation",
        replies.ChatReply,
        body=bodies.ChatBody,
        chunk=replies.ChatChunk,
        errors=(404, *WORK),
    ),
    RouteInfo(
        "POST",
        "/v1/completions",
        completions.completions,
        "Continue a text",
        replies.CompletionReply,
        body=bodies.CompletionBody,
        chunk=replies.CompletionReply,
        errors=(404, *WORK),
    ),
    RouteInfo(
        "POST",
        "/v1/embeddings",
        embeddings.embeddings,
        "A text as a vector",
        replies.EmbeddingsReply,
        body=bodies.EmbeddingsBody,
        errors=(404, *WORK),
    ),
    RouteInfo(
        "POST",
        "/tokenize",
        about.tokenize,
        "Ids of a text",
        replies.TokenizeReply,
        body=bodies.TokenizeBody,
        errors=(400, 404, 408, 413, 429, 503),
    ),
    RouteInfo(
        "POST",
        "/detokenize",
        about.detokenize,
        "Text of ids",
        replies.DetokenizeReply,
        body=bodies.DetokenizeBody,
        errors=(400, 404, 408, 413, 429, 503),
    ),
    RouteInfo(
        "GET", "/tokenizer_info", about.tokenizer_info, "The vocabulary", replies.TokenizerInfo
    ),
    RouteInfo("GET", "/health", about.health, "Whether it works", replies.Health, errors=(503,)),
    RouteInfo(
        "GET", "/ready", about.ready, "Whether it takes requests", replies.Health, errors=(503,)
    ),
    RouteInfo("GET", "/metrics", about.metrics, "Counts for Prometheus", None),
)
