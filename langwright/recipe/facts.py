"""What a run directory says about itself: everything the report and the summary are made from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langwright.base import Manifest, UserError, read_json, read_manifest

STAGES = ("corpus", "tokenizer", "dataset", "pretrain", "sft", "evaluate")
CLASSICS = {"xz": "xz -9e", "zstd": "zstd -19 --long=27", "5-gram": "byte 5-gram"}

Record = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """A run as plain data. Parts that are not there are empty."""

    folder: Path
    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    training: dict[str, list[Record]] = field(default_factory=dict)  # stage -> metrics.jsonl
    statistics: dict[str, list[Record]] = field(default_factory=dict)  # stage -> statistics.jsonl
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)  # stage -> choices.json
    evaluation: dict[str, Any] = field(default_factory=dict)
    corpus: dict[str, Any] = field(default_factory=dict)
    efficiency: dict[str, Any] = field(default_factory=dict)

    def metrics(self, stage: str) -> dict[str, Any]:
        """The figures a stage returned."""
        return self.manifests[stage].metrics if stage in self.manifests else {}

    @property
    def headline(self) -> dict[str, Any]:
        """Bits per byte of the model and of the classics on the first source; or empty."""
        return self.evaluation.get("headline") or {}

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(manifest.seconds for manifest in self.manifests.values())

    def headline_loss(self) -> dict[str, Any] | None:
        """The loss row of the headline's source and split, of the model before fine-tuning."""
        for row in self.evaluation.get("losses", []):
            same = all(row.get(key) == self.headline.get(key) for key in ("source", "split"))
            if same and row.get("model") != "fine-tuned":
                return row
        return None

    def classics(self) -> dict[str, float]:
        """Bits per byte of each classic on the headline's text, by a readable name."""
        return {
            CLASSICS.get(name, name): row["bits_per_byte"]
            for name, row in self.headline.items()
            if isinstance(row, dict) and name != "model" and row.get("bits_per_byte") is not None
        }


def read_facts(folder: Path) -> Facts:
    """Read a run directory. Only files are looked at, nothing is computed."""
    if not folder.is_dir():
        raise UserError("run folder not found", where=folder)
    found = [name for name in STAGES if (folder / name / "manifest.json").exists()]
    if not found:
        raise UserError("no finished stage in this folder", where=folder, fix="give a run folder")
    record = _optional(folder / "recipe.json")
    recipe = record.get("recipe", {})
    trained = [name for name in ("pretrain", "sft") if name in found]
    return Facts(
        folder=folder,
        name=str(recipe.get("name") or folder.resolve().name),
        recipe=recipe,
        manifests={name: read_manifest(folder / name) for name in found},
        training={name: read_records(folder / name / "metrics.jsonl") for name in trained},
        statistics={name: read_records(folder / name / "statistics.jsonl") for name in trained},
        choices={name: _choices(folder / name / "choices.json") for name in trained},
        evaluation=_optional(folder / "evaluate" / "evaluation.json"),
        corpus=_optional(folder / "corpus" / "report.json"),
        efficiency=_optional(folder / "tokenizer" / "efficiency.json"),
    )


def read_records(path: Path) -> list[Record]:
    """The whole lines of a JSON-lines file; empty if there is none."""
    records: list[Record] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                break  # a line that was being written
            if isinstance(value, dict):
                records.append(value)
    return records


def _choices(path: Path) -> dict[str, Any]:
    record = _optional(path)
    return record.get("choices", record)


def _optional(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.exists() else {}
    return value if isinstance(value, dict) else {}
