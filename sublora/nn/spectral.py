"""The frame of a base's own singular vectors: what is trained is a small core between them.

For a linear layer W (out x in) with the leading singular triples U, S, V of rank r, the change is

    dW = U S^1/2 R S^1/2 V^T,    R in R^(r x r), zero at the start

(LoRA-XS, Balazy et al. 2024, arXiv:2405.17604, eq. 2, with S divided between both sides; TinyLoRA 2026,
arXiv:2602.04118, puts a random projection before R, as P does here). It is LoRA with A = S^1/2 V^T and B = U S^1/2 R.
A base may bring another frame with it (`sublora.nn.practised`); then that one takes the place of U S^1/2 and S^1/2 V^T.
*Tied* cores are TinyLoRA's (eq. 5 there): one R for every kind of linear layer, which all layers share.

What is guaranteed: the triples are computed in float64, and the same libraries on the same machine give the same bits.
Elsewhere the last digits differ: a computed singular vector is off by about 1e-16 s_1^2 / (s_i^2 - s_(i+1)^2), with s_i
its own singular value, and signs follow a rule. So the frames of two machines differ by rounding, and losses, which are
compared with a tolerance, agree, unless two of a layer's leading r + 1 singular values nearly coincide. In SmolLM2-135M
(210 layers, r = 8) the smallest relative gap between neighbours is 2.9e-4, the largest difference from the vectors of a
full SVD 7e-13, and the two largest entries of a vector, whose order decides the sign, differ by 4e-6 or more. Nothing
is guaranteed where values coincide exactly; trained and random weights have no such values. `frame_sha256` tells
frames apart that differ by more than rounding.

Shape suffixes: o outputs, i inputs, r rank, m the smaller of o and i.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor, nn
from torch.nn import functional as F

from sublora import seeds
from sublora.errors import ConfigError
from sublora.nn.adapted import AdaptedLinear
from sublora.nn.allocation import TIED, place_of
from sublora.nn.targets import find_targets
from sublora.nn.weights import inputs_first, numbers

# Up to this size all eigenvectors are computed, which takes 10 ms; beyond it the leading ones by Lanczos' iteration.
DENSE = 256


@dataclass(frozen=True, eq=False)
class Frame:
    """The two sides of a layer's core, and a scale for each of its entries.

    Of the base's own singular vectors the sides are U S^1/2 and S^1/2 V^T, and every scale is 1.
    """

    left_or: Float32[np.ndarray, "o r"]
    right_ri: Float32[np.ndarray, "r i"]
    scale_rr: Float32[np.ndarray, "r r"]

    def leading(self, rank: int) -> "Frame":
        """Return the frame of the first so many vectors of each side."""
        return Frame(self.left_or[:, :rank].copy(), self.right_ri[:rank].copy(), self.scale_rr[:rank, :rank].copy())


def leading_singular_triples(
    matrix: Float[np.ndarray, "o i"], rank: int
) -> tuple[Float64[np.ndarray, "o r"], Float64[np.ndarray, " r"], Float64[np.ndarray, "r i"]]:
    """Return U, S and V^T of the largest singular values, falling, in float64.

    The eigenvectors of the smaller of W W^T and W^T W: the squares cost half the digits of *small* singular values,
    and the leading ones have 8 digits to spare. The largest entry of every column of U in magnitude, the first one of
    equals, is positive.

    Raises:
        ConfigError: the rank is below 1 or above the smaller side.
    """
    if not 1 <= rank <= min(matrix.shape):
        raise ConfigError(f"a matrix of {matrix.shape[0]} x {matrix.shape[1]} has no {rank} singular vectors")
    wide = matrix.shape[0] <= matrix.shape[1]
    short = (matrix if wide else matrix.T).astype(np.float64)
    vectors = _leading_eigenvectors(short @ short.T, rank)
    other = vectors.T @ short
    values = np.linalg.norm(other, axis=1)
    # Directions that a matrix without so many dimensions does not have stay zero.
    other /= np.where(values > 0, values, 1)[:, None]
    left, right = (vectors, other) if wide else (other.T, vectors.T)
    signs = np.sign(left[np.abs(left).argmax(0), np.arange(rank)])
    signs[signs == 0] = 1
    return left * signs, values, right * signs[:, None]


def _leading_eigenvectors(gram: Float64[np.ndarray, "m m"], rank: int) -> Float64[np.ndarray, "m r"]:
    size = len(gram)
    if size > max(DENSE, 4 * rank):
        start = seeds.stream(0, "spectral", size).standard_normal(size)
        try:
            # One more than needed: the last one converges with a gap behind it.
            values, vectors = eigsh(gram, k=rank + 1, v0=start, tol=0)
            return np.ascontiguousarray(vectors[:, np.argsort(-values, kind="stable")[:rank]])
        except ArpackNoConvergence:
            pass
    return np.ascontiguousarray(np.linalg.eigh(gram)[1][:, ::-1][:, :rank])


class Core(nn.Module):
    """A core that several layers share."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.core = nn.Parameter(torch.zeros(rank, rank))


