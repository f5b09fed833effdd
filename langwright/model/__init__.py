"""ids -> logits -> loss: one decoder-only transformer, described by a config.

Read in this order: config, positions, norms, attention, feedforward, experts, block, transformer.
"""

from langwright.model.attention import attend, attention_reference
from langwright.model.attention_kernels import attention_kernel
from langwright.model.block import Block
from langwright.model.cache import KVCache, LayerCache
from langwright.model.compiler import prepare_compiler
from langwright.model.config import ModelConfig
from langwright.model.costs import (
    TrainingMemory,
    flops_per_token,
    kv_cache_bytes,
    matmul_flops_per_token,
    training_memory,
    weight_bytes,
)
from langwright.model.counts import Counts, parameter_count
from langwright.model.describe import module_tree, summary
from langwright.model.experts import ExpertFeedForward
from langwright.model.guide import Guide, build_guides
from langwright.model.init import initialise
from langwright.model.linear import Linear
from langwright.model.losses import cross_entropy_reference, head_logits, linear_cross_entropy
from langwright.model.masks import causal_mask, document_mask
from langwright.model.norms import LayerNorm, RMSNorm
from langwright.model.positions import rotary_tables, rotate, sinusoids
from langwright.model.presets import model_config, preset_names
from langwright.model.rotary_scaling import depends_on_length
from langwright.model.router_losses import router_losses
from langwright.model.transformer import Transformer, build_model

__all__ = [
    "Block",
    "Counts",
    "ExpertFeedForward",
    "Guide",
    "KVCache",
    "LayerCache",
    "LayerNorm",
    "Linear",
    "ModelConfig",
    "RMSNorm",
    "TrainingMemory",
    "Transformer",
    "attend",
    "attention_kernel",
    "attention_reference",
    "build_guides",
    "build_model",
    "causal_mask",
    "cross_entropy_reference",
    "depends_on_length",
    "document_mask",
    "flops_per_token",
    "head_logits",
    "initialise",
    "kv_cache_bytes",
    "linear_cross_entropy",
    "matmul_flops_per_token",
    "model_config",
    "module_tree",
    "parameter_count",
    "prepare_compiler",
    "preset_names",
    "rotary_tables",
    "rotate",
    "router_losses",
    "sinusoids",
    "summary",
    "training_memory",
    "weight_bytes",
]
