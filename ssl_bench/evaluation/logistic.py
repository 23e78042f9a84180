"""L2 logistic regression at many strengths at once: batched L-BFGS, one matrix product for all of them per step.

Objective, for each C, scikit-learn's: 1/2 ||W||^2 + C * sum_i CE(x_i W + b, y_i), the bias not penalised. It is divided
by C n, so that the gradient's size (and `tol`) means the same at every C; scikit-learn does so too.

Two changes of variables leave the optimum where it is and save most steps. The features are centred and rotated onto
their principal axes (||W|| does not change under rotation; directions without variance have W = 0, which also turns
D > N columns into N). There the Hessian is nearly diagonal, about q e_j + 1 / (C n) for an axis of variance e_j, and
its inverse square root scales the variables.

Shapes: N samples, D features, R axes, P problems (values of C), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 10  # L-BFGS pairs, as in scipy
CHUNK = 1 << 24  # logits held at once


@dataclass(frozen=True)
class Solution:
    """weight [P, D, K], bias [P, K], and how each problem ended."""

    weight: Tensor
    bias: Tensor
    gradient: Tensor  # [P], largest entry of the gradient
    evaluations: int  # passes over the data, each for all unfinished problems

    def logits(self, x: Tensor, chosen: int | None = None) -> Tensor:
        """[P, n, K] for x [n, D], or [n, K] for one problem."""
        if chosen is not None:
            return x @ self.weight[chosen] + self.bias[chosen]
        return torch.einsum("nd,pdk->pnk", x, self.weight) + self.bias[:, None]


def rotate(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [N, D] -> scores [N, R] on the principal axes and the axes [D, R], R = the rank."""
    n, d = x.shape
    exact = min(n, d) <= 1024  # above, double precision takes too long, and axes below 1e-6 of the largest are lost
    wide = x.double() if exact else x
    values, vectors = torch.linalg.eigh(wide.T @ wide if d <= n else wide @ wide.T)
    keep = values > values[-1].clamp(min=0) * (1e-12 if exact else 1e-6)  # where nothing varies, no axis
    values, vectors = values[keep].to(x.dtype), vectors[:, keep].to(x.dtype)
    if d <= n:
        return x @ vectors, vectors
    axes = x.T @ vectors / values.sqrt()
    return vectors * values.sqrt(), axes


def logistic(
    x: Tensor, y: Tensor, num_classes: int, strengths: Tensor, tol: float = 1e-4, limit: int = 1000,
    intercept: bool = True, start: Solution | None = None,
) -> Solution:  # fmt: skip
    """Solve for every C in `strengths` [P] on x [N, D], y [N]. Stops a problem when its gradient is below `tol`.

    `start`: the solution of a similar problem, such as the one without the validation images.
    """
    centre = x.mean(0) if intercept else torch.zeros_like(x[0])
    z, axes = rotate(x - centre)
    n, p, k = len(z), len(strengths), num_classes
    penalty = (1 / (strengths.to(z) * n))[:, None, None].expand(p, z.shape[1], 1)
    curvature = z.square().mean(0)[None, :, None] * (1 - 1 / k) / k
    scale = (curvature + penalty).rsqrt()
    if intercept:
        z = torch.cat([z, torch.ones(n, 1, device=z.device, dtype=z.dtype)], 1)
        penalty = torch.cat([penalty, penalty.new_zeros(p, 1, 1)], 1)
        scale = torch.cat([scale, scale.new_full((p, 1, 1), ((1 - 1 / k) / k) ** -0.5)], 1)
    theta = torch.zeros(p, z.shape[1], k, dtype=z.dtype, device=z.device)
    if start is not None:
        theta[:, : axes.shape[1]] = torch.einsum("dr,pdk->prk", axes, start.weight)
        if intercept:
            theta[:, -1] = start.bias + torch.einsum("d,pdk->pk", centre, start.weight)
    if not z.shape[1]:  # no axis and no intercept: nothing to solve for
        none = torch.zeros(p, x.shape[1], k, dtype=z.dtype, device=z.device)
        return Solution(none, none.new_zeros(p, k), none.new_zeros(p), 0)
    found, gradient, evaluations = _lbfgs(z, y, theta, scale, penalty, tol, limit)
    last = found.shape[1] - int(intercept)
    weight = torch.einsum("dr,prk->pdk", axes, found[:, :last])
    bias = found[:, last] if intercept else torch.zeros(p, k, dtype=z.dtype, device=z.device)
    return Solution(weight, bias - torch.einsum("d,pdk->pk", centre, weight), gradient, evaluations)


