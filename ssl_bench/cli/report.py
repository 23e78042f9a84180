"""`ssl-bench report`: the table of all records, as text or as one page; `--collect` and `--check` for results/."""

from __future__ import annotations

from pathlib import Path

import click

from results import published
from ssl_bench import screen
from ssl_bench.cli.options import ROOT
from ssl_bench.errors import UserError
from ssl_bench.experiments.recorded import of_other_code
from ssl_bench.experiments.report import check, collect, html, load, report, save_charts, show


@click.command()
@click.option("--format", "form", default="terminal", show_default=True, help="terminal, markdown, csv, latex, json.")
@click.option(
    "--html", "page_to", type=click.Path(path_type=Path), default=None, help="Write the page to this file instead."
)
@click.option(
    "--charts",
    "charts_to",
    type=click.Path(path_type=Path),
    default=None,
    help="Write every chart to this folder, as SVG and PNG.",
)
@click.option("--published", "beside", is_flag=True, help="Show published numbers beside the measured ones.")
@click.option("--collect", "fold", is_flag=True, help="Fold the records into results/ and regenerate its tables.")
@click.option("--check", "verify", is_flag=True, help="Fail where a table in results/ is stale.")
@ROOT
def command(
    form: str, page_to: Path | None, charts_to: Path | None, beside: bool, fold: bool, verify: bool, root: Path
) -> None:  # fmt: skip
    """The table of all records, as text or as one page.

    \b
    Example: ssl-bench report --format markdown > table.md
    Example: ssl-bench report --html report.html
    """
    if verify:
        stale = check()
        if stale:
            raise UserError(" ".join(stale))
        return screen.say("results/ is fresh")
    if fold:
        return screen.say(collect(root))
    records, others = load(root), published.load() if beside else []
    if page_to:
        html(records, page_to, root, others)
        screen.say(f"wrote {page_to}: open it in a browser; it needs no network")
    elif charts_to:
        written = save_charts(records, charts_to)
        screen.say(f"wrote {len(written)} charts to {charts_to}" if written else "no record of a trained run to draw")
    elif form == "terminal":
        screen.console.print(show(records, others))
    else:
        click.echo(report(records, form, others))
    for sentence in of_other_code(records):
        click.secho(f"note: {sentence}", fg="yellow", err=True)
