"""What one request asks of the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

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
        ge=-100.0,
        le=100.0,
        description="1 = the model as it is, above 1 = further away from the other prompt",
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
        le=1000.0,
        description="taken from a token's score for each earlier group's beam that chose it",
    )
    length_penalty: float = Field(
        default=1.0,
        ge=-10.0,
        le=10.0,
        description="texts are compared by log-probability / length ** this; 0 = the sum",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.beams % self.groups:
            raise ValueError("groups must divide beams")
        return self


# What acts on a draw: a search has none. (Temperature, top_p and seed have defaults that draw.)
NOT_FOR_SEARCHES = (
    *("min_tokens", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"),
    *("min_p", "typical_p", "bad_words", "bad_ids", "best_of", "logprobs", "constraint"),
    "guidance",
)
# And what acts on a text that grows at its end only.
NOT_FOR_BEAMS = (*NOT_FOR_SEARCHES, "top_k", "stop", "penalty_alpha")
NOT_FOR_CONTRAST = (*NOT_FOR_SEARCHES, "n")
CANDIDATES = 4  # of a contrastive search, where top_k does not say
MOST_CANDIDATES = 256


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
    top_k: int = Field(
        default=0,
        ge=0,
        description="keep only the k likeliest tokens; 0 = all. With penalty_alpha: candidates at "
        f"each step; 0 = {CANDIDATES}",
    )
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
    penalty_alpha: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="contrastive search: of the top_k likeliest tokens the one of the highest "
        "(1 - this) probability - this * likeness to what was said; none = off; engine only",
    )

    @property
    def candidates(self) -> int:
        """Candidates at each step of a contrastive search."""
        return self.top_k or CANDIDATES

    @property
    def rows(self) -> int:
        """Texts that go through the model at a time for one prompt."""
        if self.beam is not None:
            return self.beam.beams
        if self.penalty_alpha is not None:
            return self.candidates
        return (self.best_of or self.n) * (2 if self.guidance is not None else 1)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.best_of is not None and self.best_of < self.n:
            raise _misfit("best_of", "best_of must be at least n")
        if self.min_tokens > self.max_tokens:
            raise _misfit("min_tokens", "min_tokens must be at most max_tokens")
        if any(not word for word in self.bad_words) or any(not ids for ids in self.bad_ids):
            raise ValueError("bad_words and bad_ids hold an empty text")
        if any(abs(bias) > 1000 for bias in self.logit_bias.values()):
            raise _misfit("logit_bias", "a logit_bias must lie between -1000 and 1000")
        if self.beam is not None:
            self._refuse("a beam search", NOT_FOR_BEAMS)
            if self.n > self.beam.beams:
                raise _misfit("n", "n must be at most beam.beams")
        if self.penalty_alpha is not None:
            self._refuse("a contrastive search", NOT_FOR_CONTRAST)
            if self.top_k > MOST_CANDIDATES:
                raise _misfit("top_k", f"a search has at most {MOST_CANDIDATES} candidates (top_k)")
        return self

    def _refuse(self, search: str, names: Sequence[str]) -> None:
        fields = type(self).model_fields
        for name in names:
            if getattr(self, name) != fields[name].get_default(call_default_factory=True):
                raise _misfit(name, f"{search} draws nothing: {name} does not go with it")


def _misfit(field: str, why: str) -> PydanticCustomError:
    """Settings that do not fit together; whoever tells it finds the `field` in the context."""
    return PydanticCustomError("fields_disagree", "{why}", {"why": why, "field": field})
