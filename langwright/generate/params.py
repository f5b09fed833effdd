"""What one request asks of the decoder."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from langwright.base import Config

ConstraintKind = Literal["json_object", "json_schema", "regex", "grammar", "choice"]
LogprobsMode = Literal["raw", "processed"]


class Constraint(Config):
    """A form that the whole answer must have (extra `constrain`: the library llguidance).

    The end token may come only where the form is complete; where nothing may follow, the answer
    ends by itself.
    """

    kind: ConstraintKind = Field(description="json_object, json_schema, regex, grammar or choice")
    value: str | list[str] | dict[str, Any] | None = Field(
        default=None,
        description="the JSON schema, the regular expression (of the whole answer), the grammar "
        "(Lark or GBNF), or the texts to choose from; nothing for json_object",
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        wanted: dict[str, tuple[type, ...]] = {
            "json_object": (type(None),),
            "json_schema": (dict, str),
            "regex": (str,),
            "grammar": (str,),
            "choice": (list,),
        }
        if not isinstance(self.value, wanted[self.kind]):
            names = " or ".join(one.__name__ for one in wanted[self.kind])
            raise ValueError(f"a constraint of kind {self.kind} takes a value of type {names}")
        if isinstance(self.value, list | str) and not self.value:
            raise ValueError(f"the value of a constraint of kind {self.kind} is empty")
        return self


class Guidance(Config):
    """Classifier-free guidance: away from what the model would say to another prompt."""

    scale: float = Field(
        description="1 = the model as it is, above 1 = further away from the other prompt"
    )
    negative: list[int] | str = Field(
        default="",
        description="the other prompt, as ids or text; nothing = the beginning of a text",
    )


class Beams(Config):
    """Beam search, and with groups diverse beam search (`decoding.beam`)."""

    beams: int = Field(default=4, ge=1, le=256, description="texts kept at each step")
    groups: int = Field(
        default=1, ge=1, description="parts of the beam that are made to differ; divides beams"
    )
    diversity: float = Field(
        default=0.5,
        ge=0.0,
        description="taken from a token's score for each earlier group's beam that chose it",
    )
    length_penalty: float = Field(
        default=1.0,
        description="texts are compared by log-probability / length ** this; 0 = the sum",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.beams % self.groups:
            raise ValueError("groups must divide beams")
        return self


# What acts on a draw, or on a text that grows at its end only: a search has neither.
NOT_FOR_BEAMS = (
    *("min_tokens", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"),
    *("bad_words", "bad_ids", "best_of", "stop", "logprobs", "constraint", "guidance"),
)


class SamplingParams(Config):
    """How a text is drawn: the settings of one request.

    The order in which they act is told in `langwright.generate.decoding.decoder`.
    """

    max_tokens: int = Field(default=200, ge=1, description="most tokens to generate")
    min_tokens: int = Field(default=0, ge=0, description="no end token before so many tokens")
    temperature: float = Field(
        default=1.0,
        ge=0.0,
        le=100.0,
        description="divides the logits; 0 = greedy, 1 = the model as it is",
    )
    top_k: int = Field(default=0, ge=0, description="keep only the k likeliest tokens; 0 = all")
    top_p: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description="keep tokens while the mass before them is <= p; 1 = all",
    )
    min_p: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="drop tokens below this share of the likeliest; 0 = none",
    )
    typical_p: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="keep the tokens of the most usual surprise, together this mass; 1 = all",
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0.0,
        le=10.0,
        description="makes tokens already in the text, the prompt included, less likely; 1 = off",
    )
    presence_penalty: float = Field(
        default=0.0,
        ge=-2.0,
        le=2.0,
        description="taken from the logit of each token already in the answer; 0 = off",
    )
    frequency_penalty: float = Field(
        default=0.0,
        ge=-2.0,
        le=2.0,
        description="the same, as often as the token came; 0 = off",
    )
    logit_bias: dict[int, float] = Field(
        default_factory=dict,
        description="token id -> number added to its logit; -100 and below = never",
    )
    bad_words: list[str] = Field(
        default_factory=list, description="texts that never stand in the answer, however cut"
    )
    bad_ids: list[list[int]] = Field(
        default_factory=list, description="sequences of token ids that never come"
    )
    n: int = Field(default=1, ge=1, description="answers to give")
    best_of: int | None = Field(
        default=None, ge=1, description="answers to draw, of which the n likeliest are given"
    )
    stop: list[str] = Field(
        default_factory=list, description="texts that end the answer (they are cut off)"
    )
    stop_ids: list[int] = Field(
        default_factory=list, description="tokens that end the answer, beside the model's own"
    )
    ignore_eos: bool = Field(default=False, description="go on after the model's end tokens")
    seed: int | None = Field(
        default=None, ge=0, description="same seed, same text; none = another each time"
    )
    logprobs: int | None = Field(
        default=None,
        ge=0,
        description="give the log-probability of each token and of the k likeliest; none = not",
    )
    logprobs_mode: LogprobsMode = Field(
        default="raw",
        description="raw: of the model; processed: of what was drawn from (at temperature 0: "
        "after penalties, biases and bans)",
    )
    constraint: Constraint | None = Field(
        default=None, description="a form that the answer must have"
    )
    guidance: Guidance | None = Field(
        default=None, description="away from what another prompt leads to; engine only"
    )
    beam: Beams | None = Field(
        default=None,
        description="search for the likeliest answers in place of drawing them; engine only",
    )

    @model_validator(mode="before")
    @classmethod
    def _not_contrastive(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.keys() & {"contrastive", "penalty_alpha"}:
            raise ValueError(
                "contrastive search needs the vectors of all tokens so far, which no cache keeps: "
                "call contrastive_search(model, prompt, k=..., alpha=...)"
            )
        return values

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError("best_of must be at least n")
        if self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens must be at most max_tokens")
        if any(not word for word in self.bad_words) or any(not ids for ids in self.bad_ids):
            raise ValueError("bad_words and bad_ids hold an empty text")
        if any(abs(bias) > 1000 for bias in self.logit_bias.values()):
            raise ValueError("a logit_bias must lie between -1000 and 1000")
        if self.beam is not None:
            fields = type(self).model_fields
            for name in NOT_FOR_BEAMS:
                default = fields[name].get_default(call_default_factory=True)
                if getattr(self, name) != default:
                    raise ValueError(f"a beam search draws nothing: {name} does not go with it")
            if self.n > self.beam.beams:
                raise ValueError("n must be at most beam.beams")
        return self
