"""A token's place, added to its vector.

Attention sees a set of vectors, not a row: without more, "dog bites man" is "man bites dog". The
oldest remedy adds a vector for the place to the vector of the token. GPT-2 learns one vector for
each place (so there is a last place); the first transformer used fixed sines and cosines.

    python docs/learn/added_positions.py         # next: plain_attention.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, same, show
from torch import Tensor, nn

from langwright.base import UserError
from langwright.model import ModelConfig, Transformer, build_model, sinusoids

ROWS, LENGTH, WIDTH, VOCABULARY = 8, 4, 256, 50257
IDS = torch.arange(40, 40 + ROWS * LENGTH).view(ROWS, LENGTH)  # (8, 4)


def sinusoid(place: int, width: int) -> list[float]:
    """sin(p / 10000^(2i/D)) and cos(same), alternating (Vaswani et al. 2017, section 3.5)."""
    vector = []
    for pair in range(width // 2):
        angle = torch.tensor(place / 10000 ** (2 * pair / width), dtype=torch.float64)
        vector += [angle.sin().item(), angle.cos().item()]
    return vector


def first_block_input(model: Transformer, ids: Tensor) -> Tensor:
    """What the model hands to its first block: ids (B, T) -> (B, T, D)."""
    seen: list[Tensor] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    model(ids)
    handle.remove()
    return seen[0]


def small_model(position: str) -> Transformer:
    """One narrow block of Langwright's transformer over the same embeddings."""
    fields = {"position": position, "layers": 1, "heads": 4, "tied": True, "hidden_width": 64}
    sizes = {"vocab_size": VOCABULARY, "context_length": LENGTH, "width": WIDTH}
    return build_model(ModelConfig.parse({**fields, **sizes})).eval()


def figures() -> Iterator[Figure]:
    """Shapes, the sum, the fixed vectors, and where the learned ones end."""
    torch.manual_seed(123)
    tokens = nn.Embedding(VOCABULARY, WIDTH)
    positions = nn.Embedding(LENGTH, WIDTH)
    token_vectors = tokens(IDS)  # (8, 4, 256)
    position_vectors = positions(torch.arange(LENGTH))  # (4, 256): one for each place
    inputs = token_vectors + position_vectors  # the same four are added in every row
    yield Figure("token vectors: shape", list(token_vectors.shape), [8, 4, 256])
    yield Figure("position vectors: shape", list(position_vectors.shape), [4, 256])
    yield Figure("their sum: shape", list(inputs.shape), [8, 4, 256])

    fixed = torch.tensor([sinusoid(place, WIDTH) for place in range(LENGTH)])
    yield same("langwright.model.sinusoids", sinusoids(torch.arange(LENGTH), WIDTH), fixed)
    # A step of k places turns every (sin, cos) pair by the same angle, wherever it begins.
    pairs = torch.view_as_complex(
        sinusoids(torch.arange(64), 8).view(64, 4, 2).flip(-1).contiguous()
    )
    turn = pairs[5:] / pairs[:-5]  # (59, 4): the turn of 5 places, from every place
    yield same(
        "five places further is one turn",
        torch.view_as_real(turn - turn[0]),
        torch.zeros(59, 4, 2),
        1e-4,
    )

    # In Langwright: `position="learned"` and `position="sinusoidal"`.
    model = small_model("learned")
    model.tokens.load_state_dict(tokens.state_dict())
    model.positions.load_state_dict(positions.state_dict())
    yield same("Transformer, learned", first_block_input(model, IDS), inputs, 0.0)
    try:
        model(torch.zeros(1, LENGTH + 1, dtype=torch.int64))
        refused = ""
    except UserError as error:
        refused = str(error)
    yield Figure("a fifth place is refused", ["longer than" in refused], [True])
    model = small_model("sinusoidal")
    model.tokens.load_state_dict(tokens.state_dict())
    yield same("Transformer, sinusoidal", first_block_input(model, IDS), token_vectors + fixed)


if __name__ == "__main__":
    sys.exit(show(figures()))
