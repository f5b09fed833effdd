"""A model whose matrices are quantised: the same `Transformer`, its products by other kernels.

The original model is not changed. Two forms of a matrix can be kept, both of the same codes: packed
for few rows and, where memory allows, expanded to bf16 for many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.base import UserError, machine
from langwright.generate.expert_weights import PackedExperts, pack_experts
from langwright.generate.kernels import crossing, product
from langwright.generate.language_model import LanguageModel
from langwright.generate.quantise import GROUP, Grouped, quantise
from langwright.model import ExpertFeedForward, Linear, Transformer

To = Literal["int8", "int4"]
Part = tuple[Grouped, Tensor | None]  # a matrix and its bias
Stored = Grouped | Sequence[Grouped]  # a matrix, or one for each expert
TOGETHER = (("q", "k", "v"), ("gate", "up"))  # read the same vector
HEAD = "head"  # what the output layer is called here, also where it is tied to the embedding


@dataclass(frozen=True)
class Choice:
    """How products are done.

    Attributes:
        wide: keep a bf16 copy for many rows.
        rows: the most rows for the packed kernel; None: always packed, the one kernel that
            `deterministic` asks for.
    """

    wide: bool = True
    rows: int | None = None


class PackedLinear(nn.Module):
    """``y = x W^T + b`` with quantised W; computed in bf16, given back in the dtype of x."""

    wide: Tensor | None

    def __init__(self, weight: Grouped, bias: Tensor | None, choice: Choice) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.codes.shape
        self.packed = product(weight)
        self.limit = choice.rows if choice.wide else None
        wide = weight.dense().to(torch.bfloat16) if self.limit is not None else None
        self.register_buffer("wide", wide, persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        flat = x.flatten(0, -2).to(torch.bfloat16)  # (M, in)
        if self.wide is not None and self.limit is not None and flat.shape[0] > self.limit:
            y = F.linear(flat, self.wide)
        else:
            y = self.packed(flat.contiguous())
        y = y.view(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.to(x.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that a product of few rows reads."""
        return self.packed.nbytes

    def extra_repr(self) -> str:
        """Shape and kernel, told where the module is printed."""
        return f"{self.in_features} -> {self.out_features}, {type(self.packed).__name__}"


class JoinedLinear(PackedLinear):
    """Several products of the same x as one: the matrices stand below one another. Each call
    of a kernel costs some microseconds, as much as a small matrix itself."""

    def __init__(self, parts: Sequence[tuple[Grouped, Tensor | None]], choice: Choice) -> None:
        weights = [weight for weight, _ in parts]
        joined = Grouped(
            torch.cat([weight.codes for weight in weights]),
            torch.cat([weight.scale for weight in weights]),
            torch.cat([weight.zero for weight in weights]),
            weights[0].bits,
        )
        heights = [len(weight.codes) for weight in weights]
        biases = [
            torch.zeros(height) if bias is None else bias
            for height, (_, bias) in zip(heights, parts, strict=True)
        ]
        without = all(bias is None for _, bias in parts)
        super().__init__(joined, None if without else torch.cat(biases), choice)
        self.heights = heights

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """(..., in) -> each part's (..., out)."""
        return super().forward(x).split(self.heights, dim=-1)


class PackedTransformer(Transformer):
    """A transformer with quantised matrices. For generation only: it has no gradients."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V) fp32."""
        packed = self.get_submodule("packed_head")
        logits = packed(hidden).float()
        if self.head_bias is not None:
            logits = logits + self.head_bias.float()
        softcap = self.config.logit_softcap
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    @property
    def read_bytes(self) -> int:
        """Bytes of weights that one decoding step of one text reads."""
        kinds = (PackedLinear, PackedExperts)
        packed = sum(m.nbytes for m in self.modules() if isinstance(m, kinds))
        table = self.tokens.weight
        return packed + sum(p.nbytes for p in self.parameters() if p is not table)


def pack_model(
    model: Transformer,
    to: To,
    choice: Choice | None = None,
    stored: Mapping[str, Stored] | None = None,
) -> PackedTransformer:
    """A quantised form of `model`, which stays as it is.

    Args:
        model: in fp32 or bf16, on any device.
        to: for matrices of which there is no stored form. Matrices whose columns do not divide
            into groups of 32 (int4) and all vectors are kept as bf16.
        choice: default: bf16 copies where they fit a quarter of the memory.
        stored: quantised already, by the parameter's name; used as they are.
    """
    choice = choice or default_choice(model)
    with torch.device("meta"):
        packed = PackedTransformer(model.config)
    stored = stored or {}
    codes = {name: one for name, one in stored.items() if isinstance(one, Grouped)}
    stacks = {name: one for name, one in stored.items() if not isinstance(one, Grouped)}
    for name, module in model.named_modules():
        if isinstance(module, ExpertFeedForward):
            like = packed.get_submodule(name)
            assert isinstance(like, ExpertFeedForward)
            own = {key.removeprefix(f"{name}."): value for key, value in stacks.items()}
            experts = pack_experts(like, module, to, own)
            if experts is not None:
                parent, attribute = name.rsplit(".", 1)
                setattr(packed.get_submodule(parent), attribute, experts)
    parts: dict[str, dict[str, Part]] = {}  # by the module that they belong to
    for name, module in model.named_modules():
        if isinstance(module, Linear) and f"{name}.weight" != "head.weight":
            found = codes.get(f"{name}.weight") or _quantise(module.weight, to)
            if found is not None:
                parent, attribute = name.rsplit(".", 1)
                parts.setdefault(parent, {})[attribute] = found, module.bias
    for parent, linears in parts.items():
        _put(packed.get_submodule(parent), linears, choice)
    head = codes.get("tokens.weight" if model.config.tied else "head.weight")
    head = head or _quantise(model.head_weight, to)
    if head is None:
        raise UserError(
            "this model cannot be quantised to int4",
            found=f"width {model.config.width}",
            expected=f"a multiple of {GROUP}",
            fix="use int8 or bf16",
        )
    packed.add_module("packed_head", PackedLinear(head, None, choice))
    packed.head = None
    _fill(packed, model)
    packed.compute_dtype = torch.bfloat16
    return packed.eval()


