"""Collapse and quality signals while training, on held-out training images and never on test images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.models.vit import ViT
from ssl_bench.parallel import devices
from ssl_bench.training.neighbours import knn_votes
from ssl_bench.training.run_folder import Run
from ssl_bench.training.train import Trainer

BANK, QUERIES = 500, 300  # images of one look, enough to see a trend; fewer where a run is so short that
SHARE, FEWEST = 0.025, 0.16  # all looks together would take more than 2.5 % of its FLOPs (as much of its time)
JUDGED = 12  # held-out images from which on their spread says something of a collapse
CHUNK = 50  # images at once: activations stay in a CPU's cache, 1.7 x quicker than 250


def rankme(z: Tensor, eps: float = 1e-7) -> float:
    """RankMe [N, D] -> effective rank (Garrido et al. 2023, arXiv 2210.02885): exp of the singular values' entropy.

    1 where all features are zero.
    """
    s = torch.linalg.svdvals(z.double())
    p = s / s.sum().clamp(min=torch.finfo(s.dtype).tiny) + eps
    return float(torch.exp(-(p * p.log()).sum()))


def feature_std(z: Tensor) -> float:
    """Std over the batch of L2-normalised features, mean over dimensions, times sqrt(D): 1 isotropic, 0 collapsed.

    Of two images or more, as `mean_cosine`.
    """
    return float(F.normalize(z.double(), dim=-1).std(0).mean() * math.sqrt(z.shape[-1]))


def mean_cosine(z: Tensor) -> float:
    """Mean cosine between distinct images: 1 when all features point the same way."""
    z = F.normalize(z.double(), dim=-1)
    n = len(z)
    return float((z.sum(0).square().sum() - n) / (n * (n - 1)))


def knn_accuracy(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor) -> float:
    """Top-1 of k = 20, T = 0.07 as a fraction."""
    votes = knn_votes(bank, labels, queries, [20], 0.07, int(max(labels.max(), truth.max())) + 1)[0]
    return float((votes.argmax(1) == truth).float().mean())


def slope(z: Tensor, places: Tensor) -> float:
    """Spearman's correlation of the distances of features [N, D] and of places [N, 2]; 0 where nothing differs."""
    from scipy.stats import spearmanr  # imported for whom it serves: it takes half a second

    apart = [torch.pdist(x.double()).numpy() for x in (z, places)]
    return float(spearmanr(*apart).statistic) if min(a.std() for a in apart) > 1e-12 else 0.0


