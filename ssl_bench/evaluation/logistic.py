"""L2 logistic regression for one strength after another: L-BFGS on the features' principal axes.

Objective, for each C, scikit-learn's: 1/2 ||W||^2 + C * sum_i CE(x_i W + b, y_i), the bias not penalised. It is divided
by C n, so that the gradient's size means the same at every C; scikit-learn does so too.

Two changes of variables leave the optimum where it is and save most steps. The features are centred and rotated onto
their principal axes (||W|| does not change under rotation; directions without variance have W = 0, which also turns
D > N columns into N). There the Hessian is nearly diagonal, and its inverse square root at the start of each solve
scales the variables. Weights are kept as [K, R] and the images' axis is innermost in logits [K, n]: with ten classes
both products are then three to six times as quick as with [R, K] (one thread, AVX-512).

A solve ends when what is left to gain, half of g H^-1 g by L-BFGS's own H, is below `tol` times the objective, twice
in a row. The largest entry of the gradient, which scikit-learn stops by, says little above C = 1: at 1e-4 and C = 1000
one image in five was given another class than at the optimum.

Memory: the axes of all N features, once, on the device (fp32 [N, R + 1]: 16 GB for 1.28 M images x 3,072), and 2 x 10
copies of the weights; logits are made in blocks. Shapes: N samples, D features, R axes, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 10  # L-BFGS pairs, as in scipy
EXACT = 2048  # features, or samples, up to which all axes are found
LEADING = 1024  # axes kept where both are more; what varies along the others is left out
SAMPLE = 8192  # samples by which those are found
TOL = 1e-7  # of a fit that predicts; candidates are compared at COMPARED
COMPARED = 1e-5

Block = Callable[[slice], Tensor]  # the features [n, D] of some samples, so that no second copy of all is made


@dataclass(frozen=True)
class Axes:
    """Centring, scaling and rotation of features: x [n, D] -> [n, R], or [n, R + 1] with a last column of ones."""

    centre: Tensor  # [D]
    matrix: Tensor  # [D, R], each row divided by its feature's spread
    intercept: bool

    def __call__(self, x: Tensor) -> Tensor:
        z = (x.to(self.centre) - self.centre) @ self.matrix
        return torch.cat([z, z.new_ones(len(z), 1)], 1) if self.intercept else z


def blocks(count: int, size: int = 4096) -> list[slice]:
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def rotate(
    x: Block, count: int, intercept: bool = True, scaled: bool = False, device: torch.device | None = None
) -> tuple[Tensor, Axes]:
    """Scores [N, R (+ 1)] of `count` samples on their principal axes, the largest last, and the way there.

    `scaled`: each feature is divided by its standard deviation first. More than EXACT samples and features: the LEADING
    axes of a randomised range finder (Halko et al. 2011, algorithm 4.3, q = 1 / 2); the others are left out.
    """
    centre, spread = _moments(x, count, intercept, scaled, device)
    dim = len(centre)

    def block(rows: slice) -> Tensor:
        return (x(rows).to(centre) - centre) / spread

    if dim <= min(count, EXACT):
        axes = _eigen(sum((b.T @ b).double() for b in map(block, blocks(count))), dim)[1]  # type: ignore[arg-type]
    elif count <= EXACT:
        whole = block(slice(0, count))
        values, vectors = _eigen((whole @ whole.T).double(), count)
        axes = whole.T @ (vectors / values.sqrt())
    else:
        axes = _leading(block, count, dim, centre)
    away = Axes(centre, axes / spread[:, None], intercept)
    z = torch.empty(count, axes.shape[1] + intercept, device=centre.device)
    for rows in blocks(count):
        z[rows] = away(x(rows))
    return z, away


def _moments(x: Block, count: int, intercept: bool, scaled: bool, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Mean [D] (zeros without an intercept) and standard deviation [D] (ones where not `scaled`, or nothing varies)."""
    first = x(slice(0, 1))[0].to(device)
    mean, square = torch.zeros_like(first, dtype=torch.float64), torch.zeros_like(first, dtype=torch.float64)
    for rows in blocks(count):
        mean += x(rows).to(first).double().sum(0) / count
    for rows in blocks(count) if scaled else []:
        square += (x(rows).to(first).double() - mean).square().sum(0) / count
    std = square.sqrt()
    spread = torch.where(std < 1e-6, 1.0, std) if scaled else torch.ones_like(std)
    return (mean if intercept else torch.zeros_like(mean)).float(), spread.float()


