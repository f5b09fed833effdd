"""Where OpenAI keeps the files of GPT-2, and how large each is."""

from __future__ import annotations

from dataclasses import dataclass

from langwright.base import UserError, nearest

ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/models"
DATA = "model.ckpt.data-00000-of-00001"
# Parameters of each size; the data file holds them as float32 and nothing else.
PARAMETERS = {
    "124M": 124_439_808,
    "355M": 354_823_168,
    "774M": 774_030_080,
    "1558M": 1_557_611_200,
}
NAMES = (
    "checkpoint",
    "encoder.json",
    "hparams.json",
    DATA,
    "model.ckpt.index",
    "model.ckpt.meta",
    "vocab.bpe",
)


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch; `size` in bytes where it is known beforehand."""

    name: str
    url: str
    size: int | None = None


def openai_files(size: str, address: str = ADDRESS) -> list[RemoteFile]:
    """The seven files of a GPT-2: "124M", "355M", "774M" or "1558M" (also "gpt2-124m").

    Raises:
        UserError: there is no such size.
    """
    wanted = size.removeprefix("gpt2-").upper()
    if wanted not in PARAMETERS:
        guess = nearest(wanted, PARAMETERS)
        raise UserError(
            "OpenAI released no GPT-2 of this size",
            found=size,
            expected=", ".join(PARAMETERS),
            fix=f"did you mean {guess!r}?" if guess else None,
        )
    return [
        RemoteFile(
            name, f"{address}/{wanted}/{name}", 4 * PARAMETERS[wanted] if name == DATA else None
        )
        for name in NAMES
    ]
