"""Reading: words as points. Why a table of random numbers comes to know that tea is like milk.

A model cannot multiply words, so each token becomes a vector: a row of a table, random at first.
Word2Vec (Mikolov et al. 2013, arXiv:1301.3781) made the idea famous: train the rows to predict the
neighbours of a word, and words that keep the same company end at nearby points. With two numbers
for each word the table can be drawn as it is. A language model trains its own table on the way,
for its own purpose, with hundreds or thousands of numbers to a row; a drawing then shows only the
two directions in which the rows differ most (principal components).

The text here is 36 sentences about animals, drinks and towns. Nobody says which is which.

    python docs/learn/reading_word_vectors.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, show
from torch import Tensor
from torch.nn import functional as F

from langwright.model import ModelConfig, build_model
from langwright.optim import AdamW

GROUPS = {
    "animals": ["cat", "dog", "horse", "cow"],
    "drinks": ["tea", "milk", "water", "juice"],
    "towns": ["paris", "rome", "london", "oslo"],
}
PATTERNS = {
    "animals": ["the {} sleeps tonight", "my {} eats grass", "a small {} runs away"],
    "drinks": ["she drinks {} now", "a cup of {} please", "he pours cold {} slowly"],
    "towns": ["we travel to {} tomorrow", "they live in {} again", "trains from {} arrive"],
}
SENTENCES = [
    pattern.format(word).split()
    for group, words in GROUPS.items()
    for word in words
    for pattern in PATTERNS[group]
]
VOCABULARY = sorted({word for sentence in SENTENCES for word in sentence})
IDS = {word: index for index, word in enumerate(VOCABULARY)}
NAMED = [word for words in GROUPS.values() for word in words]
GROUP_OF = {word: group for group, words in GROUPS.items() for word in words}


def skip_gram(width: int = 2, updates: int = 400) -> Tensor:
    """Word2Vec in a few lines, (V, width): each word predicts every neighbour, two to a side."""
    pairs = [
        (IDS[sentence[i]], IDS[sentence[j]])
        for sentence in SENTENCES
        for i in range(len(sentence))
        for j in range(max(0, i - 2), min(len(sentence), i + 3))
        if i != j
    ]
    centre, neighbour = torch.tensor(pairs).T
    torch.manual_seed(3)
    table = torch.randn(len(VOCABULARY), width, requires_grad=True)
    output = torch.randn(len(VOCABULARY), width, requires_grad=True)
    optimizer = AdamW([table, output], lr=0.05, weight_decay=0.0)
    for _ in range(updates):
        optimizer.zero_grad()
        F.cross_entropy(table[centre] @ output.T, neighbour).backward()
        optimizer.step()
    return table.detach()


def transformer_table(updates: int = 150) -> Tensor:
    """(V, 16): the token table of Langwright's transformer, trained on the same sentences."""
    config = ModelConfig(
        vocab_size=len(VOCABULARY), context_length=8, width=16, layers=1, heads=2, init_std=0.3
    )
    model = build_model(config, seed=3).train()
    longest = max(len(sentence) for sentence in SENTENCES)
    rows = torch.full((len(SENTENCES), longest), -100)  # -100: no target
    for row, sentence in zip(rows, SENTENCES):
        row[: len(sentence)] = torch.tensor([IDS[word] for word in sentence])
    inputs, targets = rows[:, :-1].clamp(min=0), rows[:, 1:]
    optimizer = AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(updates):
        optimizer.zero_grad()
        loss, count = model.loss(inputs, targets)
        (loss / count).backward()
        optimizer.step()
    return model.tokens.weight.detach()


def principal_plane(vectors: Tensor) -> Tensor:
    """(N, D) -> (N, 2): the two directions of largest variance."""
    centred = vectors - vectors.mean(dim=0)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T


def nearest_groups(table: Tensor) -> list[str]:
    """For each named word, the group of the word whose vector has the smallest angle to it."""
    rows = F.normalize(table[[IDS[word] for word in NAMED]], dim=-1)
    likeness = (rows @ rows.T).fill_diagonal_(-2.0)
    return [GROUP_OF[NAMED[i]] for i in likeness.argmax(dim=-1).tolist()]


def drawing(points: Tensor, words: list[str], across: int = 60, down: int = 18) -> str:
    """Points (N, 2) as text, each word at its place or on the next free line."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    grid = [[" "] * (across + 8) for _ in range(down + len(words))]
    for word, (x, y) in zip(words, ((points - low) / (high - low)).tolist()):
        row, column = round((1 - y) * (down - 1)), round(x * (across - 1))
        span = slice(column, column + len(word))
        while "".join(grid[row][max(0, column - 1) : column + len(word) + 1]).strip():
            row += 1
        grid[row][span] = word
    return "\n".join("    " + "".join(line).rstrip() for line in grid).rstrip()


def figures() -> Iterator[Figure]:
    """Both tables drawn; the nearest word of every word is of its own kind."""
    own = [GROUP_OF[word] for word in NAMED]
    chosen = [IDS[word] for word in NAMED]
    pairs = skip_gram()
    print("two numbers for each word, trained to predict its neighbours:")
    print(drawing(pairs[chosen], NAMED))
    yield close("Word2Vec: kind of each word's nearest", nearest_groups(pairs), own)
    table = transformer_table()
    print("the token table of langwright.model.Transformer, its two main directions:")
    print(drawing(principal_plane(table[chosen]), NAMED))
    yield close("Transformer.tokens: kind of each word's nearest", nearest_groups(table), own)
    untrained = nearest_groups(torch.randn(len(VOCABULARY), 16, generator=torch.manual_seed(0)))
    yield close("random rows do not know the kinds", untrained == own, False)


if __name__ == "__main__":
    sys.exit(show(figures()))
