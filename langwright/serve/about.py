"""What the server tells of its model and of itself: models, tokens, health, metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from langwright.base import UserError
from langwright.serve.conversation import plain_messages
from langwright.serve.errors import ApiError
from langwright.serve.limits import check_count, read_body
from langwright.serve.metrics import CONTENT_TYPE
from langwright.serve.openai_types import DetokenizeBody, TokenizeBody
from langwright.serve.prompts import check_ids, encode_text
from langwright.serve.replies import (
    DetokenizeReply,
    Health,
    ModelCard,
    ModelList,
    Reply,
    TokenizeReply,
    TokenizerInfo,
)
from langwright.serve.server import Server


async def models(request: Request) -> Response:
    """The one model there is."""
    return _reply(ModelList(object="list", data=[_card(_server(request))]))


async def model(request: Request) -> Response:
    """The same, by its name."""
    server = _server(request)
    server.check_model(request.path_params["model"])
    return _reply(_card(server))


async def tokenize(request: Request) -> Response:
    """Ids of a text, or of a conversation."""
    server = _server(request)
    body = await read_body(request, TokenizeBody, server.config)
    server.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give one of prompt and messages")
    check_count(body.messages, server.config.max_messages, "messages")

    def encode() -> list[int]:
        tokenizer = server.tokenizer
        if body.prompt is not None:
            special = body.parse_special is not False
            begin = body.add_special_tokens is not False
            return encode_text(server, body.prompt, special=special, begin=begin)
        turns = plain_messages(body.messages or [], [])
        try:
            answer = body.add_generation_prompt is not False
            return tokenizer.encode_chat(turns, add_generation_prompt=answer).ids
        except UserError as error:
            raise ApiError(400, error.message, param="messages") from None

    ids = await server.bounded(request.state.key, encode)
    reply = TokenizeReply(count=len(ids), max_model_len=server.context, tokens=ids)
    if body.return_token_strs:
        reply.token_strs = [server.texts.unique(token) for token in ids]
    return _reply(reply)


async def detokenize(request: Request) -> Response:
    """The text of ids, special tokens by their names."""
    server = _server(request)
    body = await read_body(request, DetokenizeBody, server.config)
    server.check_model(body.model)
    ids = check_ids(server, body.tokens, "tokens")
    text = await server.bounded(request.state.key, lambda: server.tokenizer.decode(ids))
    return _reply(DetokenizeReply(prompt=text))


async def tokenizer_info(request: Request) -> Response:
    """What a client needs to know of the vocabulary and the chat template."""
    server = _server(request)
    tokenizer = server.tokenizer
    specials = tokenizer.specials
    named = {specials.bos, specials.eos, specials.pad, specials.unknown}
    return _reply(
        TokenizerInfo(
            tokenizer_class=type(tokenizer).__name__,
            vocab_size=tokenizer.vocab_size,
            model_max_length=server.context,
            bos_token=specials.bos,
            eos_token=specials.eos,
            pad_token=specials.pad,
            unk_token=specials.unknown,
            additional_special_tokens=[one for one in tokenizer.special_tokens if one not in named],
            chat_template=tokenizer.chat_template,
        )
    )


async def health(request: Request) -> Response:
    """200 while the engine works; 503 when it was given up or hangs."""
    server = _server(request)
    if server.thread.dead is not None:
        return _reply(Health(status="the engine has ended"), 503)
    if server.thread.step_seconds > server.config.stuck_seconds:
        return _reply(Health(status="the engine hangs"), 503)
    return _reply(Health(status="ok"))


async def ready(request: Request) -> Response:
    """200 while requests are taken; 503 when the server is about to end."""
    server = _server(request)
    if server.admission.draining or server.thread.dead is not None:
        return _reply(Health(status="draining"), 503)
    return _reply(Health(status="ready"))


async def metrics(request: Request) -> Response:
    """For Prometheus."""
    server = _server(request)
    gauges = {
        "open_answers": float(server.admission.answers),
        "waiting_prompt_tokens": float(server.admission.waiting_tokens),
        "ready": float(not server.admission.draining and server.thread.dead is None),
    }
    text = server.metrics.text(server.engine.stats(), gauges)
    return Response(text, media_type=CONTENT_TYPE)


def _server(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


def _card(server: Server) -> ModelCard:
    return ModelCard(
        id=server.config.name,
        object="model",
        created=server.created,
        owned_by="langwright",
        max_model_len=server.context,
    )


def _reply(reply: Reply, status: int = 200) -> Response:
    return Response(reply.json_bytes(), status, media_type="application/json")
