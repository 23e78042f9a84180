"""The group of all commands, each in a file of its own and imported only when it runs."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ssl_bench import find
from ssl_bench.errors import nearest


class Group(click.Group):
    """`places` names the commands: name -> "module:function". A wrong name is answered with the nearest one."""

    def __init__(self, *args: Any, places: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.places)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """What help and completion need: the name and its sentence, read without an import."""
        return click.Command(name, short_help=self.summary(name)) if name in self.places else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"No command '{args[0]}'. {nearest(args[0], known)}")
        name, found, rest = super().resolve_command(ctx, args)
        return name, self.load(name) if name else found, rest

    def load(self, name: str) -> click.Command:
        """The command itself."""
        module, _, attribute = self.places[name].partition(":")
        found: click.Command = getattr(find.load(module), attribute)
        return found

    def summary(self, name: str) -> str:
        """The first line of a command's docstring."""
        module, _, attribute = self.places[name].partition(":")
        spec = find_spec(module)
        body = ast.parse(Path(spec.origin).read_text()).body if spec and spec.origin else []
        docs = [ast.get_docstring(n) for n in body if isinstance(n, ast.FunctionDef) and n.name == attribute]
        return (docs[0] or "").split("\n")[0] if docs else ""
