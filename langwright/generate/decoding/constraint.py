"""Answers of a given form: JSON, a regular expression, a grammar, one of several texts.

The library llguidance (extra `constrain`) keeps a parser beside the text and says which tokens
may come next. https://github.com/guidance-ai/llguidance
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from langwright.base import UserError
from langwright.generate.decoding.token_table import token_table
from langwright.generate.params import Constraint
from langwright.tokenizer import Tokenizer

MOST_CHARACTERS = 100_000  # of a schema or grammar: compiling takes time and memory
# Fuel of the library's lexer, a tenth of its own: a form like (a{1000}){1000} fails after 0.05 s,
# not 2 s, and schemas of 800 patterns still pass.
LEXER_FUEL = 100_000
KEPT_GRAMMARS = 64  # compiled ones kept per tokenizer
# Without a bound a model may go on with blanks for ever, which is valid JSON.
JSON_BLANKS = r"[ \n\r\t]{1,24}"


class Matcher:
    """Where in its form one answer is."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab = matcher, vocab_size

    def allowed(self) -> Tensor:
        """Which tokens may come next: (V,) bool on the CPU, V the tokenizer's size."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        mask = np.unpackbits(bits, bitorder="little")[: self._vocab]
        return torch.from_numpy(mask).bool()

    def take(self, token: int) -> None:
        """The next token of the answer; it must be an allowed one."""
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Tokens that must come next, whatever the model says; often none."""
        return [int(token) for token in self._matcher.compute_ff_tokens()]

    @property
    def complete(self) -> bool:
        """Whether the form is fulfilled and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UserError(
                f"the constraint could not be followed: {self._matcher.get_error()}",
                where="constraint",
            )


class Compiler:
    """Turns constraints into matchers for one tokenizer, keeping the last ones."""

    def __init__(self, tokenizer: Tokenizer, ends: Collection[int]) -> None:
        library = _library()
        table = token_table(tokenizer)
        # The library needs an end token; where there is none, one outside the vocabulary.
        self._vocab = tokenizer.vocab_size
        self.library = library
        special = [*tokenizer.special_tokens.values(), self._vocab]
        texts = [*table.texts, b"<|no end|>"]
        for name, token in tokenizer.special_tokens.items():
            texts[token] = name.encode()
        end_ids = [token for token in ends if token < self._vocab] or [self._vocab]
        words = _Vocabulary(tokenizer, texts, special, end_ids[0])
        wrapped = library.TokenizerWrapper(words)
        self._tokens = library.LLTokenizer(wrapped, eos_token=end_ids)
        self._limits = library.LLParserLimits(
            initial_lexer_fuel=LEXER_FUEL, step_lexer_fuel=LEXER_FUEL, verbose_errors=False
        )
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, constraint: Constraint) -> Matcher:
        """A matcher at the beginning of the form."""
        grammar = _grammar(constraint, self.library)
        with self._lock:
            fresh = self._kept.get(grammar)
            if fresh is None:
                fresh = self._kept[grammar] = self._compile(grammar, constraint)
            self._kept.move_to_end(grammar)
            while len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
            return Matcher(fresh.deep_copy(), self._vocab)

    def _compile(self, grammar: str, constraint: Constraint) -> Any:
        matcher = self.library.LLMatcher(self._tokens, grammar, log_level=0, limits=self._limits)
        trial = matcher.deep_copy()  # some mistakes come to light at the first token only
        if not trial.is_error():
            trial.compute_bitmask()
        if trial.is_error():
            raise _unusable(constraint, trial.get_error())
        return matcher


class _Vocabulary:
    """A tokenizer as the library wants to see it."""

    def __init__(
        self, tokenizer: Tokenizer, tokens: list[bytes], special: list[int], end: int
    ) -> None:
        self.tokens, self.special_token_ids = tokens, special
        self.eos_token_id, self.bos_token_id = end, tokenizer.bos_id
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("text, not bytes")
        try:
            return self._tokenizer.encode_inside(text, after_special=False)
        except UserError:  # a vocabulary of characters that lacks one of them
            return []


_compilers: WeakKeyDictionary[Tokenizer, dict[tuple[int, ...], Compiler]] = WeakKeyDictionary()
_lock = threading.Lock()


def compile_constraint(
    constraint: Constraint, tokenizer: Tokenizer, ends: Collection[int]
) -> Matcher:
    """A matcher for one answer; compiled forms are kept and copied.

    Args:
        constraint: the form.
        tokenizer: the vocabulary the answer is drawn from.
        ends: the tokens that may end the answer once it is complete.

    Raises:
        UserError: the library is not installed, or the form is not valid.
    """
    key = tuple(sorted(set(ends)))
    with _lock:
        compilers = _compilers.setdefault(tokenizer, {})
        if key not in compilers:
            compilers[key] = Compiler(tokenizer, key)
    return compilers[key].matcher(constraint)


def _grammar(constraint: Constraint, library: Any) -> str:
    """The constraint in the library's own language."""
    value = constraint.value
    try:
        size = len(value if isinstance(value, str) else json.dumps(value))
    except RecursionError:
        raise _unusable(constraint, "it is nested too deep") from None
    if size > MOST_CHARACTERS:
        raise UserError(
            "the constraint is too long",
            where="constraint",
            found=f"{size} characters",
            expected=f"at most {MOST_CHARACTERS}",
        )
    make = library.LLMatcher
    try:
        if constraint.kind == "regex":
            return make.grammar_from_regex(value)
        if constraint.kind == "grammar":
            return library.grammar_from("grammar", value)
        if constraint.kind == "choice":
            return library.grammar_from("choice", json.dumps(value))
        if constraint.kind == "json_object":
            schema: Any = {"type": "object"}
        else:
            schema = json.loads(value) if isinstance(value, str) else value
        return make.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_pattern": JSON_BLANKS}
        )
    except RecursionError:
        raise _unusable(constraint, "it is nested too deep") from None
    except ValueError as error:
        raise _unusable(constraint, error) from None


def _unusable(constraint: Constraint, why: object) -> UserError:
    told = str(why).removesuffix("\n<non-verbose/>")  # a mark of the library's own
    return UserError(f"not a usable {constraint.kind}: {told}", where="constraint")


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise UserError(
            "constrained answers need the library llguidance",
            fix="pip install 'langwright[constrain]'",
        ) from None
    return llguidance
