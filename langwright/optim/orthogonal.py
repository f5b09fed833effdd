"""The nearest orthogonal matrix, by a few matrix products.

For G = U S V^T, iterating an odd polynomial X <- a X + b (X X^T) X + c (X X^T)^2 X moves all
singular values towards 1 and leaves U and V alone: the limit is U V^T. It needs matrix products
only, which every device is good at.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Method = Literal["polar_express", "jordan"]

# Polar Express (Amsel et al., arXiv 2505.16932): at each step the best polynomial for the range in
# which the singular values then lie, starting from [0.001, 1]. The last one is the limit.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
# Keller Jordan's one polynomial (https://kellerjordan.github.io/posts/muon/): steepest at 0; the
# singular values end between about 0.7 and 1.2 and never converge.
JORDAN = (3.4445, -4.7750, 2.0315)
# Rounding in bf16 may push a singular value above the range a polynomial was made for; so all
# but the last are used slightly shrunk, as the authors advise.
SAFETY = 1.01
TINY = 1e-7


def coefficients(steps: int, method: Method) -> list[tuple[float, float, float]]:
    """The polynomial (a, b, c) of each step."""
    if method == "jordan":
        return [JORDAN] * steps
    table = [POLAR_EXPRESS[min(i, len(POLAR_EXPRESS) - 1)] for i in range(steps)]
    safe = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in table[:-1]]
    return safe + table[-1:]


def orthogonalize(
    matrices: Tensor,
    *,
    steps: int = 5,
    method: Method = "polar_express",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Replace each matrix of a stack by (nearly) its nearest orthogonal one.

    Args:
        matrices: (N, rows, columns), any dtype; all of them are treated in the same products.
        steps: iterations; 5 bring singular values from 1/1000 of the largest up to about 1.
        method: which polynomials.
        dtype: of the arithmetic; bfloat16 is enough (an update need not be exact).

    Returns:
        (N, rows, columns) in `dtype`, singular values near 1; a zero matrix stays zero.
    """
    tall = matrices.size(-2) > matrices.size(-1)
    x = (matrices.mT if tall else matrices).to(dtype)  # (N, m, n) with m <= n: smaller products
    # The Frobenius norm bounds the largest singular value, so all of them are now at most 1.
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.float32)
    shrink = 1.0 if method == "jordan" else SAFETY
    x = x / (norm * shrink + TINY).to(dtype)
    for a, b, c in coefficients(steps, method):
        gram = torch.bmm(x, x.mT)  # (N, m, m)
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, inner, x, beta=a)
    return x.mT if tall else x
