"""The dataset stage: documents and a tokenizer in, token shards out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from langwright.base import Progress, UserError, hash_json, read_json, sha256_file, write_json
from langwright.dataset.config import DatasetConfig
from langwright.dataset.mixing import MixedRows
from langwright.dataset.opening import open_training_rows, source_weights
from langwright.dataset.packed import PackedRows
from langwright.dataset.rows import Rows
from langwright.dataset.shards import MANIFEST, DatasetManifest, SourceInfo, TokenShards
from langwright.dataset.tokens import id_dtype
from langwright.dataset.writer import ShardWriter

SPLITS = ("train", "valid", "test")
_DONE = "source.json"  # marks a source that is finished, for an interrupted build to keep
_BATCH_CHARACTERS = 4_000_000
_BATCH_DOCUMENTS = 4096

Texts = Callable[[], Iterable[str]]


def build_dataset(
    config: DatasetConfig, corpus: Path, tokenizer: Path, out: Path, *, quiet: bool = False
) -> dict[str, Any]:
    """Tokenise a corpus into shards. Returns counts, and rows and fill of the training split.

    Sources that an interrupted call finished (same corpus, tokenizer and config) are kept.

    Args:
        config: how.
        corpus: folder of the corpus stage.
        tokenizer: folder of the tokenizer stage.
        out: folder to fill.
        quiet: show no progress.

    Raises:
        UserError: no training text, too little of it, a wrong weight, or an id outside the
            vocabulary.
    """
    # Imported here: reading a finished dataset needs neither room.
    from langwright.corpus import read_documents, sources
    from langwright.tokenizer import load_tokenizer

    def texts_of(split: str, source: str) -> Texts:
        return lambda: (document.text for document in read_documents(corpus, split, source))

    splits: dict[str, dict[str, Texts]] = {}
    keys: dict[str, str] = {}
    for split in SPLITS:
        for source in sources(corpus, split):
            splits.setdefault(split, {})[source] = texts_of(split, source)
            file = Path(corpus) / split / f"{source}.parquet"
            keys[f"{split}/{source}"] = sha256_file(file) if file.is_file() else ""
    key = hash_json([_hash_folder(Path(tokenizer)), keys])
    return write_dataset(config, splits, load_tokenizer(tokenizer), out, key=key, quiet=quiet)


def write_dataset(
    config: DatasetConfig,
    splits: Mapping[str, Mapping[str, Texts]],
    tokenizer: Any,
    out: str | Path,
    *,
    key: str | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """`build_dataset` for texts from anywhere: split -> source -> function that gives the texts.

    `key` stands for texts and tokenizer: finished sources left in `out` under the same key and
    config are kept. None: everything is made anew.
    """
    out = Path(out)
    if not splits.get("train"):
        raise UserError("the corpus has no training text", fix="check the corpus stage's report")
    source_weights(config.weights, list(splits["train"]), where="[dataset] weights")
    separator = None if config.eos == "none" else tokenizer.eos_id
    head = tokenizer.bos_id if tokenizer.bos_id is not None else separator
    if separator is None and config.eos == "between":
        raise UserError(
            "eos = 'between' needs a separator token", found="a tokenizer without <|endoftext|>",
            fix="set eos = 'none', or use a tokenizer that has one",
        )  # fmt: skip
    started = time.perf_counter()
    content: dict[str, dict[str, SourceInfo]] = {}
    for split, by_source in splits.items():
        for source, texts in by_source.items():
            if not source or Path(source).name != source:
                raise UserError("a source's name must be a plain file name", found=source)
            mark = hash_json([key, split, source, _shard_settings(config)])
            info = None if key is None else _finished(out / split / source, mark)
            if info is None:
                with Progress(f"tokenise {split}/{source}", unit="documents", quiet=quiet) as bar:
                    info = _write_source(
                        config, texts(), tokenizer, separator, head, out / split / source, bar
                    )
                write_json(out / split / source / _DONE, {"mark": mark, "info": info.to_json()})
            if info.documents:
                content.setdefault(split, {})[source] = info
    if "train" not in content:
        raise UserError("no training text holds a token", where=out, fix="check the corpus")
    manifest = DatasetManifest(
        vocab_size=tokenizer.vocab_size,
        dtype=id_dtype(tokenizer.vocab_size).str,
        separator=separator,
        head=head,
        config=config,
        splits=content,
    )
    write_json(out / MANIFEST, manifest.to_json())
    return _metrics(out, manifest, time.perf_counter() - started)


def _write_source(
    config: DatasetConfig,
    texts: Iterable[str],
    tokenizer: Any,
    separator: int | None,
    head: int | None,
    folder: Path,
    progress: Any,
) -> SourceInfo:
    head_bytes = first_bytes = 0
    with ShardWriter(
        folder,
        vocab_size=tokenizer.vocab_size,
        separator=separator,
        between=config.eos == "between",
        shard_tokens=config.shard_tokens,
    ) as writer:
        for batch in _batches(texts):
            ids = _encode(tokenizer, batch, config.allow_special)
            if head is None:  # nothing predicts a document's first token: its bytes are
                heads = [len(tokenizer.token_bytes(int(one[0]))) for one in ids if len(one)]
                if heads and writer.documents == 0:
                    first_bytes = heads[0]
                head_bytes += sum(heads)  # taken off when bits per byte is computed
            writer.add(ids, [len(text.encode("utf-8")) for text in batch])
            progress.advance(len(batch), tokens=f"{writer.tokens:,}")
        return writer.finish(head_bytes=head_bytes, first_bytes=first_bytes)


def _encode(tokenizer: Any, texts: list[str], allowed: list[str]) -> list[np.ndarray]:
    if not allowed:
        return tokenizer.encode_batch(texts)
    return [
        np.array(tokenizer.encode(text, allowed_special=set(allowed)), np.int64) for text in texts
    ]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists of bounded size (a single text may be larger)."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _shard_settings(config: DatasetConfig) -> dict[str, Any]:
    """What of the config decides the content of the shards."""
    return {name: getattr(config, name) for name in ("eos", "allow_special", "shard_tokens")}


def _finished(folder: Path, mark: str) -> SourceInfo | None:
    """The counts of a source that an earlier call finished under the same settings."""
    path = folder / _DONE
    if not path.is_file():
        return None
    done = read_json(path)
    return SourceInfo.parse(done["info"], where=path) if done["mark"] == mark else None


def _hash_folder(folder: Path) -> dict[str, str]:
    files = [folder] if folder.is_file() else sorted(p for p in folder.iterdir() if p.is_file())
    return {path.name: sha256_file(path) for path in files if path.name != "manifest.json"}


def _metrics(out: Path, manifest: DatasetManifest, seconds: float) -> dict[str, Any]:
    shards = TokenShards(out)
    rows = open_training_rows(shards)
    counts: dict[str, dict[str, dict[str, Any]]] = {
        split: {
            source: {
                "documents": info.documents,
                "tokens": info.tokens,
                "text_bytes": info.text_bytes,
                "bytes_per_token": round(info.text_bytes / info.tokens, 4),
                "empty_documents": info.empty,
            }
            for source, info in by_source.items()
        }
        for split, by_source in manifest.splits.items()
    }
    total = sum(source["tokens"] for split in counts.values() for source in split.values())
    return {
        "splits": counts,
        "tokens": total,
        "id_type": "uint16" if manifest.dtype == "<u2" else "uint32",
        "sequence_length": rows.sequence_length,
        "packing": manifest.config.packing,
        "training_rows": rows.epoch_rows,
        "training": _describe(rows, manifest),
        "tokens_per_second": round(total / max(seconds, 1e-9)),
    }


def _describe(rows: Rows, manifest: DatasetManifest) -> dict[str, dict[str, float]]:
    """For each source used in training: rows in a pass, share of the mix, fill of its rows."""
    if isinstance(rows, MixedRows):
        parts = zip(rows.names, rows.rows, rows.quotas / rows.block_rows)
    else:
        weights = manifest.config.weights
        names = [n for n in manifest.splits["train"] if not weights or weights[n] > 0]
        parts = zip(names, [rows], np.ones(1))
    return {
        name: {
            "rows": part.epoch_rows or 0,
            "share": round(float(share), 5),
            "fill": round(part.fill, 5) if isinstance(part, PackedRows) else 1.0,
        }
        for name, part, share in parts
    }
