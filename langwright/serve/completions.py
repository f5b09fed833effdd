"""/v1/completions: a text goes on.

With `echo` and `logprobs` the prompt's own log-probabilities are given, which is what lm-eval's
local-completions asks for.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence

from starlette.requests import Request
from starlette.responses import Response

from langwright.generate import Completion, Event, SamplingParams, TokenLogprobs, score_tokens
from langwright.serve.errors import ApiError
from langwright.serve.generation import Generation
from langwright.serve.limits import check_count, check_number, read_body
from langwright.serve.openai_types import CompletionBody
from langwright.serve.prompts import as_prompts, encode_prompts, with_negative
from langwright.serve.replies import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionReply,
    Finish,
    Reply,
)
from langwright.serve.sampling import constraint_of, named_as_sent, sampling_params, token_limit
from langwright.serve.server import Server
from langwright.serve.stream import respond
from langwright.serve.token_texts import TokenTexts, finite

DEFAULT_TOKENS = 16


async def completions(request: Request) -> Response:
    """Answer a request."""
    server: Server = request.app.state.server
    body = await read_body(request, CompletionBody, server.config)
    work = _Completions(server, body, request.state.key)
    return await respond(request, work, body.stream, server.config)


class _Completions:
    """One request."""

    def __init__(self, server: Server, body: CompletionBody, key: str) -> None:
        server.check_model(body.model)
        self._server, self._body = server, body
        self._prompts = as_prompts(body.prompt, "prompt")
        check_count(self._prompts, server.config.max_prompts, "prompt")
        check_number(body.logprobs, server.config.max_logprobs, "logprobs")
        self._params = self._settings()
        self._n = body.n or 1
        self._asked = body.max_tokens
        self.generation = Generation(server, "completions", key)
        self._ids: list[list[int]] = []
        self._scores: list[list[TokenLogprobs | None]] = []
        self._name = "cmpl-" + secrets.token_hex(12)
        self._created = int(time.time())

    def _settings(self) -> SamplingParams:
        body, config = self._body, self._server.config
        if body.suffix:
            raise ApiError(400, "suffix: this model cannot fill gaps", param="suffix")
        best_of, n = body.best_of, body.n or 1
        if best_of is not None and best_of < n:
            raise ApiError(400, "best_of must be at least n", param="best_of")
        if body.stream and best_of is not None and best_of > n:
            raise ApiError(400, "best_of chooses at the end: not with stream", param="best_of")
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options needs stream", param="stream_options")
        if body.max_tokens == 0 and not body.echo:
            raise ApiError(400, "max_tokens 0 gives nothing without echo", param="max_tokens")
        limit = token_limit(body.max_tokens, DEFAULT_TOKENS, config, self._server.context)
        return sampling_params(
            body,
            config,
            max_tokens=max(1, limit),
            logprobs=body.logprobs,
            best_of=best_of,
            constraint=constraint_of(body, config),
        )

    async def start(self) -> None:
        """Hand the prompts to the engine; score them where that is asked."""
        texts = self._params.rows * len(self._prompts)

        def prepare() -> list[tuple[list[int], SamplingParams | None]]:
            special = bool(self._body.parse_special)
            self._ids = encode_prompts(self._server, self._prompts, "prompt", special=special)
            params = None if self._asked == 0 else with_negative(self._server, self._params)
            return [(ids, params) for ids in self._ids]

        with named_as_sent(self._body):
            await self.generation.start(texts, prepare)
        if self._body.echo and self._body.logprobs is not None:
            with self.generation.failing():
                for ids in self._ids:
                    self._scores.append(await self._score(ids, self._body.logprobs))

    async def whole(self) -> Response:
        """The answer in one piece."""
        await self.start()
        with self.generation.closing():
            async for _ in self.generation.events():
                pass
            reply = self._reply(self._choices(), usage=True)
        return Response(reply.json_bytes(), media_type="application/json")

    def _choices(self) -> list[CompletionChoice]:
        choices: list[CompletionChoice] = []
        for number, ids in enumerate(self._ids):
            if self._asked == 0:
                answers: list[Completion] = [Completion() for _ in range(self._n)]
            else:
                answers = self.generation.stream.requests[number].result().answers
            for answer in answers:
                piece = _Piece(self._server.texts)
                self._echo(piece, number, ids)
                piece.add_answer(answer)
                choices.append(self._choice(len(choices), piece, answer.finish_reason))
        return choices

    async def chunks(self) -> AsyncIterator[bytes]:
        """The answer as it comes; a choice's first piece begins with the echo."""
        begun: set[int] = set()
        places: dict[int, _Piece] = {}
        if self._asked == 0:
            for choice in self._choices():
                yield self._reply([choice]).json_bytes()
        async for number, event in self.generation.events():
            index = number * self._n + event.index
            piece = places.setdefault(index, _Piece(self._server.texts))
            if index not in begun:
                begun.add(index)
                self._echo(piece, number, self._ids[number])
            piece.add_event(event)
            if piece.text or event.finish_reason is not None:
                finish = _finish(event)
                yield self._reply([self._choice(index, piece, finish)]).json_bytes()
                places[index] = _Piece(self._server.texts, piece.offset)
        options = self._body.stream_options
        if options is not None and options.include_usage:
            yield self._reply([], usage=True).json_bytes()

    def _echo(self, piece: _Piece, number: int, ids: Sequence[int]) -> None:
        if not self._body.echo:
            return
        prompt = self._prompts[number]
        text = prompt if isinstance(prompt, str) else self._server.tokenizer.decode(ids)
        scores = self._scores[number] if self._scores else []
        piece.add_prompt(text, ids, scores)

    def _choice(self, index: int, piece: _Piece, finish: Finish | None) -> CompletionChoice:
        wanted = self._body.logprobs
        return CompletionChoice(
            index=index,
            text=piece.text,
            logprobs=None if wanted is None else piece.logprobs(wanted),
            finish_reason=finish,
        )

    def _reply(self, choices: list[CompletionChoice], usage: bool = False) -> Reply:
        reply = CompletionReply(
            id=self._name,
            object="text_completion",
            created=self._created,
            model=self._server.config.name,
            system_fingerprint=self._server.fingerprint,
            choices=choices,
        )
        if usage:
            reply.usage = self.generation.usage()
        return reply

    async def _score(self, ids: Sequence[int], top: int) -> list[TokenLogprobs | None]:
        model = self._server.engine.model
        if not ids:
            return []
        return await self.generation.read(lambda: score_tokens(model, ids, top))


