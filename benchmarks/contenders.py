"""One Llama-shaped model, trained by us, by `transformers.Trainer` and by LitGPT.

All three can build this shape with the same parameters to the last one: rotary positions, RMSNorm,
SwiGLU, no biases, head and embedding tied. (GPT-2's learned positions LitGPT does not have.)
Imported by the children of the benchmarks only: `ours` needs Langwright, `transformers_trainer`
needs transformers and accelerate, `litgpt_pretrain` needs litgpt and lightning.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import flops_per_token, peak_resident_bytes

LR, DECAY, BETAS = 1e-3, 0.1, (0.9, 0.95)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, and how long its rows are."""

    layers: int
    width: int
    heads: int
    hidden: int  # of the feed-forward
    vocab: int
    length: int  # T
    kv_heads: int | None = None

    @property
    def key_heads(self) -> int:
        """K, the heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def parameters(self) -> int:
        """All of them, the tied table once."""
        d, keys = self.width, self.key_heads * self.width // self.heads
        block = 2 * d * d + 2 * d * keys + 3 * d * self.hidden + 2 * d
        return self.layers * block + self.vocab * d + d

    @property
    def flops(self) -> float:
        """FLOPs of training on one token."""
        return flops_per_token(self.parameters, self.layers, self.width, self.length)


SHAPES = {
    "tiny": Shape(2, 128, 4, 256, 128, 128),
    "10m": Shape(6, 384, 6, 1024, 65, 256),
    "124m": Shape(12, 768, 12, 2048, 50304, 1024),
    "350m": Shape(24, 1024, 16, 2816, 50304, 1024),
    "1b": Shape(16, 2048, 32, 8192, 128256, 2048, kv_heads=8),  # Llama 3.2 1B
    "124m-32k": Shape(12, 768, 12, 2048, 50304, 32768),
}


class StepClock:
    """Seconds from the end of one update of a torch optimizer to the end of the next.

    The same clock for both peers, hooked into torch: the first update, in which they compile, is
    the start. A GPU is waited for after the first update and the last one only, so that the loop
    may run ahead of it as it does in life.
    """

    def __init__(self, steps: int, cuda: bool) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.steps, self.cuda = steps, cuda
        self.laps: list[float] = []
        register_optimizer_step_post_hook(self._lap)

    def _lap(self, *_: Any) -> None:
        if self.cuda and len(self.laps) in (0, self.steps - 1):
            import torch

            torch.cuda.synchronize()
        self.laps.append(time.perf_counter())

    def seconds(self) -> float:
        """Of an update: the median on a CPU, the mean on a GPU."""
        if len(self.laps) != self.steps:
            raise SystemExit(f"{len(self.laps)} updates instead of {self.steps}")
        if self.cuda:
            return (self.laps[-1] - self.laps[0]) / (self.steps - 1)
        return statistics.median(b - a for a, b in zip(self.laps, self.laps[1:]))


def result(shape: Shape, parameters: int, rate: float, cuda: bool, **more: Any) -> dict[str, Any]:
    """What a contender reports; a model of another size is an error."""
    if parameters != shape.parameters:
        raise SystemExit(f"{parameters:,} parameters instead of {shape.parameters:,}")
    peak = peak_resident_bytes()
    if cuda:
        import torch

        peak = torch.cuda.max_memory_allocated()
    return {"parameters": parameters, "tokens_per_second": rate, "peak_bytes": peak, **more}


def our_config(shape: Shape, window: int | None = None) -> Any:
    """The shape as a `ModelConfig`; `window`: tokens that each one sees, if not all."""
    from langwright.model import model_config

    table = {
        "preset": "llama-15m",
        "layers": shape.layers,
        "width": shape.width,
        "heads": shape.heads,
        "kv_heads": shape.key_heads,
        "hidden_width": shape.hidden,
        "context_length": shape.length,
        "window": window,
    }
    return model_config(table, vocab_size=shape.vocab)


def random_ids(shape: Shape, count: int) -> Any:
    """`count` random ids, uint16 where they fit."""
    import numpy as np

    kind = np.uint16 if shape.vocab <= 2**16 else np.int32
    return np.random.default_rng(0).integers(0, shape.vocab, count).astype(kind)


def rate_of(folder: Path, first: int = 1) -> float:
    """Median of the tokens per second that a run of ours wrote down, from its `first` update on."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [r["tokens_per_second"] for line in lines if "loss" in (r := json.loads(line))]
    return statistics.median(rates[first:])


