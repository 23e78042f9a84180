"""Evaluation beside scikit-learn, and what a run spends on watching itself."""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from ssl_bench import find
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import DataConfig, vit
from ssl_bench.data.dataset import open_data
from ssl_bench.encoders import references
from ssl_bench.evaluation.features import encode
from ssl_bench.evaluation.logistic import rotate, solve
from ssl_bench.training import checkpoint, measure, pretrain
from ssl_bench.training.journal import Journal
from ssl_bench.training.monitor import Monitor
from ssl_bench.training.neighbours import knn_votes
from ssl_bench.training.speed import trainer


def features(count: int, classes: int, dim: int = 192, spread: float = 0.25) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping Gaussian classes [N, D]."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = spread * torch.randn(classes, dim, generator=generator)
    return centres[labels] + torch.randn(count, dim, generator=generator), labels


def report(what: str, timing: dict[str, measure.Timing], target: float) -> None:
    click.echo(what)
    for name, t in timing.items():
        click.echo(f"  {name:<34} {t.median:>9.2f} s ({min(t.seconds):.2f} to {max(t.seconds):.2f})")
    low, middle, high = measure.ratio(timing["scikit-learn"], timing["ours"])
    verdict = "met" if middle >= target else "NOT met"
    click.echo(
        f"  {'-> times scikit-learn':<34} {middle:>9.2f} x ({low:.2f} to {high:.2f}), asked {target:g}: {verdict}"
    )


def knn(queries: int, rounds: int, bank: int = 50_000, k: int = 20, t: float = 0.07) -> None:
    import numpy as np
    from sklearn.neighbors import KNeighborsClassifier

    x, y = features(bank + queries, 100)
    unit = torch.nn.functional.normalize(x, dim=1)
    votes: dict[str, Any] = {}

    def theirs() -> None:
        # on unit vectors the Euclidean ranking is the cosine's: scikit-learn's quickest exact path
        model = KNeighborsClassifier(k, weights=lambda d: np.exp(-(d**2) / (2 * t)), algorithm="brute")
        votes["theirs"] = model.fit(unit[:bank].numpy(), y[:bank].numpy()).predict(unit[bank:].numpy())

    def ours() -> None:
        votes["ours"] = knn_votes(x[:bank], y[:bank], x[bank:], [k], t, 100)[0].argmax(1).numpy()

    timing = measure.alternate({"ours": ours, "scikit-learn": theirs}, rounds)
    same = 100 * float((votes["ours"] == votes["theirs"]).mean())
    report(f"k-NN, {bank:,} x {queries:,} x 192, same votes {same:.2f} %", timing, 4)


def photographs() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Features [2782, 192] of the embedded photographs by an untrained ViT, their labels, and how many are to fit."""
    data = open_data(DataConfig("clothing48", image_size=48))
    encoder = references.untrained(vit("mini_patch6"), 48, seed=0, data=data)
    parts = [data.train, data.val]
    x = torch.cat([encode(encoder, part, tokens=False)["pooled"]["mean"][:, -1] for part in parts])
    return x, torch.cat([torch.as_tensor(part.labels) for part in parts]), len(parts[0])


def regression(rounds: int, x: torch.Tensor, y: torch.Tensor, count: int, strengths: torch.Tensor, what: str) -> None:
    """All `strengths` on the first `count` rows, ours to the end, theirs to 1e-4; accuracy on the others."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore", ConvergenceWarning)  # counted and printed instead
    classes, tol, limit, unfinished = int(y.max()) + 1, 1e-4, 1000, 0
    accuracy: dict[str, list[float]] = {}
    train_x, test_x, train_y, test_y = x[:count], x[count:], y[:count], y[count:]

    def theirs() -> None:
        nonlocal unfinished
        models = [
            LogisticRegression(C=c, max_iter=limit, tol=tol).fit(train_x.numpy(), train_y.numpy())
            for c in strengths.tolist()
        ]
        unfinished = sum(int(m.n_iter_[0]) >= limit for m in models)
        accuracy["theirs"] = [100 * m.score(test_x.numpy(), test_y.numpy()) for m in models]

    def ours() -> None:
        z, axes = rotate(train_x.__getitem__, count)
        start, tests, accuracy["ours"] = None, axes(test_x), []
        for c in strengths.tolist():
            found = solve(z, train_y, classes, c, start=start)
            accuracy["ours"].append(100 * float((found.logits(tests).argmax(1) == test_y).double().mean()))
            start = found.weight

    timing = measure.alternate({"ours": ours, "scikit-learn": theirs}, rounds)
    gap = max(abs(a - b) for a, b in zip(accuracy["ours"], accuracy["theirs"], strict=True))
    best = max(accuracy["ours"]), max(accuracy["theirs"])
    report(
        f"logistic regression, {what}, {count:,} x {x.shape[1]}, {len(strengths)} values of C; accuracy of the best C: "
        f"ours {best[0]:.2f}, theirs {best[1]:.2f}, at any C within {gap:.2f} points; {unfinished} of theirs had not "
        f"converged after {limit} iterations", timing, 6,
    )  # fmt: skip


