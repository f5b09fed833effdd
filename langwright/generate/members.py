"""The texts of a request: its answers, and those that go through the model beside them."""

from __future__ import annotations

from collections.abc import Sequence

from langwright.generate.answer_limit import negative_ids
from langwright.generate.blocks import Digests
from langwright.generate.contrasting import Contrasting
from langwright.generate.decoding.beam import BeamSearch
from langwright.generate.language_model import LanguageModel
from langwright.generate.output import Output
from langwright.generate.paged_cache import Layout, TextPages
from langwright.generate.requests import Request, Text
from langwright.generate.teams import Guided, Searching


class Members:
    """Makes a request's texts.

    Args:
        request: whose.
        layout, block_tokens: the cache's.
        salt: texts of different salt share nothing in the cache.
    """

    def __init__(self, request: Request, layout: Layout, block_tokens: int, salt: str) -> None:
        self.request, self._layout = request, layout
        self._size, self._salt = block_tokens, salt

    def text(self, index: int, output: Output, prompt: Sequence[int], rank: int = 0) -> Text:
        """A text that begins with `prompt`, for the request's answer `index`."""
        pages, digests = TextPages(self._layout, list(prompt)), Digests(self._size, self._salt)
        return Text(self.request, index, output, pages, digests, len(prompt), rank)


def put_together(members: Members, lm: LanguageModel, vocab_size: int | None) -> None:
    """The teams of a request whose answers are there: for guidance or a search.

    Args:
        members: makes the other texts.
        lm: reads a negative prompt.
        vocab_size: the tokenizer's; tokens behind it are never drawn. None: all are real.
    """
    request = members.request
    params, answers = request.params, request.texts
    output, prompt = answers[0].output, answers[0].ids
    if params.guidance is not None:
        negative = negative_ids(lm, params.guidance)
        for answer in answers:
            other = members.text(answer.index, answer.output, negative, rank=1)
            answer.team = other.team = Guided(answer, other, params.guidance)
    if params.beam is not None:
        beams = [members.text(0, output, prompt, rank) for rank in range(params.beam.beams)]
        search = BeamSearch(params.beam, output.decoding.stop_ids, output.limit)
        team = Searching(beams, answers, search, vocab_size)
        for text in (*beams, *answers):
            text.team = team
    if params.penalty_alpha is not None:
        texts = [members.text(0, output, prompt, rank) for rank in range(params.candidates)]
        contrasting = Contrasting(texts, answers[0], params.penalty_alpha, vocab_size)
        for text in (*texts, *answers):
            text.team = contrasting
