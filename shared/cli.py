"""Glue that the three programs share: errors as one line with exit code 2, one suggestion for a mistyped flag."""

from __future__ import annotations

import difflib
import errno
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shared.console import ERROR, hush, say, unbroken_streams
from shared.errors import UserError

INTERRUPTED = 130
HELP = {"help_option_names": ["-h", "--help"]}
"""of every program and command"""


def run_app(app: typer.Typer) -> None:
    """Runs a command; a UserError becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    with unbroken_streams():
        try:
            try:
                app()
            finally:
                sys.stdout.flush()  # a result that cannot be written is no success
        except UserError as error:
            say(ERROR + " ".join(str(error).split()))
            sys.exit(2)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG):
                raise
            say(f"{ERROR}{error.filename or 'output'}: {error.strerror}; finished parts are kept, mend this and run again")
            sys.exit(2)
        except SystemExit as stop:
            if stop.code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
                say("interrupted; nothing half-written is left, what is finished is kept, and the same command goes on from there")
            raise


class Commands(TyperGroup):
    """A mistyped flag gets one suggestion, the nearest."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            suggestions = getattr(error, "possibilities", None)
            if suggestions and getattr(error, "option_name", None):
                error.possibilities = difflib.get_close_matches(error.option_name, suggestions, n=1, cutoff=0)  # type: ignore[attr-defined]
            raise


def new_app(help_text: str) -> typer.Typer:
    """A program without commands yet; it has -h, --version, and what shells complete with (--install-completion)."""
    app = typer.Typer(
        cls=Commands, help=help_text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
        context_settings=HELP,
    )  # fmt: skip

    @app.callback(help=help_text)
    def program(
        version: Annotated[
            bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_say_version)
        ] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell errors and results, not how it is getting on.")] = False,
    ) -> None:
        del version
        if quiet:
            hush()

    return app


def _say_version(asked: bool) -> None:
    if asked:
        from shared import __version__

        print(f"token-unlearn {__version__}")
        raise typer.Exit
