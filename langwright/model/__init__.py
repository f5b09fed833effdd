"""ids -> logits -> loss: one decoder-only transformer, described by a config.

Read in this order: config, positions, norms, attention, feedforward, block, transformer.
"""

from langwright.model.attention import attend, attention_reference, causal_mask, document_mask
from langwright.model.block import Block
from langwright.model.cache import KVCache
from langwright.model.config import ModelConfig
from langwright.model.counts import (
    Counts,
    TrainingMemory,
    flops_per_token,
    kv_cache_bytes,
    matmul_flops_per_token,
    module_tree,
    parameter_count,
    summary,
    training_memory,
    weight_bytes,
)
from langwright.model.linear import Linear
from langwright.model.losses import cross_entropy_reference, linear_cross_entropy
from langwright.model.norms import LayerNorm, RMSNorm
from langwright.model.positions import rotary_tables, rotate, sinusoids
from langwright.model.presets import model_config, preset_names
from langwright.model.transformer import Transformer, build_model

__all__ = [
    "Block",
    "Counts",
    "KVCache",
    "LayerNorm",
    "Linear",
    "ModelConfig",
    "RMSNorm",
    "TrainingMemory",
    "Transformer",
    "attend",
    "attention_reference",
    "build_model",
    "causal_mask",
    "cross_entropy_reference",
    "document_mask",
    "flops_per_token",
    "kv_cache_bytes",
    "linear_cross_entropy",
    "matmul_flops_per_token",
    "model_config",
    "module_tree",
    "parameter_count",
    "preset_names",
    "rotary_tables",
    "rotate",
    "sinusoids",
    "summary",
    "training_memory",
    "weight_bytes",
]
