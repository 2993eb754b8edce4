"""The commands around signatures: make a key, sign a finished folder, verify one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A finished folder.")]
PrivateKey = Annotated[Path, typer.Option("--key", help="Private key (PEM, ed25519).")]
PublicKey = Annotated[
    Path | None, typer.Option("--key", help="Public key (PEM, ed25519) that must have signed the folder.", show_default=False)
]
KeyFile = Annotated[Path, typer.Argument(metavar="OUT", help="File for the private key; the public one goes beside it.")]


def key(out: KeyFile) -> None:
    """Make a pair of keys for signatures."""
    from tu_eval.evidence.sign import make_key

    public = make_key(out)
    typer.echo(f"private key: {out} (readable by its owner alone; keep it secret)")
    typer.echo(f"public key: {public} (give it to those who verify)")


def sign(folder: Folder, key: PrivateKey) -> None:
    """Sign every file of a finished folder (results, report, model): signature.json."""
    from tu_eval.evidence.sign import SIGNATURE, private_key
    from tu_eval.evidence.sign import sign as sign_folder

    public = sign_folder(folder, private_key(key))
    typer.echo(f"signature: {folder / SIGNATURE}")
    typer.echo(f"by: {public}")


def verify(folder: Folder, key: PublicKey = None) -> None:
    """Check a folder of tu-eval: hashes, numbers computed again from its rows, signature."""
    from shared.errors import printable
    from tu_eval.evidence.sign import public_key
    from tu_eval.evidence.verify import verify as check

    for line in check(folder, public_key(key) if key is not None else None):
        typer.echo(printable(line))


def add_commands(app: typer.Typer) -> None:
    app.command()(key)
    app.command()(sign)
    app.command()(verify)
