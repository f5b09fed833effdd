"""Who holds which piece of the cache's memory.

Memory is counted in pages. A block stands for `block_tokens` consecutive tokens of one text in the
layers of one kind (those that see everything, or those that see a window) and holds as many pages
as these layers need. Blocks are shared: a block whose tokens are all known is named by a digest of
these tokens and of everything before them, so a second text that begins alike finds it. A block
that nobody uses any more stays findable until its pages are needed; the longest unused goes first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

Key = tuple[str, bytes]  # the layers' kind and the digest


@dataclass(eq=False, slots=True)
class Block:
    """Pages for `block_tokens` tokens in the layers of one kind."""

    kind: str
    pages: tuple[int, ...]
    users: int = 1
    digest: bytes | None = field(default=None, repr=False)


class BlockPool:
    """Hands out blocks, counts their users, finds blocks by what stands in them.

    Args:
        pages: how many there are, numbered from `first`.
        first: number of the first page.
    """

    def __init__(self, pages: int, first: int = 0) -> None:
        self.total = pages
        # A dict in place of a set: pages come out in ascending order as long as that is possible,
        # so a text's pages tend to lie side by side.
        self._free: dict[int, None] = dict.fromkeys(range(first, first + pages))
        self._known: dict[Key, Block] = {}
        self._idle: OrderedDict[Block, None] = OrderedDict()  # unused but findable, oldest first
        self._idle_pages = 0
        self.evicted = 0

    @property
    def available(self) -> int:
        """Pages that can be had: the free ones and those of blocks nobody uses."""
        return len(self._free) + self._idle_pages

    @property
    def used(self) -> int:
        """Pages of blocks in use."""
        return self.total - self.available

    def take(self, kind: str, pages: int, after: int = -1) -> Block | None:
        """A new block of so many pages, or None. `after`: the page it should follow, if it can."""
        if self.available < pages:
            return None
        while len(self._free) < pages:
            self._evict()
        numbers = []
        for _ in range(pages):
            after = after + 1 if after + 1 in self._free else next(iter(self._free))
            del self._free[after]
            numbers.append(after)
        return Block(kind, tuple(numbers))

    def find(self, kind: str, digest: bytes) -> Block | None:
        """The block of this content, if there is one; `use` it before anything else is taken."""
        return self._known.get((kind, digest))

    def use(self, block: Block) -> None:
        """One more user."""
        if block.users == 0:
            del self._idle[block]
            self._idle_pages -= len(block.pages)
        block.users += 1

    def release(self, block: Block) -> None:
        """One user less. Release a text's last block first: then it is also evicted first."""
        block.users -= 1
        if block.users > 0:
            return
        if block.digest is None:
            self._free.update(dict.fromkeys(block.pages))
        else:
            self._idle[block] = None
            self._idle_pages += len(block.pages)

    def name(self, block: Block, digest: bytes) -> None:
        """The block's tokens are all there: let it be found by them. Where another block has the
        same content, that one stays."""
        if block.digest is None and (block.kind, digest) not in self._known:
            block.digest = digest
            self._known[block.kind, digest] = block

    def unname(self, block: Block) -> None:
        """Nobody finds the block any more."""
        if block.digest is not None:
            del self._known[block.kind, block.digest]
            block.digest = None

    def forget(self) -> int:
        """Drop every block that is not in use; how many these were."""
        count = len(self._idle)
        while self._idle:
            self._evict()
        return count

    def _evict(self) -> None:
        block, _ = self._idle.popitem(last=False)
        self._idle_pages -= len(block.pages)
        self._free.update(dict.fromkeys(block.pages))
        self.unname(block)
        self.evicted += 1


class Digests:
    """The digests of a text's full blocks, made as the text grows.

    Digest i stands for tokens 0 ... (i + 1) `block_tokens` - 1. BLAKE2b, so that nobody can make a
    prompt that finds the blocks of another one. Texts of different `salt` share nothing.
    """

    def __init__(self, block_tokens: int, salt: str = "") -> None:
        self._size = block_tokens
        self._last = hashlib.blake2b(salt.encode(), digest_size=16).digest()
        self._made: list[bytes] = []

    def upto(self, tokens: Sequence[int], count: int) -> list[bytes]:
        """The first `count` digests of a text that begins with the one given before."""
        while len(self._made) < count:
            start = len(self._made) * self._size
            ids = array("q", tokens[start : start + self._size])
            self._last = hashlib.blake2b(self._last + ids.tobytes(), digest_size=16).digest()
            self._made.append(self._last)
        return self._made[:count]

    def fork(self) -> Digests:
        """For a text that goes on otherwise."""
        other = Digests(self._size)
        other._last, other._made = self._last, self._made.copy()
        return other