class Monitor:
    """Looks at the evaluated encoder a few times per run; says when its features collapse.

    Made before a run's first step, or before its checkpoint is read: it looks at the untrained network too.
    """

    def __init__(self, trainer: Trainer) -> None:
        data, method, config = trainer.data, trainer.method, trainer.config
        self.mean, self.std = method.mean, method.std
        self.labelled, self.item, self.judged = data.labelled, data.item, method.judged
        self.config = config
        run = trainer.steps * config.budget.batch_size * trainer.flops_per_image
        looks = config.monitor_points * (BANK + QUERIES) * method.encoder.flops()
        size = min(1.0, max(FEWEST, SHARE * run / max(looks, 1.0)))
        num_bank, num_queries = min(round(BANK * size), len(data.train)), min(round(QUERIES * size), len(data.val))
        bank = torch.linspace(0, len(data.train) - 1, num_bank).long().numpy()
        queries = torch.linspace(0, len(data.val) - 1, num_queries).long().numpy()
        self.bank, self.bank_labels = data.train.batch(bank), data.train.labels[bank]
        self.queries, self.query_labels = data.val.batch(queries), data.val.labels[queries]
        place = next((f.columns for f in data.val.factors if f.name == "position"), ())
        known = data.val.targets if place and data.item.name == "trajectory" else None
        self.places = None if known is None else known[queries][:, place]  # where the agent is, of a world
        untrained = self._evaluated(method.encoder, self.queries)
        self.untrained = feature_std(untrained) if len(untrained) > 1 else 1.0
        self.untrained_knn = self._knn(self._evaluated(method.encoder, self.bank), untrained) if data.labelled else 0.0

    def _knn(self, bank: Tensor, queries: Tensor) -> float:
        return knn_accuracy(bank, self.bank_labels, queries, self.query_labels)

    def _evaluated(self, encoder: ViT, images: Tensor) -> Tensor:
        """The same in eval mode."""
        training = encoder.training
        encoder.eval()
        found = self.features(encoder, images)
        encoder.train(training)
        return found

    @torch.no_grad()
    def features(self, encoder: ViT, images: Tensor) -> Tensor:
        """Features [N, D] of stored items, as the method judges them, on the CPU; encoded in training's precision."""
        device, out = self.mean.device, []
        for chunk in images.split(CHUNK):
            x = (self.item.floats(chunk.to(device)) - self.mean) / self.std
            with devices.autocast(self.config, device):
                out.append(self.judged(encoder, x).float())
        return torch.cat(out).cpu()

    def __call__(self, encoder: ViT) -> dict[str, float]:
        """std, RankMe (raw and centred), mean cosine, online k-NN, both of the untrained too; `collapsed` (0 or 1)."""
        bank, queries = (self._evaluated(encoder, images) for images in (self.bank, self.queries))
        if not torch.isfinite(queries).all():
            return {"finite": 0.0, "collapsed": 1.0}
        values = {"rankme": rankme(queries), "images": float(len(queries))}
        if len(queries) > 1:
            centred = queries - queries.mean(0)
            values |= {
                "std": feature_std(queries), "rankme_centred": rankme(centred), "cosine": mean_cosine(queries),
                "untrained": self.untrained,
            }  # fmt: skip
        if self.labelled:
            values |= {"knn": self._knn(bank, queries), "untrained_knn": self.untrained_knn}
        if self.places is not None:  # whether a planner has a slope: it ranked models as planning did
            values["distance"] = slope(queries, self.places)
        values["collapsed"] = float(collapse_reason(values) != "")
        return values


def collapse(run: Run) -> str:
    """Why a run counts as collapsed, or "". One look is enough: what recovers is another run than was asked for."""
    for row in run.metrics():
        if row.get("monitor_collapsed"):
            signals = {k.removeprefix("monitor_"): v for k, v in row.items() if k.startswith("monitor_")}
            return f"{collapse_reason(signals)} at step {row['step']:,}"
    return ""


def unjudged(trainer: Trainer) -> list[str]:
    """What to tell where too few images are held out for `collapse_reason`: no flag does not mean no collapse then."""
    count = len(trainer.data.val)
    if not trainer.config.monitor_points or count >= JUDGED:
        return []
    return [f"too few held-out images to see a collapse: {count}, and {JUDGED} are needed; more: data.val_fraction"]


def collapse_reason(values: dict[str, float]) -> str:
    """Why these features count as collapsed, or "" (also before the first look).

    Complete collapse: the spread between images is a twentieth of an isotropic one, and less than a tenth of what the
    untrained network gives them: 0.6 for photographs, but 0.05 for clouds of points and 0.08 for frames of a world,
    which it hardly tells apart. Dimensional collapse: what spread there is lies in a handful of directions. Measured on
    the embedded photographs (64 wide, 300 steps): untrained std 0.5, centred RankMe 24; I-JEPA 0.6 and 21; MAE 0.2 and
    27; I-JEPA with both encoders trained 0.02 and 32, without a predictor 0.97 and 4.4. So a run that has just begun is
    not flagged. Those were 300 images; fewer show fewer directions (simulated power-law spectra: 6.0 of 300 images are
    5.6 of 48, 4.7 of 24, 3.8 of 12). Below 12 no spread is judged: two healthy images always lie in one direction.
    """
    images = values.get("images", 300.0)
    if values.get("finite") == 0.0:
        return "features are not finite"
    if images < JUDGED:
        return ""
    if values.get("std", 1.0) < min(0.05, 0.1 * values.get("untrained", 0.5)):
        return f"all images map to nearly one vector (normalised std {values['std']:.3f}; isotropic is 1)"
    if values.get("rankme_centred", 99.0) < min(6.0, 6.15 * images / (images + 7)):
        return f"features vary in {values['rankme_centred']:.1f} directions only (centred RankMe)"
    return ""