def _eigen(gram: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Values [R] and vectors [size, R] in fp32, without those where nothing varies."""
    exact = size <= 1024  # above, double precision takes too long, and axes below 1e-6 of the largest are lost
    values, vectors = torch.linalg.eigh(gram if exact else gram.float())
    keep = values > values[-1].clamp(min=0) * (1e-12 if exact else 1e-6)
    return values[keep].float(), vectors[:, keep].float()


def _leading(block: Block, count: int, dim: int, like: Tensor) -> Tensor:
    """Orthonormal axes [D, LEADING], found by SAMPLE samples spread evenly over all."""
    step = max(1, count // SAMPLE)
    seen = torch.cat([block(rows)[::step] for rows in blocks(count, 4096 - 4096 % step)])
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(dim, LEADING, generator=generator).to(like)
    axes = torch.linalg.qr(seen.T @ (seen @ axes))[0]
    scores = seen @ axes
    return axes @ torch.linalg.eigh((scores.T @ scores).double())[1].float()


@dataclass(frozen=True)
class Solution:
    """weight [K, R (+ 1)] on the axes; how the solve ended."""

    weight: Tensor
    left: float  # to gain, as a share of the objective
    evaluations: int  # passes over the data

    def logits(self, z: Tensor) -> Tensor:
        """[n, K] of scores z [n, R (+ 1)]."""
        return z @ self.weight.T


def solve(
    z: Tensor, y: Tensor, num_classes: int, strength: float, intercept: bool = True, start: Tensor | None = None,
    tol: float = TOL, limit: int = 2000,
) -> Solution:  # fmt: skip
    """The regression of strength C on scores z of `rotate`, y [N]; `start`: weights of a similar problem."""
    penalty = z.new_full((z.shape[1],), 1 / (strength * len(z)))
    if intercept:
        penalty[-1] = 0.0
    weight = z.new_zeros(num_classes, z.shape[1]) if start is None else start
    if not weight.numel():  # no axis and no intercept: nothing to solve for
        return Solution(weight, 0.0, 0)
    return _lbfgs(z, y.to(z.device), weight, penalty, tol, limit)


def _objective(
    z: Tensor, y: Tensor, weight: Tensor, penalty: Tensor, curved: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Value (double), gradient [K, R] and, if `curved`, the Hessian's diagonal [K, R], of mean CE + penalty."""
    value = 0.5 * (penalty * weight.square()).sum().double()
    gradient, curvature = torch.zeros_like(weight), torch.zeros_like(weight)
    k, r = weight.shape
    size = (1 << 19) // r if z.device.type == "cpu" else (1 << 26) // (k + r)  # 2 MB of z stay in a core's cache
    for rows in blocks(len(z), max(128, size)):
        part, target = z[rows], y[rows][None]
        logits = weight @ part.T
        logits -= logits.amax(0, keepdim=True)
        at_target = logits.gather(0, target)
        prob = logits.exp_()
        total = prob.sum(0, keepdim=True)
        value += (total.log() - at_target).double().sum() / len(z)
        prob /= total
        if curved:
            curvature.addmm_(prob * (1 - prob), part.square(), alpha=1 / len(z))
        prob.scatter_add_(0, target, torch.full_like(at_target, -1.0))
        gradient.addmm_(prob, part, alpha=1 / len(z))
    return value, gradient + penalty * weight, curvature + penalty


def _lbfgs(z: Tensor, y: Tensor, weight: Tensor, penalty: Tensor, tol: float, limit: int) -> Solution:
    """L-BFGS with backtracking, in variables scaled by the Hessian's diagonal at the start."""
    f, g, curvature = _objective(z, y, weight, penalty, curved=True)
    scale = curvature.clamp(min=1e-12).rsqrt()
    x, g = weight / scale, g * scale
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y, 1 / s.y
    direction, slope = -g, -g.square().sum()
    step = float(1 / g.norm().clamp(min=1))
    evaluations, quiet = 1, 0
    while evaluations < limit:
        trial = x + step * direction
        f_new, raw, _ = _objective(z, y, scale * trial, penalty)
        evaluations += 1
        slack = 4 * torch.finfo(z.dtype).eps * f.abs()
        if not bool(f_new <= f + 1e-4 * step * slope + slack):
            step *= 0.4
            if step < 1e-6:  # no way down in this precision
                break
            continue
        s, d = trial - x, raw * scale - g
        x, f, g = trial, f_new, raw * scale
        if (sy := (s * d).sum()) > 1e-10 * d.square().sum():
            pairs = [*pairs[-MEMORY + 1 :], (s, d, 1 / sy)]
        direction, step = _two_loops(g, pairs), 1.0
        slope = (g * direction).sum()
        quiet = quiet + 1 if bool(-slope / 2 <= tol * f) else 0
        if quiet == 2:
            break
    return Solution(scale * x, float(-slope / 2 / f.clamp(min=1e-30)), evaluations)


def _two_loops(g: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """-H g by the usual recursion."""
    q, alphas = g.clone(), []
    for s, d, rho in reversed(pairs):
        alphas.append(rho * (s * q).sum())
        q -= alphas[-1] * d
    if pairs:
        _, d, rho = pairs[-1]
        q /= rho * d.square().sum()
    for (s, d, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - rho * (d * q).sum()) * s
    return -q
