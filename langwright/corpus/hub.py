"""Data sets from the Hugging Face hub: ``hf://owner/name[/config][:split]``.

The hub keeps a Parquet copy of most data sets (the branch ``refs/convert/parquet``), laid out as
``config/split/0000.parquet``. We read that copy, so no code of a data set ever runs; where there is
none, the files of the main branch are read as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base import UserError, nearest
from langwright.corpus.config import CorpusConfig
from langwright.corpus.locate import FoundFile, kind_of

_PARQUET_BRANCH = "refs/convert/parquet"


@dataclass(frozen=True)
class HubName:
    """A data set on the hub, its configuration and split (``train`` unless told)."""

    repository: str
    config: str | None
    split: str


def parse_hub_name(entry: str) -> HubName:
    """Parse ``hf://owner/name[/config][:split]``; a `UserError` if it is none."""
    path, _, split = entry.removeprefix("hf://").partition(":")
    parts = path.strip("/").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(
            "not the name of a data set",
            where=entry,
            expected="hf://owner/name, hf://owner/name/config or hf://owner/name/config:split",
        )
    return HubName("/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split or "train")


def hub_files(entry: str, config: CorpusConfig) -> Iterator[FoundFile]:
    """Download the files of a data set one by one (the hub's own cache keeps them).

    Raises:
        UserError: the library is missing, there is no network, or no such data set.
    """
    name = parse_hub_name(entry)
    try:
        import huggingface_hub as hub
    except ImportError:
        raise UserError(
            "reading data sets from the hub needs a library that is not installed",
            where=entry,
            fix="pip install huggingface_hub",
        ) from None
    branch, files = _list(hub, name, entry, config)
    for file in files:
        local = _ask(
            entry,
            lambda file=file: hub.hf_hub_download(  # type: ignore[misc]
                name.repository, file, repo_type="dataset", revision=branch
            ),
        )
        kind = kind_of(Path(file), config)
        if kind is not None:
            yield FoundFile(Path(local), file, kind, named=True)


def _list(
    hub: Any, name: HubName, entry: str, config: CorpusConfig
) -> tuple[str | None, list[str]]:
    """The branch to read and its files of the wanted configuration and split, sorted."""
    refs = _ask(entry, lambda: hub.HfApi().list_repo_refs(name.repository, repo_type="dataset"))
    branches = [ref.ref for ref in (*refs.branches, *refs.converts)]
    branch = _PARQUET_BRANCH if _PARQUET_BRANCH in branches else None
    every = _ask(
        entry,
        lambda: hub.list_repo_files(name.repository, repo_type="dataset", revision=branch),
    )
    if branch is None:
        wanted = [f for f in every if kind_of(Path(f), config) and _in_split(f, name)]
        choices = sorted(every)
    else:
        parts = [f.split("/") for f in every if f.endswith(".parquet") and f.count("/") >= 2]
        configs = sorted({part[0] for part in parts})
        chosen = name.config or ("default" if "default" in configs else (configs or [""])[0])
        wanted = ["/".join(p) for p in parts if p[0] == chosen and p[1] == name.split]
        choices = sorted({f"{part[0]}:{part[1]}" for part in parts})
    if not wanted:
        asked = f"{name.config or 'default'}:{name.split}"
        guess = nearest(asked, choices)
        raise UserError(
            "the data set has no such part",
            where=entry,
            found=asked,
            expected=", ".join(choices[:12]),
            fix=f"did you mean {guess!r}?" if guess else None,
        )
    return branch, sorted(wanted)


def _in_split(file: str, name: HubName) -> bool:
    inside = name.config is None or name.config in file.split("/")[:-1]
    return inside and name.split in Path(file).as_posix() and not file.startswith(".")


def _ask(entry: str, request: Any) -> Any:
    """A call to the hub; whatever goes wrong with it is the user's to mend."""
    try:
        return request()
    except Exception as error:  # the library raises many kinds: HTTP, offline, not found
        message = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"the hub did not give the data set: {message or type(error).__name__}",
            where=entry,
            fix="check the name and the network; private data sets need `hf auth login`",
        ) from None
