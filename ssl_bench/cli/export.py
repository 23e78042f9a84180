"""`ssl-bench export`: a run as a folder that plain timm loads."""

from __future__ import annotations

from pathlib import Path

import click

from ssl_bench.cli.options import ROOT


@click.command(name="export")
@click.argument("run")
@click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), required=True, help="A new folder for the model."
)
@click.option("--licence", default="", help="SPDX name for the weights; default: that of embedded images, else unset.")
@ROOT
def command(run: str, to: Path, licence: str, root: Path) -> None:
    """A run as a folder that plain timm loads, with its card.

    \b
    Writes model.safetensors, config.json and README.md (a Hugging Face model card), then loads the folder with timm
    and compares the outputs.
    Example: ssl-bench export ijepa-small-s0 --to ijepa-clothing
    """
    from ssl_bench import screen
    from ssl_bench.encoders.export import export
    from ssl_bench.experiments.run_summary import cost, scores
    from ssl_bench.training import run_folder

    found = run_folder.find_run(root, run)
    difference = export(found, to, cost(found), scores(found, root), licence)
    screen.say(f"wrote {to}: model.safetensors, config.json, README.md", "bold green")
    screen.say(f"  timm loads it; largest difference of an output to the run's encoder: {difference:.2g}")
    screen.say(f'  use: timm.create_model("local-dir:{to}", pretrained=True)')
    screen.say(f"  share: hf upload YOU/NAME {to}, then anybody can run ssl-bench eval timm:hf-hub:YOU/NAME")
