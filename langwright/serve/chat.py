"""/v1/chat/completions: the assistant's turn of a conversation."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from langwright.base import UserError
from langwright.generate import Event, SamplingParams
from langwright.serve.chat_answer import ChatAnswer
from langwright.serve.conversation import plain_messages
from langwright.serve.errors import ApiError
from langwright.serve.generation import Generation
from langwright.serve.limits import check_count, check_number, read_body
from langwright.serve.openai_types import ChatBody, Tool
from langwright.serve.prompts import with_negative
from langwright.serve.replies import (
    AnswerMessage,
    CalledTool,
    ChatChoice,
    ChatChunk,
    ChatReply,
    ChunkChoice,
    Delta,
)
from langwright.serve.sampling import constraint_of, named_as_sent, sampling_params, token_limit
from langwright.serve.server import Server
from langwright.serve.split import THINK
from langwright.serve.stream import respond
from langwright.serve.tools import call_constraint, offered


async def chat_completions(request: Request) -> Response:
    """Answer a request."""
    server: Server = request.app.state.server
    body = await read_body(request, ChatBody, server.config)
    work = _Chat(server, body, request.state.key)
    return await respond(request, work, body.stream, server.config)


class _Chat:
    """One request."""

    def __init__(self, server: Server, body: ChatBody, key: str) -> None:
        server.check_model(body.model)
        self._server, self._body = server, body
        self._tools: list[Tool] = offered(body, server.config)
        self._params = self._settings()
        self._turns = plain_messages(body.messages, self._tools)
        self.generation = Generation(server, "chat", key)
        self._answers: list[ChatAnswer] = []
        self._name = "chatcmpl-" + secrets.token_hex(12)
        self._created = int(time.time())

    def _settings(self) -> SamplingParams:
        body, config = self._body, self._server.config
        check_count(body.messages, config.max_messages, "messages")
        if self._server.tokenizer.chat_template is None:
            raise ApiError(
                400,
                "this model has no chat template: it continues text; use /v1/completions",
                code="no_chat_template",
            )
        if body.functions:
            raise ApiError(400, "functions: write them as tools", param="functions")
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options needs stream", param="stream_options")
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs", param="top_logprobs")
        form, calls = constraint_of(body, config), call_constraint(body, self._tools)
        if form is not None and calls is not None:
            raise ApiError(
                400, "an answer cannot have both a response_format and tool calls of a given form"
            )
        check_number(body.max_tokens, 2**31, "max_tokens")
        asked = body.max_completion_tokens or body.max_tokens
        return sampling_params(
            body,
            config,
            max_tokens=token_limit(asked, None, config, self._server.context),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            constraint=form or calls,
        )

    async def start(self) -> None:
        """Hand the conversation to the engine."""
        n = self._body.n or 1

        def prepare() -> list[tuple[list[int], SamplingParams | None]]:
            server = self._server
            server.check_length("".join(turn["content"] for turn in self._turns), "messages")
            try:
                chat = server.tokenizer.encode_chat(self._turns, add_generation_prompt=True)
            except UserError as error:
                raise ApiError(400, error.message, param="messages") from None
            # In an answer of a given form there is no place for the end of a thought.
            opened = self._params.constraint is None and self._opens_thought(chat.ids)
            self._answers = [
                ChatAnswer(
                    server.texts,
                    self._tools,
                    thinks=server.thinks,
                    open_thought=opened,
                    logprobs=bool(self._body.logprobs),
                    most_calls=1 if self._body.parallel_tool_calls is False else None,
                )
                for _ in range(n)
            ]
            return [(chat.ids, with_negative(server, self._params))]

        try:
            with named_as_sent(self._body):
                await self.generation.start(self._params.rows, prepare)
        except ApiError as error:
            if error.param == "prompt":  # the engine's word for it
                error.param = "messages"
            raise

    def _opens_thought(self, ids: list[int]) -> bool:
        """Whether the template has written <think> where the assistant begins."""
        return self._server.tokenizer.decode(ids[-8:]).rstrip().endswith(THINK)

    async def whole(self) -> Response:
        """The answer in one piece."""
        messages = [_Message() for _ in range(self._body.n or 1)]
        await self.start()
        with self.generation.closing():
            async for _, event in self.generation.events():
                messages[event.index].add(self._delta(event))
            reply = ChatReply(
                id=self._name,
                object="chat.completion",
                created=self._created,
                model=self._server.config.name,
                system_fingerprint=self._server.fingerprint,
                choices=[
                    ChatChoice(
                        index=index,
                        message=message.whole(self._server.thinks),
                        logprobs=answer.take_logprobs(),
                        finish_reason=answer.finish or "stop",
                    )
                    for index, (message, answer) in enumerate(zip(messages, self._answers))
                ],
                usage=self.generation.usage(),
            )
        return Response(reply.json_bytes(), media_type="application/json")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The answer as it comes: who speaks, the text, why it ended, the usage if asked for."""
        begun: set[int] = set()
        async for _, event in self.generation.events():
            answer = self._answers[event.index]
            if event.index not in begun:
                begun.add(event.index)
                first = Delta(role="assistant", content="", refusal=None)
                yield self._chunk([self._choice(event.index, first)]).json_bytes()
            delta = self._delta(event)
            if delta.model_fields_set:
                yield self._chunk([self._choice(event.index, delta, answer)]).json_bytes()
            if answer.finish is not None:
                last = self._choice(event.index, Delta(), answer)
                last.finish_reason = answer.finish
                yield self._chunk([last]).json_bytes()
        options = self._body.stream_options
        if options is not None and options.include_usage:
            chunk = self._chunk([])
            chunk.usage = self.generation.usage()
            yield chunk.json_bytes()

    def _delta(self, event: Event) -> Delta:
        answer = self._answers[event.index]
        delta = answer.take(event)
        self.generation.reasoning_tokens += answer.take_reasoning_tokens()
        return delta

    def _choice(self, index: int, delta: Delta, answer: ChatAnswer | None = None) -> ChunkChoice:
        logprobs = answer.take_logprobs() if answer is not None else None
        return ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=None)

    def _chunk(self, choices: list[ChunkChoice]) -> ChatChunk:
        return ChatChunk(
            id=self._name,
            object="chat.completion.chunk",
            created=self._created,
            model=self._server.config.name,
            system_fingerprint=self._server.fingerprint,
            choices=choices,
        )


class _Message:
    """The deltas of one answer, put together."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []

    def add(self, delta: Delta) -> None:
        """One more."""
        self._deltas.append(delta)

    def whole(self, thinks: bool) -> AnswerMessage:
        """The assistant's message. With calls and no text, its content is null."""
        calls = [call for delta in self._deltas for call in delta.tool_calls or []]
        text = "".join(delta.content or "" for delta in self._deltas)
        message = AnswerMessage(
            role="assistant", content=None if calls and not text else text, refusal=None
        )
        if thinks:
            thought = "".join(delta.reasoning or "" for delta in self._deltas)
            message.reasoning = message.reasoning_content = thought or None
        if calls:
            message.tool_calls = [
                CalledTool(id=call.id, type=call.type, function=call.function) for call in calls
            ]
        return message
