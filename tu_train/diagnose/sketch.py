"""Gradients of many parameters as short vectors with the same inner products, up to a known error: a seeded count
sketch.

A gradient x of P numbers becomes Sx of K numbers (K prime): entry i is added, with a random sign, to one of K buckets,
so that E⟨Sx, Sy⟩ = ⟨x, y⟩ and Var⟨Sx, Sy⟩ ≤ 2‖x‖²‖y‖² / (K − 1) over the draw of the sketch (Charikar, Chen &
Farach-Colton 2002, "Finding frequent items in data streams"). That bound needs pairwise collisions of at most 1 / (K −
1) and independent signs of rows and columns:

    entry (b, c) of a chunk, seen as rows of K        bucket  c + q·b + p  modulo K        sign  a_b · s_c

with q in 1..K−1, p in 0..K−1, signs a and s drawn a chunk. Two entries of different rows meet for one q at most, since
K is prime and a chunk has at most K rows (Carter & Wegman 1979); entries of one row never do. The bucket c + q·b is
where an entry falls when rows of K numbers are laid out K + q apart and the whole is read in rows of K again, so a
sketch is a few passes over the gradient in memory order.

Memory: the signs (P / K + K a chunk) and temporaries of a few chunks (CHUNK numbers). Time: O(P).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1 << 21
"""numbers sketched at once, about"""


def largest_prime(limit: int) -> int:
    """The largest prime that is at most `limit` (at least 3)."""
    return next(n for n in range(limit, 1, -1) if all(n % d for d in range(2, int(n**0.5) + 1)))


@dataclass(frozen=True)
class _Chunk:
    """How one chunk of n ≤ K rows is folded."""

    row_sign_n1: Tensor
    column_sign_K: Tensor
    q: int
    p: int


class Sketch:
    """A fixed linear map from gradients of the given sizes to K numbers; the same seed, sizes and K give the same
    map."""

    def __init__(self, sizes: Sequence[int], buckets: int, seed: int, device: torch.device | str = "cpu"):
        """`sizes`: numbers in each parameter, in the order in which gradients will come. `buckets` K: a prime."""
        assert buckets == largest_prime(buckets), "collisions are bounded for primes only"
        self.buckets = buckets
        self.length = min(CHUNK // buckets + 1, buckets) * buckets
        random = torch.Generator().manual_seed(seed)
        self.chunks = [[self._draw(min(self.length, size - at), random, device) for at in range(0, size, self.length)] for size in sizes]

    def _draw(self, count: int, random: torch.Generator, device: torch.device | str) -> _Chunk:
        rows = -(-count // self.buckets)
        signs = torch.randint(0, 2, (rows + self.buckets,), generator=random).to(device, torch.int8) * 2 - 1
        q = int(torch.randint(1, self.buckets, (), generator=random))
        p = int(torch.randint(0, self.buckets, (), generator=random))
        return _Chunk(signs[:rows, None], signs[rows:], q, p)

    def __call__(self, gradients: Iterable[Tensor | None]) -> Tensor:
        """Gradients in the order of `sizes` (None: zero) -> [K] float32 or better, on their device."""
        total = None
        for gradient, chunks in zip(gradients, self.chunks, strict=True):
            if gradient is None:
                continue
            for part, chunk in zip(gradient.reshape(-1).split(self.length), chunks, strict=True):
                folded = self._fold(part if part.dtype == torch.float64 else part.float(), chunk)
                total = folded if total is None else total.add_(folded)
        return torch.zeros(self.buckets) if total is None else total

    def _fold(self, part: Tensor, chunk: _Chunk) -> Tensor:
        width, rows = self.buckets, len(chunk.row_sign_n1)
        whole = torch.nn.functional.pad(part, (0, rows * width - len(part))).view(rows, width)
        sheared = torch.nn.functional.pad(whole * chunk.column_sign_K * chunk.row_sign_n1, (0, chunk.q)).flatten()
        sheared = torch.nn.functional.pad(sheared, (0, -len(sheared) % width))
        return sheared.view(-1, width).sum(0).roll(chunk.p)


def token_gradients(logp_N: Sequence[Tensor], parameters: Sequence[Tensor], sketch: Sketch) -> Iterator[Tensor]:
    """Sketch of the gradient of the NLL, −logp, of each token in turn, [K] each. One backward pass a token through a
    shared graph."""
    for index, logp in enumerate(logp_N):
        keep = index + 1 < len(logp_N)
        yield sketch(torch.autograd.grad(-logp, parameters, retain_graph=keep, allow_unused=True))
