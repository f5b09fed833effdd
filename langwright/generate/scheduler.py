"""Which texts go through the model in the next step, and with how many tokens.

Every text that is being written gets its one token; what is left of the step's budget goes to
prompts, in pieces, so a long prompt does not hold up the others. Texts come in the order of
priority and arrival. Where memory runs out, the last in this order give theirs back and are read
again later (recomputation): they keep their tokens and seed, so nothing of the answer is lost.
The first in order can always go on, so everything comes to an end.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from langwright.generate.blocks import Block, BlockPool
from langwright.generate.engine_config import FIXED_PIECE
from langwright.generate.paged_cache import GLOBAL, LOCAL, Layout
from langwright.generate.requests import Text


@dataclass(frozen=True)
class Limits:
    """What the scheduler must keep to."""

    max_running: int
    step_tokens: int
    reuse: bool  # texts that begin alike share blocks
    fixed: bool  # shapes depend on nothing but the text itself
    forks: bool  # a text can go on from the blocks of another


@dataclass(frozen=True)
class Work:
    """A text and how many of its tokens go through the model."""

    text: Text
    new: int
    of_prompt: int  # those of the new that are the prompt's


class Scheduler:
    """Holds the waiting and the running texts and their blocks."""

    def __init__(self, pool: BlockPool, layout: Layout, limits: Limits) -> None:
        self.pool, self.layout, self.limits = pool, layout, limits
        self.waiting: list[Text] = []  # in order
        self.running: list[Text] = []
        self.copies: list[tuple[Block, Block]] = []  # from, to: before the next forward pass
        self.preemptions = 0
        self.reused_tokens = 0

    def add(self, text: Text) -> None:
        """Queue a text."""
        bisect.insort(self.waiting, text, key=lambda one: one.order)

    def drop(self, text: Text) -> None:
        """The text has ended; its memory is free at once."""
        if text in self.running:
            self.running.remove(text)
            self._release(text)
        elif text in self.waiting:
            self.waiting.remove(text)

    def spoil(self, text: Text) -> list[Block]:
        """What the text wrote is no good: nobody shall find its blocks. Those that it alone uses
        are given, to be wiped."""
        blocks = [one for table in text.pages.tables.values() for one in table if one is not None]
        for block in blocks:
            self.pool.unname(block)
        return [block for block in blocks if block.users == 1]

    def fits(self, tokens: int, beside: Sequence[tuple[int, int]] = ()) -> bool:
        """Whether a text of so many tokens fits the memory with nobody but its team.

        beside: of each other member the tokens that it shares with the text, and its tokens.
        """
        spare = len(beside) * sum(self.layout.block_pages.values())
        texts = [(0, tokens), *beside]
        pages = sum(self._pages(a, b, min(b, self.limits.step_tokens)) for a, b in texts)
        return pages + spare <= self.pool.total

    def plan(self) -> list[Work]:
        """The next step's work. Every text in it has blocks for its new tokens.

        Texts whose logits wait for their team hold memory and do nothing. Where nobody else can go
        on for that, the last of them gives way; its logits stay.
        """
        works = self._works()
        while not works and (idle := [text for text in self.running if text.held]):
            self._preempt(max(idle, key=lambda one: one.order))
            works = self._works()
        return [Work(text, new, _of_prompt(text, new)) for text, new in works.items()]

    def _works(self) -> dict[Text, int]:
        works: dict[Text, int] = {}
        budget, preempted = self.limits.step_tokens, self.preemptions
        # Those being written first, as they take one token; then prompts, the first come first.
        for text in sorted(self.running, key=lambda one: (one.unread > 1, one.order)):
            new = self._piece(text, budget)
            if text in self.running and new and self._make_room(text, new, works):
                works[text] = new
                budget -= new
        if self.preemptions == preempted:
            self._admit(works, budget)
        return works

    def settle(self, text: Text) -> None:
        """After a step: let others find the text's full blocks, free those out of sight."""
        pages, size = text.pages, self.layout.block_tokens
        full = min(pages.length, self._shareable(text)) // size
        if self.limits.reuse and full > text.named:
            digests = text.digests.upto(text.ids, full)
            for table in pages.tables.values():
                for index in range(text.named, full):
                    block = table[index]
                    if block is not None:
                        self.pool.name(block, digests[index])
            text.named = full
        if LOCAL in pages.tables:
            table = pages.tables[LOCAL]
            for index in range(self.layout.first_seen(LOCAL, pages.length) // size - 1, -1, -1):
                block = table[index]
                if block is None:
                    break
                self.pool.release(block)
                table[index] = None

    def reserve(self, text: Text, new: int) -> int:
        """Blocks for `new` tokens as far as they can be had for nothing; for how many they are."""
        while new > 1 and not self._take(text, new):
            new -= 1
        return min(new, text.pages.room - text.pages.length)

    def fork(self, texts: Sequence[Text], sources: Sequence[Text]) -> None:
        """Each text goes on from what its source holds (which may be itself): it shares the blocks
        until it writes. Where the source holds nothing, or nothing can be shared, it is read."""
        held = [
            (pages.length, pages.turned, source.named, source.digests.fork(), pages.ids.copy())
            for source, pages in ((one, one.pages) for one in sources)
        ]
        tables = [
            {kind: table.copy() for kind, table in source.pages.tables.items()}
            if self.limits.forks or source is text
            else None
            for text, source in zip(texts, sources, strict=True)
        ]
        blocks = [x for one in tables if one for table in one.values() for x in table if x]
        for block in blocks:
            self.pool.use(block)
        for text, table, (length, turned, named, digests, ids) in zip(
            texts, tables, held, strict=True
        ):
            self.drop(text)
            text.pages.ids, text.digests, text.started = ids, digests, True
            if not table or not length:
                self._clear(text)
                self.add(text)
                continue
            text.pages.tables, text.pages.length, text.pages.turned = table, length, turned
            text.named = named
            self.running.append(text)

    def _piece(self, text: Text, budget: int) -> int:
        """How many tokens of the text go through the model next; 0: none in this step."""
        if not self.limits.fixed:
            return min(text.unread, budget)
        length, prompt = text.pages.length, text.prompt_length
        if length >= prompt:
            return min(1, budget)
        piece = min((length // FIXED_PIECE + 1) * FIXED_PIECE, prompt) - length
        return piece if piece <= budget else 0  # never cut

    def _make_room(self, text: Text, new: int, works: dict[Text, int]) -> bool:
        """Blocks for the text's new tokens, if need be those of texts that come after it. False:
        it is the last itself, and waits."""
        while not self._take(text, new):
            last = max(self.running, key=lambda one: one.order)
            if last is text:
                return False
            self._preempt(last)
            works.pop(last, None)
        return True

    def _preempt(self, text: Text) -> None:
        self.running.remove(text)
        self._release(text)
        self.add(text)
        self.preemptions += 1
        if text.team is not None:
            text.team.gave_way()

    def _admit(self, works: dict[Text, int], budget: int) -> None:
        """Start waiting texts, in order, as long as there are places, budget and memory."""
        coming = self._coming()
        places = self.limits.max_running - sum(text.leads for text in self.running)
        for text in list(self.waiting):
            if budget < 1 or (places < 1 and text.leads):
                return
            if text.held:  # not before it is needed again
                continue
            found = self._lookup(text)
            if found < self._usable(text) and self._digests(text)[found] in coming:
                continue  # another text is just reading what this one begins with: wait for it
            new = self._start(text, found, budget)
            if new is None:
                return
            if new:
                works[text] = new
                budget -= new
            places -= text.leads
            coming |= self._unnamed(text)

    def _start(self, text: Text, found: int, budget: int) -> int | None:
        """Take the text in, with its first `found` blocks; how many tokens it reads now. None: no
        memory."""
        size, pages = self.layout.block_tokens, text.pages
        held = self._attach(text, found)
        pages.length = found * size
        new = self._piece(text, budget)
        # One block of each kind stays free for every text that runs already.
        spare = len(self.running) * sum(self.layout.block_pages.values())
        needed = self._pages(pages.length, len(text.ids), min(text.unread, budget)) + spare
        if (self.running and self.pool.available < needed) or not (
            new == 0 or self._take(text, new)
        ):
            for block in reversed(held):
                self.pool.release(block)
            self._clear(text)
            return None
        text.named = found
        if not text.started:
            text.started, text.cached = True, min(pages.length, text.prompt_length)
            self.reused_tokens += text.cached
        self.waiting.remove(text)
        self.running.append(text)
        return new

    def _take(self, text: Text, new: int) -> bool:
        """Blocks for `new` more tokens (in global layers for the whole text: its pages then lie
        together); False, and nothing taken, where there are not enough."""
        pages, size = text.pages, self.layout.block_tokens
        ends = {
            kind: self.layout.blocks(
                max(pages.length + new, len(text.ids) if kind == GLOBAL else 0)
            )
            for kind in pages.tables
        }
        missing = {kind: max(0, end - len(pages.tables[kind])) for kind, end in ends.items()}
        shared = self._shared(text)
        wanted = sum(count * self.layout.block_pages[kind] for kind, count in missing.items())
        wanted += sum(self.layout.block_pages[kind] for kind in shared)
        if wanted > self.pool.available:
            return False
        for kind in shared:
            self._own(pages.tables[kind], pages.length // size)
        for kind, count in missing.items():
            table = pages.tables[kind]
            first = self.layout.first_seen(kind, pages.length) // size
            for _ in range(count):
                if len(table) < first:  # never read: out of sight of what comes
                    table.append(None)
                    continue
                before = table[-1] if table else None
                after = before.pages[-1] if before else -1
                block = self.pool.take(kind, self.layout.block_pages[kind], after)
                assert block is not None
                table.append(block)
        return True

    def _shared(self, text: Text) -> list[str]:
        """The kinds of layers in which the text's next token goes into a block of others too: a
        fork begins amid a block."""
        index, inside = divmod(text.pages.length, self.layout.block_tokens)
        if not inside or text.team is None:
            return []
        tables = text.pages.tables
        return [kind for kind in tables if (block := tables[kind][index]) and block.users > 1]

    def _own(self, table: list[Block | None], index: int) -> None:
        """Put a copy in the place of a shared block. It is made before the next forward pass, and
        in the order of `copies`: until then nobody writes, whoever may get the block meanwhile."""
        block = table[index]
        assert block is not None
        own = self.pool.take(block.kind, len(block.pages))
        assert own is not None
        self.copies.append((block, own))
        self.pool.release(block)
        table[index] = own

    def _pages(self, length: int, tokens: int, new: int) -> int:
        """Pages that a text of `tokens` needs beyond the first `length`, reading `new` at a time;
        an upper bound."""
        total = 0
        for kind, pages in self.layout.block_pages.items():
            blocks = self.layout.blocks(tokens) - length // self.layout.block_tokens
            if kind == LOCAL:
                blocks = min(blocks, self.layout.blocks(self.layout.window + new) + 1)
            total += blocks * pages
        return total

    def _shareable(self, text: Text) -> int:
        """Tokens whose keys and values do not depend on how the text was cut into pieces."""
        if not self.limits.fixed:
            return len(text.ids)
        return text.prompt_length - text.prompt_length % FIXED_PIECE

    def _whole(self, text: Text) -> int:
        """Blocks that texts could share; the last token must be read in any case."""
        tokens = min(self._shareable(text), len(text.ids) - 1)
        return tokens // self.layout.block_tokens if self.limits.reuse else 0

    def _usable(self, text: Text) -> int:
        """Blocks that the text could take over."""
        skips = None if text.team is None else text.team.skips(text)
        found = self._whole(text)
        return found if skips is None else min(found, skips // self.layout.block_tokens)

    def _digests(self, text: Text) -> list[bytes]:
        return text.digests.upto(text.ids, self._usable(text))

    def _lookup(self, text: Text) -> int:
        """How many of the text's first blocks are held already, as far as it will look at them."""
        digests, size = self._digests(text), self.layout.block_tokens
        found = len(digests)
        if GLOBAL in self.layout.block_pages:
            there = (self.pool.find(GLOBAL, digest) is not None for digest in digests)
            found = next((index for index, known in enumerate(there) if not known), found)
        step = FIXED_PIECE // size if self.limits.fixed else 1
        found -= found % step
        if LOCAL in self.layout.block_pages:
            known = [self.pool.find(LOCAL, digest) is not None for digest in digests[:found]]
            while found > 0:
                first = self.layout.first_seen(LOCAL, found * size) // size
                if all(known[first:found]):
                    break
                found -= step
        return found

    def _attach(self, text: Text, found: int) -> list[Block]:
        """Put the first `found` blocks into the text's tables; those in use by it now."""
        digests, size = self._digests(text), self.layout.block_tokens
        held = []
        for kind, table in text.pages.tables.items():
            first = self.layout.first_seen(kind, found * size) // size
            table[:] = [None] * min(first, found)
            for digest in digests[first:found]:
                block = self.pool.find(kind, digest)
                assert block is not None
                self.pool.use(block)
                held.append(block)
                table.append(block)
        return held

    def _coming(self) -> set[bytes]:
        """What the running texts will let others find when they have read their prompts."""
        if not self.limits.reuse or not self.waiting:
            return set()
        reading = (text for text in self.running if text.unread > 1)
        return {digest for text in reading for digest in self._unnamed(text)}

    def _unnamed(self, text: Text) -> set[bytes]:
        return set(text.digests.upto(text.ids, self._whole(text))[text.named :])

    def _release(self, text: Text) -> None:
        for table in text.pages.tables.values():
            for block in reversed(table):
                if block is not None:
                    self.pool.release(block)
        self._clear(text)

    def _clear(self, text: Text) -> None:
        text.pages.length, text.pages.turned, text.named = 0, 0, 0
        for table in text.pages.tables.values():
            table.clear()


def _of_prompt(text: Text, new: int) -> int:
    return min(new, max(0, text.prompt_length - text.pages.length))