class SpectralLinear(AdaptedLinear):
    """A frozen linear layer with a trained core between the vectors of a frame.

    Args:
        base_layer: nn.Linear, or transformers' Conv1D, which keeps its weight transposed.
        frame: of this layer.
        tied: the core that it shares; None: it has one of its own.
    """

    left_or: Tensor
    right_ri: Tensor
    scale_rr: Tensor

    def __init__(self, base_layer: nn.Module, frame: Frame, tied: Core | None = None) -> None:
        super().__init__(base_layer)
        self.register_buffer("left_or", torch.from_numpy(frame.left_or), persistent=False)
        self.register_buffer("right_ri", torch.from_numpy(frame.right_ri), persistent=False)
        self.register_buffer("scale_rr", torch.from_numpy(frame.scale_rr), persistent=False)
        if tied is None:
            self.core = nn.Parameter(torch.zeros(len(frame.scale_rr), len(frame.scale_rr)))
        # In a tuple it is not registered again: one module has one place.
        self._tied = () if tied is None else (tied,)

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        """Return (W + left (scale * R) right) x."""
        rows = x.flatten(0, -2)
        out = self.base_layer(rows)
        low = F.linear(F.linear(rows, self.right_ri.to(x.dtype)), self.scaled_core())
        return out.addmm_(low.to(out.dtype), self.left_or.t().to(out.dtype)).view(*x.shape[:-1], -1)

    def sides(self) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]:
        """Return A = right and B = left (scale * R)."""
        return self.right_ri, self.left_or @ self.scaled_core()

    def scaled_core(self) -> Float[Tensor, "r r"]:
        """Return scale * R."""
        return (self._tied[0].core if self._tied else self.core) * self.scale_rr


class _Latest:
    """The frames that were made last: a base is built several times in a process, and its frame takes seconds."""

    key: tuple[str, str, int] | None = None
    frames: Mapping[str, Frame]


def frames_of(model: nn.Module, targets: str, rank: int, base_sha256: str) -> Mapping[str, Frame]:
    """Return the frame of every target by its name, in the order of `named_modules`.

    Args:
        model: the base.
        targets: see `find_targets`.
        rank: r.
        base_sha256: hash of the base's weights; the same hash as at the last call is not computed again.

    Raises:
        ConfigError: a layer is too small for the rank.
    """
    key = (base_sha256, targets, rank)
    if _Latest.key != key:
        _Latest.frames = {name: _frame(name, module, rank) for name, module in find_targets(model, targets)}
        _Latest.key = key
    return _Latest.frames


def _frame(name: str, module: nn.Module, rank: int) -> Frame:
    matrix = _matrix(module).cpu().numpy()
    if rank > min(matrix.shape):
        raise ConfigError(f"{name} has {min(matrix.shape)} singular vectors: set sublora.spectral_r to at most that")
    left, values, right = leading_singular_triples(matrix, rank)
    root = np.sqrt(values)
    sides = (left * root).astype(np.float32), (root[:, None] * right).astype(np.float32)
    return Frame(*sides, np.ones((rank, rank), np.float32))


def add_spectral(
    model: nn.Module,
    *,
    rank: int,
    targets: str,
    base_sha256: str,
    practised: Mapping[str, Frame] | None = None,
    tied: bool = False,
) -> nn.Module:
    """Put a core on every target, freeze everything else, and return the model.

    The r x r numbers of every core are what is trained; they are named `<layer>.core`, and `tied.<kind>.core` where
    cores are tied, in the order in which kinds first appear.

    Args:
        model: the base.
        rank: r.
        targets: see `find_targets`.
        base_sha256: hash of the base.
        practised: frames that the base brings with it, by the names of its layers; None: its own singular vectors.
        tied: layers share one core for every kind of linear layer (`sublora.nn.allocation.place_of`).

    Raises:
        ConfigError: the rank is 0 or above a frame's, a layer is too small for it, or there are no targets.
    """
    if rank < 1:
        raise ConfigError("cores of rank 0 change nothing: set sublora.spectral_r to at least 1")
    if practised is None:
        frames = frames_of(model, targets, rank, base_sha256)
    else:
        frames = {name: _practised_frame(practised, name, m, rank) for name, m in find_targets(model, targets)}
    model.requires_grad_(False)
    # The name of a module has no dots.
    kinds = {name: place_of(name).replace(".", "-") for name in frames}
    cores = {kind: Core(rank) for kind in kinds.values()} if tied else {}
    for name, frame in frames.items():
        model.set_submodule(name, SpectralLinear(model.get_submodule(name), frame, cores.get(kinds[name])))
    if tied:
        model.add_module(TIED, nn.ModuleDict(cores))
    return model


def _practised_frame(practised: Mapping[str, Frame], name: str, module: nn.Module, rank: int) -> Frame:
    frame = practised.get(name)
    if frame is None or (len(frame.left_or), frame.right_ri.shape[1]) != _matrix(module).shape:
        raise ConfigError(f"the base's frame does not fit its layer {name}: practise again with this base")
    if rank > len(frame.scale_rr):
        raise ConfigError(f"the base's frame has rank {len(frame.scale_rr)}: set sublora.spectral_r to at most that")
    return frame.leading(rank)


def _matrix(module: nn.Module) -> Float[Tensor, "o i"]:
    """The weight of a linear layer in float32, outputs first."""
    matrix = numbers(module)
    return matrix.t() if inputs_first(module) else matrix


def frame_sha256(frames: Mapping[str, Frame]) -> str:
    """Return a name for frames that rounding does not change, and a swapped, turned or mirrored vector does.

    It is SHA-256 over names, shapes, and for every vector of both sides where its largest entry stands and which sign
    that has. Rounded entries would not do: among millions one always lies at the edge of rounding up. Vectors that turn
    so little that no largest entry moves are the same to it; what such a turn does to losses is for their tolerance.
    """
    digest = hashlib.sha256()
    for name, frame in frames.items():
        digest.update(f"{name} {frame.left_or.shape} {frame.right_ri.shape}".encode())
        for vectors in (frame.left_or.T, frame.right_ri):
            at = np.abs(vectors).argmax(1)
            digest.update(at.astype("<i4").tobytes())
            digest.update(np.signbit(vectors[np.arange(len(at)), at]).tobytes())
    return digest.hexdigest()
