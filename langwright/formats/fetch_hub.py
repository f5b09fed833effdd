"""Models from the Hugging Face hub: ``owner/name[@revision]``, pinned to a commit.

Only text and safetensors (or one GGUF file) are fetched, never a pickle. The config is read first,
so that a model which we could not compute is refused before its gigabytes come.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base import Progress, UserError, read_untrusted_json, sha256_file
from langwright.formats.choose_files import CONFIG, choose_files
from langwright.formats.disk_room import check_room
from langwright.formats.hf_config import from_hf_config
from langwright.formats.shards import INDEX, MOST_INDEX_BYTES

MOST_SMALL_BYTES = 64 * 2**20  # the largest tokenizers have 35 MB
HUB_NAME = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}(@[\w][\w./-]{0,200})?")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubModel:
    """A repository at one commit: its files with their sizes and, of large ones, their SHA-256."""

    repository: str
    commit: str
    sizes: dict[str, int]
    sums: dict[str, str]
    licence: str | None


def find_on_hub(repository: str, revision: str | None) -> HubModel:
    """Ask the hub which commit `revision` (branch, tag or commit; default main) is."""
    hub = _library(repository)
    api = hub.HfApi()
    found = _ask(
        repository, lambda: api.model_info(repository, revision=revision, files_metadata=True)
    )
    if not COMMIT.fullmatch(found.sha or ""):
        raise UserError("the hub named no commit", where=repository, found=repr(found.sha)[:80])
    sizes, sums = {}, {}
    for sibling in found.siblings or []:
        sizes[sibling.rfilename] = sibling.size or 0
        if sibling.lfs is not None and getattr(sibling.lfs, "sha256", None):
            sums[sibling.rfilename] = sibling.lfs.sha256
    card = getattr(found, "card_data", None)
    told = card.get("license") if card is not None else None
    licence = told if isinstance(told, str) else None
    return HubModel(repository, found.sha, sizes, sums, licence)


def fetch_from_hub(model: HubModel, folder: Path, file: str | None = None) -> dict[str, str]:
    """Bring the files of `model` into `folder`; goes on where an earlier call stopped.

    Returns:
        The SHA-256 of each file of weights.

    Raises:
        UserError: see `choose_files`; or the model is one that we do not compute; or a file is not
            what the hub said.
    """
    hub = _library(model.repository)
    where = f"{model.repository}@{model.commit[:12]}"

    def get(name: str, bar: type | None = None) -> Path:
        extra = {"tqdm_class": bar} if bar and _takes_bar(hub) else {}
        return Path(
            _ask(
                where,
                lambda: hub.hf_hub_download(
                    model.repository, name, revision=model.commit, local_dir=folder, **extra
                ),
            )
        )

    def get_small(name: str, most: int = MOST_SMALL_BYTES) -> Path:
        if (size := model.sizes[name]) > most:
            raise UserError(f"{name} is far too large", where=where, found=f"{size:,} bytes")
        return get(name)

    def index() -> Any:
        return read_untrusted_json(get_small(INDEX, MOST_INDEX_BYTES), MOST_INDEX_BYTES)

    small, weights = choose_files(model.sizes, index, where, file)
    if CONFIG in small:
        path = get_small(CONFIG)
        from_hf_config(read_untrusted_json(path, 2**20), where=f"{where} {CONFIG}")
    for name in small:
        get_small(name)
    total = sum(model.sizes[name] for name in weights)
    check_room(folder, total)
    with Progress(model.repository, total, "B") as progress:
        for name in weights:
            get(name, _bar(progress))
    sums = {}
    for name in weights:
        sums[name] = sha256_file(folder / name)
        if model.sums.get(name, sums[name]) != sums[name]:
            (folder / name).unlink()
            raise UserError(
                "the file is not the one that the hub tells of (its SHA-256 differs)",
                where=f"{where} {name}",
                found=sums[name],
                expected=model.sums[name],
                fix="run the same command again: it fetches this file anew",
            )
    return sums


def _library(entry: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            "fetching from the hub needs a library that is not installed",
            where=entry,
            fix="pip install huggingface_hub",
        ) from None
    return huggingface_hub


def _takes_bar(hub: Any) -> bool:
    return "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters


def _bar(progress: Progress) -> type:
    """The hub's own progress bar, silent, telling ours instead."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})
            progress.advance(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            progress.advance(n or 0)
            return None

    return Bar


def _ask(where: str, request: Any) -> Any:
    """A call to the hub; whatever goes wrong with it is the user's to mend."""
    try:
        return request()
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds: HTTP, offline, gated, not found
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"the hub did not give it: {' '.join(lines)[:300] or type(error).__name__}",
            where=where,
            fix="check the name and the network (the same command goes on from here); private and "
            "gated models need `hf auth login`",
        ) from None