def train_ours(
    shape: Shape,
    rows: int,
    steps: int,
    settings: dict[str, Any],
    folder: Path,
    *,
    data: Any = None,
    window: int | None = None,
) -> None:
    """Our `Trainer`; what `settings` (fields of `TrainConfig`) leave open it chooses itself.

    data: `Rows` to train on in place of random windows.
    """
    from langwright.dataset import RandomChunkRows
    from langwright.model import build_model
    from langwright.train import TrainConfig, Trainer

    data = data or RandomChunkRows(random_ids(shape, 2**20), shape.length)
    base = {
        "steps": steps,
        "batch_tokens": rows * shape.length,
        "checkpoint_minutes": 1e3,
        "optimizer": {"name": "adamw", "lr": LR, "weight_decay": DECAY, "betas": BETAS},
    }
    train = TrainConfig.model_validate({**base, **settings})
    model = build_model(our_config(shape, window), seed=0)
    Trainer(model, data, train, folder, quiet=True).run()


def ours(
    shape: Shape, rows: int, steps: int, settings: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """`train_ours` in a folder of its own, measured."""
    from langwright.model import parameter_count

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_ours(shape, rows, steps, settings, folder, **more)
        choices = json.loads((folder / "choices.json").read_text(encoding="utf-8"))["choices"]
        cuda = str(choices["device"]["value"]).startswith("cuda")
        # A GPU's first updates are told together with the wait for its compiler.
        rate = rate_of(folder, first=steps // 2 if cuda else 1)
    chosen = {name: entry["value"] for name, entry in choices.items()}
    parameters = parameter_count(our_config(shape)).total
    return result(shape, parameters, rate, cuda, choices=chosen)


def transformers_trainer(
    shape: Shape,
    rows: int,
    steps: int,
    *,
    micro: int,
    compiled: bool,
    cuda: bool = False,
    checkpointing: bool = False,
) -> dict[str, Any]:
    """`transformers.Trainer` on `LlamaForCausalLM`, bf16 autocast, AdamW."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=shape.length,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model: Any = LlamaForCausalLM(config)
    ids = torch.from_numpy(random_ids(shape, rows * steps * shape.length).astype("int64"))
    examples: Any = [{"input_ids": row, "labels": row} for row in ids.view(-1, shape.length)]
    clock = StepClock(steps, cuda)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=rows // micro,
            optim="adamw_torch_fused" if cuda else "adamw_torch",
            learning_rate=LR,
            weight_decay=DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            max_grad_norm=1.0,
            bf16=True,
            torch_compile=compiled,
            gradient_checkpointing=checkpointing,
            use_cpu=not cuda,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model=model, args=arguments, train_dataset=examples).train()
    parameters = sum(p.numel() for p in model.parameters())
    return result(shape, parameters, rows * shape.length / clock.seconds(), cuda)


def litgpt_config(shape: Shape) -> Any:
    """LitGPT's name for a Llama of this shape."""
    from litgpt import Config

    return Config(
        name=f"llama-{shape.parameters}",
        block_size=shape.length,
        vocab_size=shape.vocab,
        padded_vocab_size=shape.vocab,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_query_groups=shape.key_heads,
        n_embd=shape.width,
        intermediate_size=shape.hidden,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )


def litgpt_pretrain(shape: Shape, rows: int, steps: int, *, micro: int) -> dict[str, Any]:
    """LitGPT's own `pretrain.setup`, which compiles the model; bf16-mixed, AdamW.

    Its last checkpoint is left out: it lies outside of what is timed, and needs memory.
    """
    import litgpt.pretrain
    import torch
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.data import DataModule
    from torch.utils.data import DataLoader

    ids = torch.from_numpy(random_ids(shape, rows * (steps + 1) * (shape.length + 1)))
    examples: Any = ids.view(-1, shape.length + 1)

    class RandomIds(DataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(examples, batch_size=micro)

        def val_dataloader(self) -> Any:
            return DataLoader(examples[: 2 * micro], batch_size=micro)

    sizes: list[int] = []

    def count(fabric: Any, state: dict[str, Any], *_: Any) -> None:
        sizes.append(sum(p.numel() for p in state["model"].parameters()))

    litgpt.pretrain.save_checkpoint = count
    clock = StepClock(steps, cuda=False)
    with tempfile.TemporaryDirectory() as folder:
        litgpt.pretrain.setup(
            "pythia-14m",  # a name it insists on; `model_config` decides
            model_config=litgpt_config(shape),
            out_dir=Path(folder),
            precision="bf16-mixed",
            data=RandomIds(),
            train=TrainArgs(
                save_interval=None,
                global_batch_size=rows,
                micro_batch_size=micro,
                max_tokens=steps * rows * shape.length,
                max_norm=1.0,
                lr_warmup_steps=None,
                tie_embeddings=True,
            ),
            eval=EvalArgs(interval=10**9, max_iters=1, final_validation=False),
            optimizer={
                "class_path": "torch.optim.AdamW",
                "init_args": {"lr": LR, "weight_decay": DECAY, "betas": BETAS},
            },
            devices=1,
            logger_name="csv",
        )
    return result(shape, sizes[-1], rows * shape.length / clock.seconds(), cuda=False)
