"""What clients get. Fields are sent as they were given here, null ones too; those that were not
given are left out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

LINE_ENDS = ("\x85", "\u2028", "\u2029")
Finish = Literal["stop", "length", "tool_calls", "content_filter"]


class Reply(BaseModel):
    """JSON for a client."""

    model_config = ConfigDict(extra="forbid")

    def json_bytes(self) -> bytes:
        """As it is sent: UTF-8. The ends of lines that only Unicode knows are escaped, as many
        clients cut a stream there."""
        text = self.model_dump_json(exclude_unset=True)
        for mark in LINE_ENDS:
            text = text.replace(mark, f"\\u{ord(mark):04x}")
        return text.encode()


class PromptDetails(Reply):
    cached_tokens: int


class CompletionDetails(Reply):
    reasoning_tokens: int


class Usage(Reply):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class CompletionLogprobs(Reply):
    """Four lists of one length: a token each. Of the first prompt token nothing is known."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Reply):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None


class CompletionReply(Reply):
    """/v1/completions: the whole, or a chunk."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopToken(Reply):
    token: str
    bytes: list[int] | None
    logprob: float


class ChatToken(TopToken):
    top_logprobs: list[TopToken]


class ChatLogprobs(Reply):
    content: list[ChatToken]
    refusal: None


class CalledFunction(Reply):
    name: str
    arguments: str


class CalledTool(Reply):
    index: int | None = None  # in chunks only
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Reply):
    """The assistant's turn. `reasoning` and `reasoning_content` are two names of one thing that
    different clients look for; they are there for models that think."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CalledTool] | None = None


class ChatChoice(Reply):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatReply(Reply):
    """/v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Reply):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CalledTool] | None = None


class ChunkChoice(Reply):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatChunk(Reply):
    """One piece of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Embedding(Reply):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Reply):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(Reply):
    """/v1/embeddings; vectors have length 1."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelCard(Reply):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(Reply):
    object: Literal["list"]
    data: list[ModelCard]


class TokenizeReply(Reply):
    """/tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeReply(Reply):
    """/detokenize."""

    prompt: str


class TokenizerInfo(Reply):
    """/tokenizer_info."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    additional_special_tokens: list[str]
    chat_template: str | None


class Health(Reply):
    """/health and /ready."""

    status: str


class Problem(Reply):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """Every error."""

    error: Problem
