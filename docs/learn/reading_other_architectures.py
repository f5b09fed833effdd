"""Reading: language models that are not transformers, and transformers that do not read text.

A transformer keeps every earlier token's keys and values and looks at all of them. Others keep a
state of fixed size and pay the same for each token, however long the text:

- RWKV (Peng et al. 2023, arXiv:2305.13048) and linear attention (Katharopoulos et al. 2020,
  arXiv:2006.16236): the state is a sum of k v^T, old parts fading by a learned factor.
- Mamba (Gu and Dao 2023, arXiv:2312.00752): the factor depends on the input, so the model chooses
  what to keep and what to forget. Without softmax both can be computed in parallel for training
  and step by step for writing: the same numbers, shown below.
- Hyena (Poli et al. 2023, arXiv:2302.10866): no pairs at all but a convolution as long as the
  text, computed by FFT in T log T.

What they give up is looking up a thing exactly, far back, which softmax attention does well; many
new models mix both kinds of layer. Langwright builds transformers.

The other way round, the vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) cuts an
image into patches, makes each a vector by one matrix, and then is the same stack of blocks, all
patches seeing one another.

    python docs/learn/reading_other_architectures.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from torch import Tensor
from torch.nn import functional as F

from langwright.model import attend, causal_mask, kv_cache_bytes, model_config


def step_by_step(q: Tensor, k: Tensor, v: Tensor, fade: Tensor) -> Tensor:
    """q, k, v (T, h), fade (T,) in (0, 1] -> (T, h), with a state (h, h) that never grows."""
    state, outputs = torch.zeros(k.shape[1], v.shape[1]), []
    for t in range(len(q)):
        state = fade[t] * state + torch.outer(k[t], v[t])
        outputs.append(q[t] @ state)
    return torch.stack(outputs)


def in_parallel(q: Tensor, k: Tensor, v: Tensor, fade: Tensor) -> Tensor:
    """The same as one masked product: pair (t, s) is faded by fade[s + 1] ... fade[t]."""
    sums = fade.log().cumsum(dim=0)
    faded = torch.exp(sums[:, None] - sums[None, :]) * causal_mask(len(q), len(q))
    return (q @ k.T * faded) @ v


def long_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """x, kernel (T, D) -> (T, D): y[t] = sum over s <= t of kernel[t - s] x[s], by FFT.

    Padded to 2T, so that the end does not wrap around to the beginning.
    """
    n = 2 * len(x)
    product = torch.fft.rfft(x, n=n, dim=0) * torch.fft.rfft(kernel, n=n, dim=0)
    return torch.fft.irfft(product, n=n, dim=0)[: len(x)]


def convolution_reference(x: Tensor, kernel: Tensor) -> Tensor:
    """The same sum, term by term."""
    return torch.stack(
        [sum(kernel[t - s] * x[s] for s in range(t + 1)) for t in range(len(x))]  # type: ignore[misc]
    )


def patches(image: Tensor, size: int) -> Tensor:
    """image (C, height, width) -> (T, C size size): squares of the image, row by row."""
    return F.unfold(image[None], size, stride=size)[0].T


def figures() -> Iterator[Figure]:
    """Two forms of each, and what state and cache weigh."""
    torch.manual_seed(123)
    q, k, v, fade = torch.randn(12, 4), torch.randn(12, 4), torch.randn(12, 4), torch.rand(12)
    recurrent = step_by_step(q, k, v, fade)
    yield same(
        "fading sum: step by step and in parallel", recurrent, in_parallel(q, k, v, fade), 1e-5
    )
    everything = torch.ones(12)
    plain = (q @ k.T).tril() @ v
    yield same(
        "nothing fades: attention without softmax", step_by_step(q, k, v, everything), plain, 1e-5
    )
    x, kernel = torch.randn(32, 3), torch.randn(32, 3)
    by_fft, directly = long_convolution(x, kernel), convolution_reference(x, kernel)
    yield same("long convolution: by FFT and term by term", by_fft, directly, 1e-4)

    # Bytes to remember a text of GPT-2's size in 16 bit: a cache that grows, a state that does not.
    config = model_config({"preset": "gpt2-124m"})
    cache = [kv_cache_bytes(config, tokens) for tokens in (1024, 1024 * 1024)]
    state = 2 * config.layers * config.heads * config.head_size**2
    print(
        f"    cache {cache[0] / 2**20:.0f} MiB for 1024 tokens, {cache[1] / 2**30:.0f} GiB for a "
        f"million; a fading state {state / 2**20:.1f} MiB for any"
    )
    yield close("cache of 1024 tokens: 2 L D T in 2 bytes", cache[0], 2 * 12 * 768 * 1024 * 2)
    yield close("a thousand times the text, a thousand times the cache", cache[1] / cache[0], 1024)
    yield close("the state: L H h h in 2 bytes", state, 12 * 12 * 64 * 64 * 2)

    image, weight = torch.randn(3, 224, 224), torch.randn(64, 3, 16, 16)
    vectors = patches(image, 16) @ weight.flatten(1).T  # (T, D)
    convolution = F.conv2d(image[None], weight, stride=16)[0].flatten(1).T
    yield close("patches of 16 x 16 in an image of 224 x 224", len(vectors), 196)
    yield same("one matrix for each patch is a convolution", vectors, convolution, 1e-3)
    heads = F.normalize(vectors, dim=-1).view(1, 196, 4, 16).transpose(1, 2)  # (1, H, T, h)
    everyone = torch.ones(1, 1, 196, 196, dtype=torch.bool)
    by_hand = (heads @ heads.transpose(2, 3) / 4).softmax(dim=-1) @ heads
    yield same(
        "langwright.model.attend, every patch sees every patch",
        attend(heads, heads, heads, everyone),
        by_hand,
    )


if __name__ == "__main__":
    sys.exit(show(figures()))
