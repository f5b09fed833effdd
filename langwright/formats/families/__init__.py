"""The architectures of the `transformers` library that we read and write.

A family is a translation of its ``config.json`` to `ModelConfig` and back, and the names of its
tensors. Where several compute the same, the first in this order is the one that is written.
"""

from langwright.formats.families.common import Family, unsupported
from langwright.formats.families.deepseek_v3 import DEEPSEEK_V3
from langwright.formats.families.gemma import GEMMA, GEMMA2, GEMMA3
from langwright.formats.families.gpt2 import GPT2
from langwright.formats.families.gpt_neox import GPT_NEOX
from langwright.formats.families.llama import LLAMA, MISTRAL, SMOLLM3
from langwright.formats.families.mixtral import MIXTRAL
from langwright.formats.families.olmo2 import OLMO2
from langwright.formats.families.phi3 import PHI3
from langwright.formats.families.qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        QWEN3,
        LLAMA,
        GPT2,
        QWEN2,
        MISTRAL,
        SMOLLM3,
        PHI3,
        GEMMA,
        GEMMA2,
        GEMMA3,
        OLMO2,
        GPT_NEOX,
        MIXTRAL,
        QWEN3_MOE,
        QWEN2_MOE,
        DEEPSEEK_V3,
    )
}

# Architectures that look like ours and are not, with the reason.
REFUSED = {
    "gpt_oss": "its experts have biases and a clamped gate, (up + 1) gate sigmoid(1.702 gate)",
    "gemma3": "it reads images too; its text part alone is model_type gemma3_text",
    "deepseek_v2": "its experts are chosen by the largest score of a group",
    "phi3small": "its attention is block-sparse",
    "phimoe": "its router is trained by sparse sampling",
}

__all__ = ["FAMILIES", "REFUSED", "Family", "unsupported"]
