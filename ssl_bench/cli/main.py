"""`ssl-bench`: the group of commands, and how errors end it."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from ssl_bench import __version__
from ssl_bench.cli.group import Group
from ssl_bench.errors import UserError, never_fail, printable

COMMANDS = {  # name -> "module:function", in the order of the help
    "quickstart": "ssl_bench.cli.quickstart:quickstart",
    "pretrain": "ssl_bench.cli.pretrain:pretrain",
    "eval": "ssl_bench.cli.eval:eval",
    "compare": "ssl_bench.cli.compare:compare",
    "report": "ssl_bench.cli.report:command",
    "data": "ssl_bench.cli.data:command",
    "speed": "ssl_bench.cli.speed:speed",
    "list": "ssl_bench.cli.list:list_",
    "show": "ssl_bench.cli.show:show",
    "runs": "ssl_bench.cli.runs:list_runs",
    "prune": "ssl_bench.cli.runs:prune",
    "export": "ssl_bench.cli.export:command",
    "doctor": "ssl_bench.cli.doctor:doctor",
    "jobs": "slurm.jobs:jobs",
    "validate": "ssl_bench.cli.validate:validate",
    "claims": "ssl_bench.cli.claims:claims",
}


@click.group(
    cls=Group,
    places=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="ssl-bench")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Which self-supervised objective gives the better representation, for your data and your budget?

    \b
    ssl-bench quickstart                       a comparison on real photographs, in minutes
    ssl-bench pretrain --method ijepa          one run
    ssl-bench eval --protocol linear           evaluate the newest finished run
    ssl-bench report                           the table of all records
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def read_names_as_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale is ASCII and that mode was turned off: names of files and
    classes would be other names there, and so would what is known of the images. The screen stays ASCII.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        screen = os.environ.get("PYTHONIOENCODING") or "ascii"
        os.execve(sys.executable, sys.orig_argv, os.environ | {"PYTHONUTF8": "1", "PYTHONIOENCODING": screen})


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a `UserError` is one sentence and exit code 2."""
    if arguments is None:
        read_names_as_utf8()
    never_fail(sys.stdout, sys.stderr)
    run: Callable[..., Any] = cli.main
    try:
        run(args=arguments, prog_name="ssl-bench", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nstopped. The same command goes on from the last checkpoint.", err=True)
        sys.exit(130)
    except UserError as error:
        from ssl_bench import screen

        click.echo(f"{screen.speaker()}error: {printable(str(error))}", err=True)
        sys.exit(2)