def _objective(z: Tensor, y: Tensor, theta: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Values [P] and gradients [P, R, K] of mean cross-entropy + penalty / 2 * ||theta||^2."""
    p, r, k = theta.shape
    value = 0.5 * (penalty * theta.square()).sum((1, 2))
    gradient = penalty * theta
    flat = theta.permute(1, 2, 0).reshape(r, k * p)
    rows = max(1, CHUNK // (p * k))
    for part, target in zip(z.split(rows), y.split(rows), strict=True):
        logits = (part @ flat).view(len(part), k, p)  # problems innermost: reductions over few classes are slow there
        logits -= logits.amax(1, keepdim=True)
        each = torch.arange(len(part), device=z.device)
        at_target = logits[each, target]
        prob = logits.exp_()
        total = prob.sum(1, keepdim=True)
        value = value + (total.squeeze(1).log() - at_target).sum(0) / len(z)
        prob /= total
        prob[each, target] -= 1
        gradient = gradient + (part.T @ prob.view(len(part), k * p)).view(r, k, p).permute(2, 0, 1) / len(z)
    return value, gradient


def _lbfgs(
    z: Tensor, y: Tensor, theta: Tensor, scale: Tensor, penalty: Tensor, tol: float, limit: int
) -> tuple[Tensor, Tensor, int]:
    """Each round evaluates one trial point per problem; those that finish leave the batch."""
    result, ended = theta.clone(), torch.zeros_like(theta[:, 0, 0])
    open_ = torch.arange(len(theta), device=z.device)
    x = theta / scale  # in scaled variables
    f, raw = _objective(z, y, theta, penalty)
    g = raw * scale
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # (s, y, 1 / s.y, or 0 where a problem skipped it)
    direction, step = -g, (1 / g.flatten(1).norm(dim=1).clamp(min=1)).to(f)
    evaluations = 1
    while evaluations < limit:
        trial = x + step[:, None, None] * direction
        f_new, raw_new = _objective(z, y, scale * trial, penalty)
        evaluations += 1
        slope = (g * direction).sum((1, 2))
        slack = 4 * torch.finfo(z.dtype).eps * f.abs()
        good = (f_new <= f + 1e-4 * step * slope + slack) & torch.isfinite(f_new)
        g_new = raw_new * scale
        mask = good[:, None, None]
        s, d = torch.where(mask, trial - x, 0), torch.where(mask, g_new - g, 0)
        sy = (s * d).sum((1, 2))
        rho = torch.where(sy > 1e-10 * d.square().sum((1, 2)), 1 / sy.clamp(min=1e-30), 0)
        x, f = torch.where(mask, trial, x), torch.where(good, f_new, f)
        g, raw = torch.where(mask, g_new, g), torch.where(mask, raw_new, raw)
        if good.any():
            pairs = [*pairs[-MEMORY + 1 :], (s, d, rho)]
        fresh = _two_loops(g, pairs)
        direction = torch.where(mask, fresh, direction)
        step = torch.where(good, 1.0, step * 0.4)
        size = raw.abs().amax((1, 2))
        done = (size <= tol) | (step < 1e-6)
        if done.sum() * 8 >= len(done):  # an eighth of the batch is finished: let it go
            result[open_[done]], ended[open_[done]] = (scale * x)[done], size[done]
            left = ~done
            open_, x, f, g, raw, direction, step = (t[left] for t in (open_, x, f, g, raw, direction, step))
            scale, penalty = scale[left], penalty[left]
            pairs = [(s[left], d[left], rho[left]) for s, d, rho in pairs]
            if not len(open_):
                break
    if len(open_):
        result[open_], ended[open_] = scale * x, raw.abs().amax((1, 2))
    return result, ended, evaluations


def _two_loops(g: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """-H g by the usual recursion, each problem with its own pairs (rho = 0 leaves a pair out)."""
    q, alphas = g.clone(), []
    gamma = torch.ones_like(g[:, 0, 0])
    for s, d, rho in reversed(pairs):
        alpha = rho * (s * q).sum((1, 2))
        q -= alpha[:, None, None] * d
        alphas.append(alpha)
    for _, d, rho in pairs:
        used = rho > 0
        gamma = torch.where(used, 1 / (rho * d.square().sum((1, 2))).clamp(min=1e-30), gamma)
    q *= gamma[:, None, None]
    for (s, d, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = rho * (d * q).sum((1, 2))
        q += (alpha - beta)[:, None, None] * s
    return -q
