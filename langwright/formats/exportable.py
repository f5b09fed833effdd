"""Whether other software can hold a model, and which."""

from __future__ import annotations

from pydantic import ValidationError

from langwright.base import UserError
from langwright.formats.families import FAMILIES
from langwright.formats.hf_config import computation, family_of
from langwright.model import ModelConfig

WAY_OUT = (
    "Langwright itself runs, serves and fine-tunes the folder as it is; for other software "
    "train a model that it knows, such as preset = 'qwen3-30m'"
)


def check_exportable(config: ModelConfig, target: str) -> None:
    """Refuse a model of the "fastest" kind: its parameters have no place in any other format, and
    without them it would be another model. Which formats have a place for the others:
    `opened_by`.

    Args:
        target: the format, for the message.

    Raises:
        UserError: naming the options in the way, and the way out.
    """
    if not config.unexported:
        return
    raise UserError(
        f"this model was made for speed in training, and {target} cannot hold it",
        where="[model]",
        found=", ".join(f"{name} = true" for name in config.unexported),
        expected="none of these",
        fix=WAY_OUT,
    )


def transformers_architecture(config: ModelConfig) -> str:
    """The class of transformers that computes what `config` says, such as "Qwen3ForCausalLM".

    Raises:
        UserError: there is none, naming the settings in the way.
    """
    check_exportable(config, "Hugging Face's layout")
    family = family_of(config)
    if family is None:
        raise UserError(
            "no architecture of transformers computes what this model does",
            where="[model]",
            found=_in_the_way(config),
            fix=WAY_OUT,
        )
    return family.architecture


def opened_by(config: ModelConfig) -> dict[str, str]:
    """Other programs that compute what `config` says, each with its architecture: of
    "transformers" the class, of "llama.cpp" (a GGUF file) the name. Empty: Langwright alone."""
    from langwright.formats.gguf.save import gguf_architecture

    found = {}
    for program, architecture in (
        ("transformers", transformers_architecture),
        ("llama.cpp", gguf_architecture),
    ):
        try:
            check_exportable(config, program)
            found[program] = architecture(config)
        except UserError:  # the answer is no
            continue
    return found


def _in_the_way(config: ModelConfig) -> str | None:
    """What the nearest family computes otherwise."""
    wanted = computation(config)
    nearest: tuple[int, str] | None = None
    for family in FAMILIES.values():
        try:
            found = computation(ModelConfig(**family.read(family.write(config), None)))
        except (ValidationError, UserError):
            continue
        names = sorted(name for name in wanted if wanted[name] != found.get(name))
        if nearest is None or len(names) < nearest[0]:
            nearest = (len(names), f"{', '.join(names)} (nearest: {family.architecture})")
    return nearest[1] if nearest else None
