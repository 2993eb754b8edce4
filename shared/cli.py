"""Glue that the three programs share: errors as one line with exit code 2, one suggestion for a mistyped flag."""

from __future__ import annotations

import difflib
import errno
import itertools
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.console import ERROR, hush, say, unbroken_streams
from shared.errors import UserError, nearest

INTERRUPTED = 130
HELP = {"help_option_names": ["-h", "--help"]}
"""of every program and command"""


def run_app(app: typer.Typer) -> None:
    """Runs a command; a UserError becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    program = Path(sys.argv[0]).name
    with unbroken_streams():
        try:
            try:
                code = app(standalone_mode=False, prog_name=None if program == "__main__.py" else program)
            finally:
                sys.stdout.flush()  # a result that cannot be written is no success
            if code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
                say("interrupted; nothing half-written is left, what is finished is kept, and the same command goes on from there")
            sys.exit(code or 0)
        except UserError as error:
            say(ERROR + " ".join(str(error).split()))
            sys.exit(2)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG):
                raise
            say(f"{ERROR}{error.filename or 'output'}: {error.strerror}; finished parts are kept, mend this and run again")
            sys.exit(2)
        except Exception as error:
            if not hasattr(error, "format_message"):  # typer's own, of a command line that cannot be read
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
            else:
                say(ERROR + " ".join(wrong_usage(error).split()))
            sys.exit(2)


def wrong_usage(error: Any) -> str:
    """What typer says of a command line that cannot be read, on one line, with the nearest flag or command."""
    ctx, flag = getattr(error, "ctx", None), getattr(error, "option_name", None)
    where = ctx.command_path if ctx is not None else Path(sys.argv[0]).name
    if flag and hasattr(error, "possibilities"):
        near = difflib.get_close_matches(flag, _flags(ctx), n=1, cutoff=0)
        return f"{flag}: {where} has no such flag{f' (nearest: {near[0]})' if near else ''}; {where} -h lists them"
    text = error.format_message().strip()
    if flag:
        return f"{flag}: {'needs a value behind it' if 'requires' in text else 'is a switch, which takes no value'}"
    if found := re.match(r"No such command '([^']*)'", text):
        known = ctx.command.commands if ctx is not None else ()
        return f"{found[1]}: {where} has no such command{nearest(found[1], known)}; {where} -h lists them"
    if found := re.match(r"Invalid value for '([^']*)'.*valid (integer|number)", text):
        return f"{found[1]}: {_got(found[1])}expected a {'whole ' if found[2] == 'integer' else ''}number"
    return f"{where}: {text[:1].lower()}{text[1:].rstrip('.')}; {where} -h says what it takes"


def _got(flag: str) -> str:
    """What the command line gives a flag, which typer's sentence does not say."""
    words = sys.argv
    found = [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    found += [value for name, value in itertools.pairwise(words) if name == flag]
    return f"got {found[0]}, " if found else ""


def _flags(ctx: Any) -> list[str]:
    return [name for param in ctx.command.get_params(ctx) for name in param.opts if name.startswith("--")] if ctx is not None else []


def new_app(help_text: str) -> typer.Typer:
    """A program without commands yet; it has -h, --version, and what shells complete with (--install-completion)."""
    app = typer.Typer(
        help=help_text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
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
