"""How `dem --help` looks: verbs in panels by subject, plain usage lines, and no Python types."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

PANELS = ("Merge", "Inspect", "Measure", "Train", "Data", "Page")
"""The panels of `dem --help`, from the top."""


class Verb(TyperCommand):
    """A command whose help names a value by its metavar only."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, each without the name of its Python type."""
        return [_without_type(param) for param in super().get_params(ctx)]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line behind the command's name: [OPTIONS] RECIPE OUT."""
        return [*_usage(self.get_params(ctx))]


class Verbs(TyperGroup):
    """A group of commands that lists them in the order of PANELS."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, each without the name of its Python type."""
        return [_without_type(param) for param in super().get_params(ctx)]

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, panel by panel, in the order of registration."""

        def panel(name: str) -> int:
            of_command = getattr(self.commands[name], "rich_help_panel", None)
            return PANELS.index(of_command) if of_command in PANELS else len(PANELS)

        return sorted(self.commands, key=panel)


def _usage(params: list[Any]) -> list[str]:
    words = ["[OPTIONS]"]
    for param in params:
        if param.param_type_name == "argument":
            name = param.metavar or param.name.upper()
            name += "..." if param.nargs != 1 and not name.endswith("...") else ""
            words.append(name if param.required else f"[{name}]")
    return words


def _without_type(param: Any) -> Any:
    """Take the Python type from a parameter's line of help: `--rank N`, not `--rank <int>`."""
    # Typer shows the type of each argument and flag, and has no setting to hide it.
    shown = param.metavar if param.param_type_name == "option" and not param.is_flag else None
    param.display_type_rich = lambda ctx: shown
    return param
