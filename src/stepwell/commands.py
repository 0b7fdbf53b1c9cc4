"""The commands as a typer app: a command is imported when it runs, and is otherwise listed from the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,  # rich's help costs 0.1 s of imports
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def app(table: Mapping[str, tuple[str, str]]) -> typer.Typer:
    """The program. `table`: command -> (module with a function of that name, one line of help)."""

    class Table(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(table)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name not in table:
                return None
            module, _ = table[cmd_name]
            function = getattr(import_module(module), cmd_name.replace("-", "_"))
            if getattr(function, "parses_itself", False):  # reached by the completion of a shell alone: see cli.main
                function = _of_paths
            single = typer.Typer(**{**_SETTINGS, "no_args_is_help": False}, add_completion=False)
            single.command(cmd_name)(function)
            return get_command(single)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(name, said) for name, (_, said) in table.items()])

        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            # without this, every command is imported for its help
            found = [_Completion(name, said) for name, (_, said) in table.items() if name.startswith(incomplete)]
            return found or super().shell_complete(ctx, incomplete)

    program = typer.Typer(
        cls=Table, help="Choose, build, run, tune and debug the optimizer of a PyTorch training run.", **_SETTINGS
    )

    @program.callback()
    def stepwell(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    ) -> None:
        pass

    return program


@dataclass(frozen=True)
class _Completion:
    """What a shell may complete, as click has it: typer brings its own copy of click, or takes the one installed."""

    value: str
    help: str
    type: str = "plain"


def _of_paths(paths: Annotated[list[Path] | None, typer.Argument()] = None) -> None:
    """The arguments of a command that parses itself, for the completion of a shell."""


def _version(wanted: bool) -> None:
    if wanted:
        from stepwell import __version__

        print(f"stepwell {__version__}")
        raise typer.Exit