def _put(parent: nn.Module, linears: dict[str, Part], choice: Choice) -> None:
    """Packed matrices in place of a module's own; those that read the same vector as one."""
    together = next((names for names in TOGETHER if _alike(linears, names)), ())
    if together and hasattr(parent, "joined"):
        parent.joined = JoinedLinear([linears[name] for name in together], choice)  # type: ignore[assignment]
        for name in together:
            setattr(parent, name, None)
    for name, (weight, bias) in linears.items():
        if getattr(parent, name) is not None:
            setattr(parent, name, PackedLinear(weight, bias, choice))


def _alike(linears: dict[str, Part], names: Sequence[str]) -> bool:
    """Whether all of these are there, in one kind of code."""
    found = [linears[name][0] for name in names if name in linears]
    kinds = {(weight.bits, weight.scale.shape[1]) for weight in found}
    return len(found) == len(names) and len(kinds) == 1


def _quantise(weight: Tensor, to: To) -> Grouped | None:
    """None: kept as it is."""
    if to == "int4" and weight.shape[1] % GROUP:
        return None
    return quantise(weight, to)


def _fill(packed: Transformer, model: Transformer) -> None:
    """The parameters and buffers that are not quantised, from `model`."""
    for name, parameter in list(packed.named_parameters()):
        if not parameter.is_meta:
            continue
        original = model.get_parameter(name).detach()
        # Routers choose experts, and a rounding changes which; 1 + weight is added in fp32.
        vector = original.dim() < 2 and model.config.norm_offset
        exact = vector or ".router." in name or name.endswith("sinks")
        kept = original if exact else original.to(torch.bfloat16)
        module, _, attribute = name.rpartition(".")
        new = nn.Parameter(kept, requires_grad=False)
        setattr(packed.get_submodule(module), attribute, new)


def default_choice(model: Transformer, deterministic: bool = False) -> Choice:
    """bf16 copies where they take at most a quarter of the memory, with the crossing measured
    here; one kernel for `deterministic`."""
    numbers = sum(parameter.numel() for parameter in model.parameters())
    if deterministic or model.device.type != "cpu" or 2 * numbers > machine().memory_bytes // 4:
        return Choice(wide=False)
    return Choice(wide=True, rows=crossing())


def with_weights(lm: LanguageModel, to: str, deterministic: bool = False) -> LanguageModel:
    """`lm` with its weights kept as `to`: "auto" (as they are), "fp32", "bf16", "int8", "int4".

    The given model stays as it is; what need not change is shared.
    """
    if to == "auto" or isinstance(lm.model, PackedTransformer):
        return lm
    if to in ("int8", "int4"):
        choice = default_choice(lm.model, deterministic)
        return replace(lm, model=pack_model(lm.model, to, choice))  # type: ignore[arg-type]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[to]
    with torch.device("meta"):
        model = Transformer(lm.config)
    for name, parameter in lm.model.named_parameters():
        module, _, attribute = name.rpartition(".")
        kept = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
        setattr(model.get_submodule(module), attribute, kept)
    model.compute_dtype = dtype
    return replace(lm, model=model.eval())


def load_packed(path: str | Path, to: To = "int4") -> LanguageModel:
    """Open a model, as `load` does, with quantised weights. Blocks of a .gguf file (Q8_0, Q4_0,
    Q4_1) are taken as they are, not expanded and quantised again; the rest is quantised to `to`."""
    from langwright.formats import load_parts, model_in

    path = model_in(path)
    model, tokenizer = load_parts(path, device="cpu", dtype=torch.float32)
    stored = stored_blocks(path, model)
    return LanguageModel(pack_model(model, to, stored=stored), tokenizer)


def stored_blocks(path: Path, model: Transformer) -> dict[str, Stored]:
    """The quantised matrices of a .gguf file by our names; of other files none."""
    from langwright.formats import GgufFile, read_blocks

    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        path = files[0] if len(files) == 1 else path
    if path.suffix != ".gguf":
        return {}
    with GgufFile(path) as file:
        found = read_blocks(file, model.config, dict(model.named_parameters()))
    return {name: _grouped(*blocks) for name, blocks in found.items()}


def _grouped(codes: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Stored:
    if codes.dim() == 2:
        return Grouped(codes, scale, zero, bits)
    return [Grouped(*one, bits) for one in zip(codes, scale, zero, strict=True)]
