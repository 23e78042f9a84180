"""`ssl-bench quickstart`: a small fixed comparison on what comes with the package, for each kind of item."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click

from ssl_bench import screen
from ssl_bench.cli.options import KEEP_OLD, ROOT


class Start(NamedTuple):
    """The comparison of one kind of item."""

    recipe: str  # that all its methods have: it names the set and the budget
    methods: tuple[str, ...]
    own: str  # how one's own data is named

    @property
    def flops(self) -> float:
        """A tenth of the recipe's budget."""
        from ssl_bench.config import budgets
        from ssl_bench.training.method import configured

        whole = configured(self.methods[0], self.recipe, []).budget.flops
        return budgets.FAST_FLOPS if whole == budgets.QUICK_FLOPS else whole / 10


STARTS = {  # by kind of item
    "images": Start("quick", ("ijepa", "mae", "dino", "supervised"), "folder:PATH"),
    "clips": Start("clips", ("vjepa", "videomae", "simclr", "supervised"), "movingphotos:2"),
    "points": Start("points", ("pointjepa", "mae", "simclr", "supervised"), "folder:PATH#kind=points"),
    "sound": Start("sound", ("audiojepa", "mae", "dino", "supervised"), "folder:PATH#kind=sound"),
}


@click.command()
@click.option("--kind", type=click.Choice(list(STARTS)), default="images", help="What to learn from.")
@click.option("--fast", is_flag=True, help="One seed and a tenth of the budget: two minutes; ranks nothing.")
@click.option("--jobs", type=int, default=0, help="Runs side by side; 0: one per core.")
@KEEP_OLD
@ROOT
def quickstart(kind: str, fast: bool, jobs: int, keep_old: list[str], root: Path) -> None:
    """Compare I-JEPA, MAE and DINO on the embedded photographs, or their kin on clips, points or sound.

    \b
    Three seeds each, the same ViT, data and training FLOPs; k-NN and linear evaluation; reference rows.
    Example: ssl-bench quickstart --fast
             ssl-bench quickstart --kind sound
    """
    from ssl_bench.experiments import matrix, runner

    start = STARTS[kind]
    seeds, settings = (1, [f"budget.flops={start.flops:g}"]) if fast else (3, [])
    rows = matrix.plan(start.methods, ["knn", "linear"], seeds, start.recipe, [*settings, *keep_old], root)
    runner.run(rows, root, jobs)
    say = screen.say
    if fast:
        say("One seed ranks nothing: this shows how the tool works. 'ssl-bench quickstart' trains three.", "yellow")
    self_supervised = ",".join(method for method in start.methods if method != "supervised")
    say("Next:", "bold")
    say("  ssl-bench report --format markdown          this table, to paste")
    say(f"  ssl-bench show {start.methods[0]} --recipe {start.recipe}         every setting, and why")
    say(f"  ssl-bench compare --methods {self_supervised} --recipe {start.recipe} --data {start.own}     your own")
