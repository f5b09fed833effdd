"""GPT-2's tokenizer from the two files that OpenAI published."""

from __future__ import annotations

from pathlib import Path

from langwright.base import UserError, read_untrusted, read_untrusted_json
from langwright.tokenizer.bpe import BytePairTokenizer
from langwright.tokenizer.byte_alphabet import to_bytes
from langwright.tokenizer.patterns import GPT2
from langwright.tokenizer.special import END_OF_TEXT, Specials

LARGEST_FILE = 16 * 2**20  # bytes; OpenAI's have one


def gpt2_tokenizer(encoder_json: str | Path, vocab_bpe: str | Path) -> BytePairTokenizer:
    """GPT-2's BPE: 256 bytes, 50,000 merges and ``<|endoftext|>``, 50,257 ids in all.

    Args:
        encoder_json: ``encoder.json`` (also called ``vocab.json``): token to id.
        vocab_bpe: ``vocab.bpe`` (also called ``merges.txt``): the merges, one a line, in order.
    """
    table = read_untrusted_json(encoder_json, LARGEST_FILE)
    if not all(type(number) is int for number in table.values()):
        raise UserError("not a table from token to id", where=encoder_json)
    special = {END_OF_TEXT: table.pop(END_OF_TEXT)} if END_OF_TEXT in table else {}
    ranks = {to_bytes(token, where=encoder_json): number for token, number in table.items()}
    specials = Specials(special, eos=END_OF_TEXT if special else None)
    tokenizer = BytePairTokenizer(ranks, GPT2, specials)
    merges = _read_merges(vocab_bpe)
    if len(merges) != len(tokenizer.merges):
        raise UserError(
            "the two files do not belong together",
            where=vocab_bpe,
            found=f"{len(merges)} merges",
            expected=f"{len(tokenizer.merges)}, after {encoder_json}",
        )
    for line, (found, expected) in enumerate(zip(merges, tokenizer.merges), 2):
        if found != expected:
            raise UserError(
                "these merges are not those of the vocabulary",
                where=f"{vocab_bpe}:{line}",
                found=repr(found),
                expected=f"{expected!r}, after {encoder_json}",
            )
    return tokenizer


def _read_merges(path: str | Path) -> list[tuple[bytes, bytes]]:
    try:
        lines = read_untrusted(path, LARGEST_FILE).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8: {error}", where=path) from None
    merges = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#version") or not line:
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise UserError("not a merge", where=f"{path}:{number}", found=repr(line[:60]))
        where = f"{path}:{number}"
        merges.append((to_bytes(parts[0], where=where), to_bytes(parts[1], where=where)))
    return merges
