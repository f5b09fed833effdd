"""The book's GPT in plain PyTorch, and the figures it prints: run it and compare.

"Build a Large Language Model (From Scratch)" prints exact logits, losses and token ids. They
depend on the order in which parameters are created, on every dropout draw and on the loader's
shuffle, so they can only come from a model written in the book's form. This is that form; it
shares no code with `langwright.model`, which draws each parameter from (seed, its name). The
weights of this model, copied over (see `book_weights.py`), give the same losses there.

    python docs/learn/story_fixture.py                 # all but training: about a minute
    python docs/learn/story_fixture.py --steps 16      # and 16 training steps: a few minutes
    python docs/learn/story_fixture.py --epochs 10     # and the whole training run

It needs `the-verdict.txt` and GPT-2's two vocabulary files (see --help). Shapes: B batch,
T time, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from figures import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from langwright.tokenizer import Tokenizer, gpt2_tokenizer

SEED = 123


# ---- The model -----------------------------------------------------------------------------


@dataclass(frozen=True)
class BookConfig:
    """Sizes of the book's GPT; the defaults are its "124M" configuration (chapter 4)."""

    vocab_size: int = 50257
    context_length: int = 1024
    width: int = 768
    heads: int = 12
    layers: int = 12
    dropout: float = 0.1
    qkv_bias: bool = False


CHAPTER_4 = BookConfig()
CHAPTER_5 = replace(CHAPTER_4, context_length=256)


class LayerNorm(nn.Module):
    """(..., D) to mean 0 and variance 1 (divided by D, not D - 1), then scale and shift."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(variance + self.eps) + self.shift


class GELU(nn.Module):
    """The tanh approximation that GPT-2 was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
        return 0.5 * x * (1 + torch.tanh(inner))


class FeedForward(nn.Module):
    """(B, T, D) to (B, T, D) through 4D."""

    def __init__(self, config: BookConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.gelu = GELU()
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))


