"""What clients send: the fields of OpenAI's API that we understand, and a few that others added.

Unknown fields are ignored, as clients of all ages send them; values of a wrong type are not. A
field that is known and cannot be done here is refused where it asks for something.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from langwright.generate import Beams, Guidance

Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def _are_ids(given: object) -> bool:
    return isinstance(given, list) and all(type(one) is int and one >= 0 for one in given)


def _one_kind(given: object) -> object:
    """pydantic would tell what is wrong with each kind of the union; here one thing is."""
    several = given if isinstance(given, list) else []
    texts = all(isinstance(one, str) for one in several)
    if not (isinstance(given, str) or _are_ids(given) or (several and texts)) and not (
        several and all(one and _are_ids(one) for one in several)
    ):
        raise ValueError("neither a text nor token ids (0 or more), nor several of one kind")
    return given


Prompts = Annotated[str | Tokens | list[str] | list[Tokens], BeforeValidator(_one_kind)]


class Body(BaseModel):
    """JSON from a client. Numbers are numbers: "1" is no 1."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(Body):
    """How a stream is told."""

    include_usage: bool | None = Field(default=None, description="a last chunk with the usage")


class JsonSchema(Body):
    """A form for the answer."""

    name: str | None = Field(default=None, description="for the client's own use")
    description: str | None = Field(default=None, description="for the client's own use")
    schema_: dict[str, Any] | None = Field(default=None, alias="schema", description="JSON schema")
    strict: bool | None = Field(default=None, description="answers always have the form")


class ResponseFormat(Body):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(default=None, description="for type json_schema")


class BeamOptions(Beams):
    """Search for the likeliest texts."""

    model_config = ConfigDict(strict=True)


class GuidanceOptions(Guidance):
    """Away from what another prompt leads to."""

    model_config = ConfigDict(strict=True)


class Sampled(Body):
    """What completions and chats have in common."""

    model: str | None = Field(default=None, description="a name of /v1/models; default: ours")
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0: the likeliest token; default 1"
    )
    top_p: float | None = Field(default=None, ge=0, le=1, description="nucleus; default 1 = all")
    n: int | None = Field(default=None, ge=1, description="answers; default 1")
    stream: bool | None = Field(default=None, description="send the text as it comes")
    stream_options: StreamOptions | None = Field(default=None, description="with stream only")
    stop: str | list[str] | None = Field(default=None, description="texts that end the answer")
    presence_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="from the logit of each token of the answer"
    )
    frequency_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="the same, as often as the token came"
    )
    logit_bias: dict[str, float] | None = Field(
        default=None, description="token id -> -100 ... 100, added to its logit"
    )
    seed: int | None = Field(
        default=None, ge=-(2**63), le=2**63 - 1, description="same seed and load, same text"
    )
    user: str | None = Field(default=None, description="ignored")
    # Not OpenAI's: sent through the client's extra_body.
    top_k: int | None = Field(
        default=None, ge=-1, description="0 and -1: all; with penalty_alpha: candidates, default 4"
    )
    min_p: float | None = Field(default=None, ge=0, le=1, description="0: off")
    typical_p: float | None = Field(default=None, gt=0, le=1, description="1: off")
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, description="1: off")
    min_tokens: int | None = Field(default=None, ge=0, description="no end token before")
    ignore_eos: bool | None = Field(default=None, description="go on after end tokens")
    stop_token_ids: list[int] | None = Field(default=None, description="more end tokens")
    bad_words: list[str] | None = Field(default=None, description="texts that never come")
    guided_json: dict[str, Any] | str | None = Field(default=None, description="a JSON schema")
    guided_regex: str | None = Field(default=None, description="a regular expression")
    guided_choice: list[str] | None = Field(default=None, description="one of these texts")
    guided_grammar: str | None = Field(default=None, description="a grammar: Lark or GBNF")
    response_format: ResponseFormat | None = Field(default=None, description="the answer's form")
    beam: BeamOptions | None = Field(
        default=None,
        description="beam search: the n likeliest texts, none drawn; a stream brings them at its "
        "end",
    )
    penalty_alpha: float | None = Field(
        default=None, ge=0, le=1, description="contrastive search among top_k tokens; none drawn"
    )
    guidance: GuidanceOptions | None = Field(
        default=None, description="away from what another prompt leads to"
    )


class CompletionBody(Sampled):
    """/v1/completions."""

    prompt: Prompts = Field(description="a text, token ids, or several of one kind")
    max_tokens: int | None = Field(
        default=None, ge=0, description="most tokens of an answer; default 16, 0 with echo"
    )
    best_of: int | None = Field(default=None, ge=1, description="draw so many, give the n best")
    echo: bool | None = Field(default=None, description="the prompt stands before the answer")
    logprobs: int | None = Field(default=None, ge=0, description="log-probabilities, and k others")
    parse_special: bool | None = Field(
        default=None, description="names of special tokens in a prompt are these; default false"
    )
    suffix: str | None = Field(default=None, description="not supported")


class ContentPart(Body):
    """A part of a message; text only."""

    type: str
    text: str | None = None


class FunctionCall(Body):
    """What the assistant called, in an earlier turn."""

    name: str
    arguments: str = Field(description="JSON")


class ToolCall(Body):
    """A call of the assistant in an earlier turn."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Body):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = Field(default=None, description="ignored")
    tool_calls: list[ToolCall] | None = Field(default=None, description="of the assistant")
    tool_call_id: str | None = Field(default=None, description="of a tool's answer")


class FunctionTool(Body):
    """A function that the model may ask for."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="JSON schema of an object")
    strict: bool | None = Field(default=None, description="arguments always have the form")


class Tool(Body):
    """A tool; functions only."""

    type: Literal["function"]
    function: FunctionTool


class NamedFunction(Body):
    """The name of a function."""

    name: str


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatBody(Sampled):
    """/v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(
        default=None, ge=1, description="older name of max_completion_tokens"
    )
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="most tokens of an answer; default: what fits"
    )
    logprobs: bool | None = Field(default=None, description="log-probabilities of the tokens")
    top_logprobs: int | None = Field(default=None, ge=0, description="and of so many others")
    tools: list[Tool] | None = Field(default=None, description="functions the model may call")
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        default=None, description="whether one must be called; default auto"
    )
    parallel_tool_calls: bool | None = Field(default=None, description="false: one call at most")
    functions: list[Any] | None = Field(default=None, description="not supported; use tools")


class EmbeddingsBody(Body):
    """/v1/embeddings."""

    model: str | None = None
    input: Prompts = Field(description="a text, token ids, or several of one kind")
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="base64: of float32, little-endian; default float"
    )
    dimensions: int | None = Field(default=None, ge=1, description="the model's width, or nothing")
    user: str | None = Field(default=None, description="ignored")


class TokenizeBody(Body):
    """/tokenize: a text or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = Field(
        default=None, description="a prompt's beginning token; default true"
    )
    parse_special: bool | None = Field(
        default=None, description="names of special tokens in a prompt are these; default true"
    )
    add_generation_prompt: bool | None = Field(
        default=None, description="end a conversation where the assistant begins; default true"
    )
    return_token_strs: bool | None = Field(default=None, description="the tokens' texts as well")


class DetokenizeBody(Body):
    """/detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
