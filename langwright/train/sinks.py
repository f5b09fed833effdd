"""Other places that metrics can go to besides metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from langwright.base import UserError, hash_json
from langwright.train.config import TrainConfig
from langwright.train.metrics import Record

INSTALL = 'pip install "langwright[logging]"'


class Sink(Protocol):
    """Takes the records of a run."""

    def write(self, records: list[Record]) -> None:
        """Take records of the form of metrics.jsonl."""
        ...

    def close(self) -> None:
        """Write everything out."""
        ...


class TensorBoard:
    """Scalars and samples as TensorBoard files in ``folder/tensorboard``."""

    def __init__(self, folder: Path, start_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "TensorBoard is not installed", where="tensorboard", fix=INSTALL
            ) from None
        # Points after the checkpoint that this run goes on from are dropped by TensorBoard.
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)

    def write(self, records: list[Record]) -> None:
        """One scalar per number, one text per sample."""
        for record in records:
            for name, value in numbers(record).items():
                self._writer.add_scalar(name, value, record["step"])
            for i, sample in enumerate(record.get("samples", [])):
                text = sample["prompt"] + sample["text"]
                self._writer.add_text(f"sample/{i}", text, record["step"])

    def close(self) -> None:
        """Flush the files."""
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run, continued under the same id when the training is."""

    def __init__(self, project: str, folder: Path, config: TrainConfig) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                "Weights & Biases is not installed", where="wandb", fix=INSTALL
            ) from None
        name = hash_json(str(folder.resolve()))[:16]
        self._run: Any = wandb.init(
            project=project, id=name, resume="allow", dir=str(folder), config=config.to_json()
        )

    def write(self, records: list[Record]) -> None:
        """Log the numbers of each record at its step."""
        for record in records:
            self._run.log(numbers(record), step=record["step"])

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class Trackio:
    """A Trackio run: Weights & Biases' interface, kept on this machine."""

    def __init__(self, project: str, folder: Path, config: TrainConfig) -> None:
        try:
            import trackio
        except ImportError:
            raise UserError(
                "Trackio is not installed", where="trackio", fix="pip install trackio"
            ) from None
        self._library: Any = trackio
        name = f"{folder.resolve().parent.name}-{hash_json(str(folder.resolve()))[:8]}"
        trackio.init(project=project, name=name, resume="allow", config=config.to_json())

    def write(self, records: list[Record]) -> None:
        """Log the numbers of each record at its step."""
        for record in records:
            self._library.log(numbers(record), step=record["step"])

    def close(self) -> None:
        """End the run."""
        self._library.finish()


class Guarded:
    """A sink whose failures (a full disk, no network) stop itself and not the training."""

    def __init__(self, inner: Sink, name: str, say: Callable[[str], None]) -> None:
        self._inner, self._name, self._say = inner, name, say
        self._broken = False

    def write(self, records: list[Record]) -> None:
        """As the inner sink; after a failure nothing more."""
        self._try(self._inner.write, records)

    def close(self) -> None:
        """As the inner sink."""
        self._try(self._inner.close)

    def _try(self, work: Callable[..., None], *arguments: Any) -> None:
        if self._broken:
            return
        try:
            work(*arguments)
        except Exception as error:
            self._broken = True
            self._say(
                f"{self._name} failed ({type(error).__name__}: {error}) and gets no more figures; "
                "metrics.jsonl has them all"
            )


def open_sinks(
    config: TrainConfig,
    folder: Path,
    start_step: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Sink]:
    """The sinks that the config asks for.

    Args:
        start_step: updates made by earlier starts.
        say: told when a sink fails later on.

    Raises:
        UserError: the software of a sink is not installed.
    """
    sinks: list[Sink] = []
    if config.tensorboard:
        sinks.append(Guarded(TensorBoard(folder, start_step), "TensorBoard", say))
    if config.wandb:
        inner = WeightsAndBiases(config.wandb, folder, config)
        sinks.append(Guarded(inner, "Weights & Biases", say))
    if config.trackio:
        sinks.append(Guarded(Trackio(config.trackio, folder, config), "Trackio", say))
    return sinks


def numbers(record: Record) -> dict[str, float]:
    """The numeric fields of a record, without the step."""
    return {
        name: float(value)
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