class MultiHeadAttention(nn.Module):
    """Causal attention: softmax(Q K^T / sqrt(d) + mask) V per head, then a projection."""

    mask: Tensor

    def __init__(self, config: BookConfig) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"width {config.width} is not divisible by {config.heads} heads")
        width, length = config.width, config.context_length
        self.heads = config.heads
        self.query = nn.Linear(width, width, bias=config.qkv_bias)
        self.key = nn.Linear(width, width, bias=config.qkv_bias)
        self.value = nn.Linear(width, width, bias=config.qkv_bias)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        future = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
        self.register_buffer("mask", future, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        split = (B, T, self.heads, D // self.heads)
        q = self.query(x).view(split).transpose(1, 2)  # (B, H, T, D/H)
        k = self.key(x).view(split).transpose(1, 2)
        v = self.value(x).view(split).transpose(1, 2)
        scores = (q @ k.transpose(2, 3)).masked_fill(self.mask[:T, :T], -torch.inf)
        weights = torch.softmax(scores / math.sqrt(D // self.heads), dim=-1)  # (B, H, T, T)
        context = (self.dropout(weights) @ v).transpose(1, 2).reshape(B, T, D)
        return self.out(context)


class Block(nn.Module):
    """Pre-norm block. Attention is created before the feed-forward: the seed depends on it."""

    def __init__(self, config: BookConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.feedforward = FeedForward(config)
        self.norm1 = LayerNorm(config.width)
        self.norm2 = LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.feedforward(self.norm2(x)))


class BookGPT(nn.Module):
    """ids (B, T) to logits (B, T, V). Created in the order tokens, positions, blocks, head.

    With `dummy=True` the blocks and the norm do nothing, as in the book's first sketch.
    """

    def __init__(self, config: BookConfig, dummy: bool = False) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context_length, config.width)
        self.dropout = nn.Dropout(config.dropout)
        layers = 0 if dummy else config.layers
        self.blocks = nn.Sequential(*[Block(config) for _ in range(layers)])
        self.norm = nn.Identity() if dummy else LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))  # (B, T, D)
        return self.head(self.norm(self.blocks(self.dropout(x))))


def new_model(config: BookConfig, dummy: bool = False) -> BookGPT:
    """A model fresh from seed 123, in train mode."""
    torch.manual_seed(SEED)
    return BookGPT(config, dummy)


# ---- Text to batches -----------------------------------------------------------------------


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of `length` ids, `stride` apart, with targets shifted by one."""

    def __init__(self, ids: list[int], length: int, stride: int) -> None:
        self.ids = torch.tensor(ids)
        self.length, self.stride = length, stride

    def __len__(self) -> int:
        return max(0, math.ceil((len(self.ids) - self.length) / self.stride))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.stride
        stop = start + self.length
        return self.ids[start:stop], self.ids[start + 1 : stop + 1]


def story_loaders(story: str, encode: Callable[[str], list[int]]) -> tuple[DataLoader, DataLoader]:
    """Chapter 5: the first 90 % of the characters train; batches of 2 windows of 256."""
    cut, length = int(0.9 * len(story)), CHAPTER_5.context_length
    train, valid = (Windows(encode(part), length, length) for part in (story[:cut], story[cut:]))
    return (
        DataLoader(train, batch_size=2, shuffle=True, drop_last=True),
        DataLoader(valid, batch_size=2, shuffle=False, drop_last=False),
    )


# ---- Loss, training, generation ------------------------------------------------------------


def batch_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats: logits (B*T, V) against targets (B*T)."""
    return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def loader_loss(model: nn.Module, loader: DataLoader, batches: int | None = None) -> float:
    """Average of the batch losses over the loader, or over its first `batches`."""
    count = len(loader) if batches is None else min(batches, len(loader))
    total = 0.0
    for index, (inputs, targets) in enumerate(loader):
        if index == count:
            break
        total += batch_loss(model, inputs, targets).item()
    return total / count


@torch.no_grad()
def generate(
    model: BookGPT, ids: Tensor, new: int, top_k: int = 1, temperature: float = 1.0
) -> Tensor:
    """ids (B, T) to (B, T + new). `top_k=1` is greedy and draws no random number."""
    for _ in range(new):
        logits = model(ids[:, -model.config.context_length :])[:, -1]  # (B, V)
        values, candidates = torch.topk(logits, top_k)  # (B, top_k)
        pick = torch.zeros(len(ids), 1, dtype=torch.int64)
        if top_k > 1:
            pick = torch.multinomial(torch.softmax(values / temperature, dim=-1), 1)
        ids = torch.cat([ids, candidates.gather(1, pick)], dim=1)
    return ids


@dataclass(frozen=True)
class Report:
    """What the book prints: losses after an update, or a sample after an epoch."""

    step: int
    tokens: int
    train: float | None = None
    valid: float | None = None
    sample: str | None = None


def train_book(
    model: BookGPT,
    loaders: tuple[DataLoader, DataLoader],
    tokenizer: Tokenizer,
    epochs: int,
    steps: int | None = None,
) -> Iterator[Report]:
    """The book's loop (listing 5.3), at most `steps` updates of it.

    It evaluates after updates 0, 5, 10 ... on 5 training batches. The listing says 1 batch, but
    the losses printed below it were made with 5. Evaluating draws random numbers too (the
    loader's shuffle), so leaving it out would change the training.
    """
    start = torch.tensor([tokenizer.encode("Every effort moves you")])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    step, tokens = -1, 0
    for _ in range(epochs):
        model.train()
        for inputs, targets in loaders[0]:
            optimizer.zero_grad()
            batch_loss(model, inputs, targets).backward()
            optimizer.step()
            step, tokens = step + 1, tokens + inputs.numel()
            if step % 5 == 0:
                model.eval()
                train, valid = loader_loss(model, loaders[0], 5), loader_loss(model, loaders[1], 5)
                model.train()
                yield Report(step, tokens, train=train, valid=valid)
            if steps is not None and step + 1 >= steps:
                return
        model.eval()
        text = tokenizer.decode(generate(model, start, 50)[0].tolist())
        yield Report(step, tokens, sample=text.replace("\n", " "))


# ---- The figures ---------------------------------------------------------------------------


def model_figures(tokenizer: Tokenizer) -> Iterator[Figure]:
    """Chapter 4: logits of the sketch and of the real model, and untrained greedy text."""
    texts = ["Every effort moves you", "Every day holds a"]
    batch = torch.tensor([tokenizer.encode(text) for text in texts])  # (2, 4)
    sketch = new_model(CHAPTER_4, dummy=True)
    logits = sketch(batch)
    edge = [*logits[0, 0, :3].tolist(), *logits[0, 0, -3:].tolist()]
    printed = [-1.2034, 0.3201, -0.7130, -1.5548, -0.2390, -0.4667]
    yield Figure("sketch: shape of logits", list(logits.shape), [2, 4, 50257])
    yield Figure("sketch: first and last three logits", edge, printed, 5e-5)
    count = sum(p.numel() for p in sketch.parameters())
    yield Figure("sketch: parameters", [count], [77_981_184])

    model = new_model(CHAPTER_4)
    logits = model(batch)
    edge = [*logits[0, 0, :3].tolist(), *logits[0, 0, -3:].tolist(), *logits[1, 3, :3].tolist()]
    printed = [0.3613, 0.4222, -0.0711, 0.3483, 0.4661, -0.2838, -0.1565, 0.3926, 0.3288]
    yield Figure("GPT with dropout: first row's edges, last row's start", edge, printed, 5e-5)
    count = sum(p.numel() for p in model.parameters())
    yield Figure("GPT: parameters", [count], [163_009_536])
    start = torch.tensor([tokenizer.encode("Hello, I am")])
    ids = generate(model.eval(), start, 6)[0].tolist()
    printed_ids = [15496, 11, 314, 716, 27018, 24086, 47843, 30961, 42348, 7267]
    yield Figure("GPT untrained, greedy ids", ids, printed_ids)


# Two contexts of three ids and their targets. The book's second target row belongs to another
# text (" like this chocolate"); [1107 588 11311] is the context shifted by one.
INPUTS = torch.tensor([[16833, 3626, 6100], [40, 1107, 588]])
PRINTED_TARGETS = torch.tensor([[3626, 6100, 345], [588, 428, 11311]])
SHIFTED_TARGETS = torch.tensor([[3626, 6100, 345], [1107, 588, 11311]])


def loss_figures(tokenizer: Tokenizer) -> Iterator[Figure]:
    """Chapter 5: loss and perplexity step by step, on a context-256 model without dropout."""
    model = new_model(CHAPTER_5).eval()
    count = sum(p.numel() for p in model.parameters())
    tied = count - model.head.weight.numel()  # were the head to share the tokens' matrix
    yield Figure("parameters, and with a tied head", [count, tied], [162_419_712, 123_822_336])
    start = torch.tensor([tokenizer.encode("Every effort moves you")])
    text = tokenizer.decode(generate(model, start, 10)[0].tolist())
    printed_text = "Every effort moves you rentingetic wasnم refres RexMeCHicular stren"
    yield Figure("untrained, greedy text", [text], [printed_text])
    with torch.no_grad():
        logits = model(INPUTS)  # (2, 3, V)
    chosen = torch.softmax(logits, dim=-1).gather(2, PRINTED_TARGETS.unsqueeze(2)).flatten()
    probabilities = [7.4541e-5, 3.1061e-5, 1.1563e-5, 3.9836e-5, 1.6783e-5, 4.7559e-6]
    yield Figure("target probabilities", chosen.tolist(), probabilities, 1e-9)
    logs = [-9.5042, -10.3796, -11.3677, -10.1308, -10.9951, -12.2561]
    yield Figure("their logarithms", chosen.log().tolist(), logs, 5e-5)
    greedy = logits.argmax(dim=-1).flatten().tolist()
    yield Figure("greedy ids", greedy, [16657, 339, 42826, 49906, 29669, 41751])
    rows = [("as printed", PRINTED_TARGETS, 10.7722, 47678.9)]
    rows.append(("with the right second row", SHIFTED_TARGETS, 10.7940, 48725.9))
    for name, targets, loss, perplexity in rows:
        found = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
        yield Figure(f"loss, targets {name}", [found], [loss], 5e-5)
        yield Figure(f"perplexity, targets {name}", [math.exp(found)], [perplexity], 0.1)


def story_figures(story: str, tokenizer: Tokenizer, train_too: bool = True) -> Iterator[Figure]:
    """Chapter 5: sizes of the story's split, and the untrained model's losses on it."""
    cut = int(0.9 * len(story))
    counts = [len(tokenizer.encode(part)) for part in (story[:cut], story[cut:])]
    yield Figure("split: character, tokens", [cut, *counts], [18431, 4612, 534])
    train, valid = story_loaders(story, tokenizer.encode)
    batches = [len(train), len(valid), *next(iter(valid))[0].shape]
    yield Figure("batches, shape of one", batches, [9, 1, 2, 256])
    model = new_model(CHAPTER_5).eval()
    found = loader_loss(model, valid)
    yield Figure("untrained validation loss", [found], [10.98110580444336], 2e-6)
    if train_too:
        torch.manual_seed(SEED)  # the order of the batches changes the last digits
        found = loader_loss(model, train)
        yield Figure("untrained training loss", [found], [10.98758347829183], 2e-6)


# Update -> losses as the book prints them. From update 80 on only the neighbourhood is asked
# for: two machines' rounding has had 80 updates to drift apart.
TRAINING_LOG = {0: (9.781, 9.933), 5: (8.111, 8.339), 10: (6.661, 7.048), 15: (5.961, 6.616)}
TRAINING_END = {80: (0.541, 6.393), 85: (0.391, 6.452)}


def training_figures(reports: list[Report]) -> Iterator[Figure]:
    """The log of the training run, as far as `reports` goes."""
    for report in reports:
        if report.sample is not None:
            if report.step == 8:
                shown = report.sample.strip()
                printed_start = "Every effort moves you,,,,,,,,,,,,."
                yield Figure("sample after the first epoch", [shown], [printed_start])
            continue
        for log, tolerance in ((TRAINING_LOG, 5.01e-4), (TRAINING_END, 0.15)):
            if report.step in log:
                found = [report.train, report.valid, report.tokens]
                printed = [*log[report.step], 512 * (report.step + 1)]
                yield Figure(f"update {report.step}: train, val, tokens", found, printed, tolerance)


# ---- Command line --------------------------------------------------------------------------


def find_file(folders: list[Path], *names: str) -> Path:
    """The first of `names` that lies in one of `folders`."""
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    places = ", ".join(str(folder) for folder in folders)
    sys.exit(f"story_fixture: found no {' or '.join(names)} in {places}; name its folder: --data")


def data_folders(data: Path | None) -> list[Path]:
    """Where the files may lie: the folder given, else `shared/data` beside the checkout."""
    return [data] if data else [Path(__file__).resolve().parents[3] / "shared" / "data"]


def read_data(folders: list[Path]) -> tuple[str, Tokenizer]:
    """The story and GPT-2's tokenizer."""
    story = find_file(folders, "the-verdict.txt").read_text(encoding="utf-8")
    encoder = find_file(folders, "gpt2-encoder.json", "encoder.json")
    merges = find_file(folders, "gpt2-vocab.bpe", "vocab.bpe")
    return story, gpt2_tokenizer(encoder, merges)


def main(arguments: list[str] | None = None) -> int:
    """Print each figure beside the book's; 1 if one differs."""
    parser = argparse.ArgumentParser(description="The book's figures, computed anew.")
    help_data = "folder with the-verdict.txt, encoder.json and vocab.bpe (or gpt2- before them)"
    parser.add_argument("--data", type=Path, help=help_data)
    parser.add_argument("--epochs", type=int, default=0, help="train this long (the book: 10)")
    parser.add_argument("--steps", type=int, help="train, and stop after this many updates")
    options = parser.parse_args(arguments)
    story, tokenizer = read_data(data_folders(options.data))

    wrong = 0
    figures = (model_figures(tokenizer), loss_figures(tokenizer), story_figures(story, tokenizer))
    for group in figures:
        for figure in group:
            print(figure, flush=True)
            wrong += not figure.matches
    if options.epochs or options.steps:
        model = new_model(CHAPTER_5)
        loaders = story_loaders(story, tokenizer.encode)
        epochs = options.epochs or 10
        for report in train_book(model, loaders, tokenizer, epochs, options.steps):
            for figure in training_figures([report]):
                print(figure, flush=True)
                wrong += not figure.matches
            if report.sample is not None:
                print(f"sample after update {report.step}: {report.sample}", flush=True)
        start = torch.tensor([tokenizer.encode("Every effort moves you")])
        torch.manual_seed(SEED)
        ids = generate(model.eval(), start, 15, top_k=25, temperature=1.4)
        print(f"sampled, k 25, temperature 1.4: {tokenizer.decode(ids[0].tolist())!r}")
    print("every figure as printed" if not wrong else f"{wrong} figures differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