class _Piece:
    """Text and log-probabilities of a stretch of one choice.

    offset: characters of the choice before it.
    """

    def __init__(self, texts: TokenTexts, offset: int = 0) -> None:
        self._texts, self.offset = texts, offset
        self.text = ""
        self._tokens: list[str] = []
        self._values: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def add_prompt(
        self, text: str, ids: Sequence[int], scores: Sequence[TokenLogprobs | None]
    ) -> None:
        """The echo. Special tokens that were put before the text have no characters in it."""
        start = self.offset
        for token, score in zip(ids, scores):
            self._add(token, score.logprob if score else None, score.top if score else None)
        self.text += text
        self.offset = start + len(text)

    def add_answer(self, answer: Completion) -> None:
        """A whole answer."""
        start = self.offset
        ids = answer.ids + ([] if answer.stop_id is None else [answer.stop_id])
        tops = answer.top_logprobs or [[] for _ in ids]
        for token, value, top in zip(ids, answer.logprobs or [], tops):
            self._add(token, value, top)
        self.text += answer.text
        self.offset = start + len(answer.text)

    def add_event(self, event: Event) -> None:
        """One token of an answer."""
        start = self.offset
        if event.token is not None and event.logprob is not None:
            self._add(event.token, event.logprob, event.top or [])
        self.text += event.text
        self.offset = start + len(event.text)

    def logprobs(self, top: int) -> CompletionLogprobs:
        """The lists that OpenAI gives."""
        return CompletionLogprobs(
            tokens=self._tokens,
            token_logprobs=self._values,
            top_logprobs=self._top if top else None,
            text_offset=self._offsets,
        )

    def _add(self, token: int, value: float | None, top: list[tuple[int, float]] | None) -> None:
        """One token; its offset counts the characters of the tokens before it in this piece."""
        self._tokens.append(self._texts.unique(token))
        self._values.append(None if value is None else finite(value))
        self._offsets.append(self.offset)
        if self._texts.special(token) is None:
            # Characters that begin in it: of a piece of one only its first byte counts.
            self.offset += sum(byte & 0xC0 != 0x80 for byte in self._texts.raw(token))
        if top is None or value is None:
            self._top.append(None)
            return
        shown = {self._texts.unique(one): finite(each) for one, each in top}
        shown.setdefault(self._texts.unique(token), finite(value))
        self._top.append(shown)


def _finish(event: Event) -> Finish | None:
    if event.finish_reason is None:
        return None
    return "stop" if event.finish_reason == "stop" else "length"
