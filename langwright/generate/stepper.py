"""What happens to the running texts in one step: forward passes, draws, ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from langwright.base import UserError
from langwright.generate.compiled import CompiledHidden, fast_hidden
from langwright.generate.contrasting import Contrasting
from langwright.generate.decoding.decoder import Decoder, Drawn, RowError
from langwright.generate.decoding.proposals import Proposer
from langwright.generate.decoding.speculative import SpeculationCounts, speculative_step
from langwright.generate.engine_config import EngineConfig
from langwright.generate.forward import Costs, costs_of, groups, run_group
from langwright.generate.output import Piece
from langwright.generate.paged_cache import PagedCache, PagedStore, follows_length
from langwright.generate.requests import EndReason, Event, Team, Text
from langwright.generate.scheduler import Scheduler, Work
from langwright.generate.stats import EngineStats
from langwright.generate.teams import Guided, Searching
from langwright.model import Transformer


class Stepper:
    """Advances the texts that the scheduler names, and takes those that end out of it.

    An error ends the texts that it belongs to, never the others.

    Args:
        model: in the mode that it shall run in.
        config: the engine's.
        store, scheduler: memory and who has it.
        decoder: draws tokens.
        proposer: guesses tokens ahead; None: no guesses.
        stats: is counted up.
    """

    def __init__(
        self,
        model: Transformer,
        config: EngineConfig,
        store: PagedStore,
        scheduler: Scheduler,
        decoder: Decoder,
        proposer: Proposer | None,
        stats: EngineStats,
    ) -> None:
        self._model, self._config = model, config
        self._store, self._scheduler = store, scheduler
        self._decoder, self._stats = decoder, stats
        # Guesses would change the angles of models that turn by the text's length.
        self._proposer = None if follows_length(model.config) else proposer
        self._speculation = SpeculationCounts()
        self._costs: Costs = costs_of(model, store.token_bytes)
        self.hidden = fast_hidden(model, store, config, stats)

    def advance(self, works: list[Work]) -> list[Event]:
        """One step; what it gave."""
        fixed = self._config.deterministic
        for source, to in self._scheduler.copies:
            self._store.copy(source, to)
        self._scheduler.copies.clear()
        guessing = [work for work in works if self._may_guess(work.text)]
        plain = [work for work in works if not self._may_guess(work.text)]
        events: list[Event] = []
        ready: list[tuple[Text, Tensor]] = []
        complete: list[Team] = []
        for group in [[one] for one in plain] if fixed else groups(plain, self._costs):
            group = [work for work in group if not work.text.over]  # its team may have failed
            if not group:
                continue
            try:
                # (B, V), (B, T, D)
                logits, vectors = run_group(self._model, self.hidden, self._store, group)
            except Exception as error:  # whatever it is, it must not reach the other texts
                events += self.fail([work.text for work in group], error)
                continue
            for row, work in enumerate(group):
                self._stats.prompt_tokens += work.of_prompt
                team = work.text.team
                if team is not None:
                    team.read(work.text, vectors[row, : work.new])
                if work.text.unread or team is not None:
                    self._scheduler.settle(work.text)
                if work.text.unread == 0:
                    if team is None:
                        ready.append((work.text, logits[row]))
                    elif team.note(work.text, logits[row]):
                        complete.append(team)
        for team in complete:
            try:
                if isinstance(team, Searching):
                    events += self._search(team)
                elif isinstance(team, Contrasting):
                    events += self._contrast(team)
                elif isinstance(team, Guided) and not team.leader.over:
                    ready.append((team.leader, team.mixed()))
            except Exception as error:
                events += self.fail(team.texts[:1], error)
        for part in [[one] for one in ready] if fixed else [ready]:
            events += self._draw(part)
        if guessing:
            events += self._guess([work.text for work in guessing])
        return events

    def renew(self) -> None:
        """The model's weights may be others now."""
        if isinstance(self.hidden, CompiledHidden):
            self.hidden.renew()

    def end(self, text: Text, reason: EndReason, error: str | None) -> Event:
        """End a text from outside."""
        text.reason = reason
        self._close(text)
        return Event(text.request.id, text.index, None, finish_reason=reason, error=error)

    def fail(self, texts: list[Text], error: Exception, wipe: bool = False) -> list[Event]:
        """End texts because of an error; `wipe`: what they wrote must not reach others."""
        self._stats.failures += 1
        message = str(error) or type(error).__name__
        events = []
        for text in texts:
            for member in [text] if text.team is None else text.team.texts:
                if wipe:
                    self._store.wipe(self._scheduler.spoil(member))
            text.request.error = text.request.error or message
            text.request.failure = text.request.failure or error
            open_answers = [one for one in text.answers if one.reason is None]
            events += [self.end(answer, "error", message) for answer in open_answers]
        return events

    def _search(self, team: Searching) -> list[Event]:
        """One step of a beam search, or its end."""
        answers = list(team.answers)
        if all(answer.reason is not None for answer in answers):
            return []
        if _broken(team):
            return self.fail(answers[:1], _no_numbers(), wipe=True)
        before = team.texts
        moves = team.advance()
        if moves is None:
            return self._found(team)
        self._go_on(moves)
        for text in before:
            if text not in team.texts:
                self._scheduler.drop(text)
        return []

    def _contrast(self, team: Contrasting) -> list[Event]:
        """One step of a contrastive search: a candidate becomes the answer's next token."""
        answer, events = team.answer, []
        if answer.reason is not None:
            return []
        if _broken(team):
            return self.fail([answer], _no_numbers(), wipe=True)
        best = team.best()
        if best is not None:
            try:
                answer.output.decoding.take(best.ids[-1])
                piece = answer.output.take(best.ids[-1])
            except Exception as error:
                return self.fail([answer], error)
            events.append(self._keep(answer, piece))
        if answer.reason is None:
            self._go_on(team.propose(best))
        return events

    def _go_on(self, moves: Sequence[tuple[Text, Text, int]]) -> None:
        """Each text goes on from its source by a token."""
        self._scheduler.fork([text for text, _, _ in moves], [source for _, source, _ in moves])
        for text, _, token in moves:
            text.ids.append(token)

    def _found(self, team: Searching) -> list[Event]:
        """The answers of a search that is at its end, the best first."""
        events: list[Event] = []
        found = team.search.best()
        for answer, one in zip(team.answers, found):
            answer.cached = team.beams[0].cached
            answer.output.completion.score = one.score
            for token in one.ids if one.stop_id is None else [*one.ids, one.stop_id]:
                answer.output.decoding.take(token)
                events.append(self._keep(answer, answer.output.take(token)))
        for answer in team.answers[len(found) :]:
            events.append(self.end(answer, "error", "the search found no more texts"))
        return events

    def _draw(self, ready: list[tuple[Text, Tensor]]) -> list[Event]:
        """The next token of each text, from its logits (V,)."""
        if not ready:
            return []
        logits = torch.stack([row for _, row in ready])  # (B, V)
        texts = [text for text, _ in ready]
        broken = logits.amax(-1).isnan().tolist()
        events: list[Event] = []
        if any(broken):
            dead = [text for text, is_broken in zip(texts, broken, strict=True) if is_broken]
            events += self.fail(dead, _no_numbers(), wipe=True)
        left = [row for row, is_broken in enumerate(broken) if not is_broken]
        drawn: Drawn | None = None
        while left and drawn is None:
            some = logits if len(left) == len(texts) else logits[left]
            try:
                drawn = self._decoder.draw(some, [texts[row].output.decoding for row in left])
            except RowError as error:
                stuck = [left[index] for index in error.rows]
                events += self.fail([texts[row] for row in stuck], error)
                left = [row for row in left if row not in stuck]
            except Exception as error:
                return events + self.fail([texts[row] for row in left], error)
        if drawn is None:
            return events
        tokens = drawn.tokens.tolist()
        for row, token, logprobs in zip(left, tokens, drawn.logprobs, strict=True):
            text = texts[row]
            try:
                text.output.decoding.take(token)
                piece = text.output.take(token, logprobs)
            except Exception as error:
                events += self.fail([text], error)
            else:
                events.append(self._keep(text, piece))
        return events

    def _may_guess(self, text: Text) -> bool:
        """Whether tokens are guessed ahead for a text. Not where a draw can fail: that would lose
        what was drawn before it in the same step."""
        if self._proposer is None or text.unread != 1 or text.team is not None:
            return False
        return not text.output.decoding.restricted

    def _guess(self, texts: list[Text]) -> list[Event]:
        """A step with guesses: one to `speculate_tokens` + 1 tokens of each text."""
        assert self._proposer is not None
        left = []
        for text in texts:
            most = text.output.limit - len(text.output.decoding.ids)
            left.append(self._scheduler.reserve(text, min(most, self._config.speculate_tokens + 1)))
        pages = [text.pages for text in texts]
        rows = [text.output.decoding for text in texts]
        cache = PagedCache(self._model.config, self._store, pages, max(left))
        counts = self._speculation
        try:
            found = speculative_step(
                self._model, cache, self._decoder, rows, self._proposer, left, counts
            )
        except Exception as error:
            return self.fail(texts, error)
        self._stats.proposed_tokens = counts.proposed
        self._stats.accepted_tokens = counts.accepted
        events: list[Event] = []
        for text, one in zip(texts, found, strict=True):
            for token, logprobs in zip(one.ids, one.logprobs, strict=True):
                if text.reason is None:  # a stop string may end it amid accepted guesses
                    events.append(self._keep(text, text.output.take(token, logprobs)))
        return events

    def _keep(self, text: Text, piece: Piece) -> Event:
        """A token was drawn: into the text and, if it is its last, the text out of the batch."""
        event = text.take(piece)
        self._stats.generated_tokens += 1
        if isinstance(text.team, Guided):
            text.team.take(piece.id)
        elif text.team is None:
            self._scheduler.settle(text)
        if event.finish_reason is not None:
            self._close(text)
        return event

    def _close(self, text: Text) -> None:
        if text.team is None:
            self._scheduler.drop(text)
        elif text.over:
            for member in text.team.texts:
                self._scheduler.drop(member)
            text.team.forget()
        reason = text.reason or "length"
        self._stats.finished[reason] = self._stats.finished.get(reason, 0) + 1


def _broken(team: Team) -> bool:
    return any(bool(row.isnan().any()) for row in team.logits.values())


def _no_numbers() -> UserError:
    return UserError("the model gave no numbers (NaN)")
