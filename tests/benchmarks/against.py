"""The steps of this tree beside those of an earlier commit: python tests/benchmarks/against.py COMMIT

One process for each tree, two of them for each method, and they step in turn, so that a slow minute of the machine
falls on both; CPU seconds of one thread. Medians, and the ratio round by round: lowest, median, highest. Beside them
the share of a step that is spent in matrix products, as torch's profiler sees it in this tree.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from ssl_bench.training import measure

HERE = Path(__file__).parents[2]
STEPS = 4  # in one round
WARM = 20  # before: the allocator settles
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
WORKER = """
import sys, time, torch
torch.set_num_threads(1)
from ssl_bench import find
from ssl_bench.config.overrides import resolve
from ssl_bench.parallel import devices
from ssl_bench.training.speed import trainer

method, recipe, steps, warm = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
t = trainer(resolve(find.recipe(method, recipe)(), ["run.threads=1"]), devices.pick_device("cpu"))
for _ in range(warm):
    t.train_step()
print("ready", flush=True)
for line in sys.stdin:
    if line == "profile\\n":
        from torch.profiler import profile

        with profile() as seen:
            for _ in range(steps):
                t.train_step()
        events = seen.key_averages()
        products = sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS)
        print(products / sum(e.self_cpu_time_total for e in events), flush=True)
        continue
    began = time.process_time()
    for _ in range(steps):
        t.train_step()
    print(time.process_time() - began, flush=True)
""".replace("PRODUCTS", repr(PRODUCTS))


class Worker:
    """A process that steps when asked, with the code of one tree."""

    def __init__(self, tree: Path, method: str, recipe: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORKER, method, recipe, str(STEPS), str(WARM)]
        self.process = subprocess.Popen(
            command, env=env, cwd=tree, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.answer("ready")

    def answer(self, wanted: str = "") -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line or (wanted and line != wanted):
            raise click.ClickException(f"The worker ended: {' '.join(self.process.args[-4:-2])}")  # type: ignore[index]
        return line

    def ask(self, what: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return float(self.answer())

    def close(self) -> None:
        self.process.communicate()


def compare(method: str, recipe: str, trees: dict[str, Path], rounds: int) -> None:
    workers = {name: Worker(tree, method, recipe) for name, tree in trees.items()}
    timing = {name: measure.Timing() for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            timing[name].seconds.append(worker.ask("step") / STEPS)
    shares = {name: worker.ask("profile") for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    low, middle, high = measure.ratio(timing["before"], timing["now"])
    text = ", ".join(
        f"{name} {1e3 * t.median:.1f} ms ({100 * shares[name]:.0f} % in matrix products)" for name, t in timing.items()
    )
    click.echo(f"{method} {recipe}: {text}; {middle:.2f} x ({low:.2f} to {high:.2f})")


@click.command()
@click.argument("commit")
@click.option("--methods", default="ijepa,mae,dino,simclr", show_default=True)
@click.option("--recipe", default="quick", show_default=True)
@click.option("--rounds", default=15, show_default=True)
def main(commit: str, methods: str, recipe: str, rounds: int) -> None:
    """Steps now against those of COMMIT."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        git: dict[str, Any] = {"cwd": HERE, "check": True}
        archive = subprocess.run(["git", "archive", commit], stdout=subprocess.PIPE, **git).stdout
        before.mkdir()
        subprocess.run(["tar", "-x", "-C", str(before)], input=archive, check=True)
        for method in methods.split(","):
            compare(method, recipe, {"before": before, "now": HERE}, rounds)


if __name__ == "__main__":
    main()
