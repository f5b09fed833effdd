"""The pool of blocks: no page is lost, held twice, or found under the wrong name."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from langwright.generate.blocks import BlockPool, Digests


class Pool(RuleBasedStateMachine):
    """A pool against a plain account of it."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(12, first=2)
        self.held = []  # (block, digest or None), one entry for each use
        self.idle = []  # digests of unused blocks, the oldest first
        self.evicted = 0

    @rule(pages=st.integers(1, 4), kind=st.sampled_from("gl"))
    def take(self, pages, kind):
        free = self.pool.available
        block = self.pool.take(kind, pages)
        assert (block is None) == (free < pages)
        if block is not None:
            assert len(block.pages) == pages and block.users == 1
            self.held.append(block)

    @rule(data=st.data(), content=st.integers(0, 5))
    def name(self, data, content):
        if self.held:
            block = data.draw(st.sampled_from(self.held))
            there = self.pool.find(block.kind, bytes([content]))
            named = block.digest
            self.pool.name(block, bytes([content]))
            expected = there or (block if named is None else None)
            assert self.pool.find(block.kind, bytes([content])) is expected

    @rule(kind=st.sampled_from("gl"), content=st.integers(0, 5))
    def use(self, kind, content):
        block = self.pool.find(kind, bytes([content]))
        if block is not None:
            assert (block.kind, block.digest) == (kind, bytes([content]))
            self.pool.use(block)
            self.held.append(block)

    @rule(data=st.data())
    def release(self, data):
        if self.held:
            block = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            self.pool.release(block)

    @rule()
    def forget(self):
        self.pool.forget()
        assert self.pool.available == len(self.pool._free)

    @invariant()
    def nothing_is_lost(self):
        used = {page for block in self.held for page in block.pages}
        assert self.pool.used == len(used)
        assert self.pool.available == 12 - len(used)
        assert sum(len(block.pages) for block in set(self.held)) == len(used)
        for block in set(self.held):
            assert block.users == self.held.count(block)
        assert used <= set(range(2, 14)) and not used & set(self.pool._free)


Pool.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPool = Pool.TestCase


def test_the_longest_unused_goes_first():
    pool = BlockPool(3)
    blocks = [pool.take("g", 1) for _ in range(3)]
    for index, block in enumerate(blocks):
        pool.name(block, bytes([index]))
    for index in (1, 0, 2):
        pool.release(blocks[index])
    pool.use(pool.find("g", b"\0"))  # in use again: safe
    pool.take("g", 1)
    assert pool.find("g", b"\1") is None and pool.find("g", b"\2") is blocks[2]
    pool.take("g", 1)
    assert pool.find("g", b"\2") is None
    assert pool.take("g", 1) is None and pool.evicted == 2


def test_pages_follow_one_another():
    pool = BlockPool(8)
    first = pool.take("g", 1)
    other = pool.take("g", 1, after=5)
    assert (first.pages, other.pages) == ((0,), (6,))
    assert pool.take("g", 2, after=first.pages[-1]).pages == (1, 2)


def test_digests_stand_for_everything_before():
    text = list(range(12))
    one = Digests(4).upto(text, 3)
    assert Digests(4).upto(text[:8], 2) == one[:2]
    changed = Digests(4).upto([9, *text[1:]], 3)
    assert not set(one) & set(changed)
    assert not set(one) & set(Digests(4, salt="other").upto(text, 3))
    grown = Digests(4)
    assert grown.upto(text[:5], 1) == one[:1] and grown.upto(text, 3) == one
    assert Digests(4).upto([2**40] * 4, 1) != Digests(4).upto([0] * 4, 1)