def regressions(rounds: int) -> None:
    """Seven values of C on separated classes, and the 45 of `linear` on features as they come."""
    x, y = features(12_000, 10)
    regression(rounds, x, y, 10_000, 10 ** torch.linspace(-4, 2, 7), "Gaussian classes")
    x, y, count = photographs()
    regression(max(1, rounds // 2), x, y, count, 10 ** torch.linspace(-6, 5, 45), "photographs, untrained ViT")


def overhead(methods: tuple[str, ...] = ("mae", "dino", "ijepa")) -> None:
    """The share of monitor, journal and checkpoints in `quick` runs on the embedded photographs."""
    for method in methods:
        spent: dict[str, float] = {"monitor": 0.0, "journal": 0.0, "checkpoint": 0.0}
        kept = (Monitor.__call__, Journal.record, checkpoint.save)

        def timed(name: str, inner: Callable[..., Any], spent: dict[str, float] = spent) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                began = time.process_time()
                out = inner(*args, **kwargs)
                spent[name] += time.process_time() - began
                return out

            return call

        Monitor.__call__ = timed("monitor", kept[0])  # type: ignore[method-assign]
        Journal.record = timed("journal", kept[1])  # type: ignore[method-assign]
        checkpoint.save = timed("checkpoint", kept[2])
        with tempfile.TemporaryDirectory() as folder:
            config = resolve(find.recipe(method, "quick")(), ["run.threads=1"])
            began = time.process_time()
            pretrain.pretrain(config, Path(folder))
            whole = time.process_time() - began
        Monitor.__call__, Journal.record, checkpoint.save = kept  # type: ignore[method-assign]
        spent["journal"] -= spent["monitor"]  # the journal calls the monitor
        parts = ", ".join(f"{name} {100 * seconds / whole:.2f} %" for name, seconds in spent.items())
        total = 100 * sum(spent.values()) / whole
        click.echo(f"{method} quick, {whole:.0f} CPU s: {parts}; together {total:.2f} %, asked under 3 %")


def checkpoints(backbones: tuple[str, ...] = ("micro_patch6", "vit_base_patch16"), rounds: int = 5) -> None:
    """MAE at 48 px, batch 32: how long the loop stands still for a checkpoint, against a step; the write follows."""
    for backbone in backbones:
        settings = [f"backbone={backbone}", "objective.decoder_heads=4", "run.threads=1"]
        at_work = trainer(resolve(find.recipe("mae", "quick")(), settings), torch.device("cpu"))
        steps, pauses, writes = [], [], []
        with tempfile.TemporaryDirectory() as folder, checkpoint.Writer(Path(folder)) as writer:
            at_work.train_step()
            for _ in range(rounds):
                began = time.perf_counter()
                at_work.train_step()
                trained = time.perf_counter()
                writer.save(at_work.state())
                handed_over = time.perf_counter()
                writer.wait()
                steps.append(trained - began)
                pauses.append(handed_over - trained)
                writes.append(time.perf_counter() - handed_over)
            size = (Path(folder) / checkpoint.LAST).stat().st_size
        step, pause, write = (statistics.median(seconds) for seconds in (steps, pauses, writes))
        click.echo(
            f"checkpoint of {backbone}, {size / 1e6:,.1f} MB: the loop stands still for {1000 * pause:.0f} ms, "
            f"{pause / step:.2f} of a step of {1000 * step:.0f} ms; written and read back in {write:.2f} s"
        )
