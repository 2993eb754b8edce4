"""Signatures of finished folders: ed25519 over the name and sha256 of every file, in signature.json beside them (extra
`[sign]`).

A signature says that who holds the private key has had these very bytes; whose key it is, and whether what was signed
is true, it does not say. What is signed is the line PREFIX and the sha256 (hex) of the canonical JSON (keys sorted, no
spaces) of {"files": {name: sha256}, "format": 1}.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError, StoreError
from shared.files.fs import hash_file, hash_json, read_object, write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FORMAT, SIGNATURE = 1, "signature.json"
PREFIX = b"token-unlearn signature 1\n"
LARGEST_KEY = 10_000
"""bytes; a key in PEM has some hundred"""
MOST_FILES = 100_000


def _require_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError('signatures need a package that is not installed: pip install "token-unlearn[sign]"')


def private_key(path: Path, flag: str = "--key") -> Ed25519PrivateKey:
    """Of a PEM file without password. Raises ConfigError for anything else."""
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_pem(path, flag), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        raise ConfigError(f"{flag} {path}: is no private key in PEM without a password; make one with tu-eval key {path}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{flag} {path}: is a key of another kind than ed25519; make one with tu-eval key OUT")
    return key


def public_key(path: Path, flag: str = "--key") -> Ed25519PublicKey:
    """Of a PEM file with a public key. Raises ConfigError for anything else."""
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_pem(path, flag))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{flag} {path}: is no public key in PEM; tu-eval key KEY.pem writes one beside the private key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{flag} {path}: is a key of another kind than ed25519")
    return key


def _pem(path: Path, flag: str) -> bytes:
    if not path.is_file():
        raise ConfigError(f"{flag} {path}: no such file; expected a key in PEM (tu-eval key OUT makes a pair)")
    if path.stat().st_size > LARGEST_KEY:
        raise ConfigError(f"{flag} {path}: is too large for a key in PEM")
    return path.read_bytes()


def make_key(path: Path) -> Path:
    """Writes a new private key, for its owner alone to read, and the public key beside it; -> the latter's place.
    Neither may exist."""
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    beside = path.with_name(f"{path.stem}.public.pem")
    for place in (path, beside):
        if os.path.lexists(place):
            raise ConfigError(f"{place}: already exists; a key is never overwritten, choose another name")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    for place, data, mode in ((path, private, 0o600), (beside, public, 0o644)):
        try:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        except OSError as error:
            raise ConfigError(f"{place}: cannot be written: {error.strerror}") from None
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
    return beside


def sign(folder: Path, key: Ed25519PrivateKey) -> str:
    """Writes signature.json, in place of an older one; -> the public key, hex."""
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; expected a finished one, as tu-eval run writes")
    files = _files(folder)
    if not files:
        raise StoreError(f"{folder}: is empty; there is nothing to sign")
    public = key.public_key().public_bytes_raw().hex()
    about = {"format": FORMAT, "files": files, "public_key": public, "signature": key.sign(_message(files)).hex()}
    write_json(folder / SIGNATURE, about)
    return public


def check_signature(folder: Path, key: Ed25519PublicKey | None = None) -> str | None:
    """-> the public key (hex) that signed the folder as it is, None where there is no signature. Raises StoreError for
    a file that was changed, added or taken away since, for a signature that does not hold, and for one by another key
    than `key`."""
    path = folder / SIGNATURE
    if not os.path.lexists(path):
        if key is not None:
            raise StoreError(f"{folder}: is not signed: it holds no {SIGNATURE}")
        return None
    _require_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    about = read_object(path, hint="the signature is damaged, sign again")
    named, files, signed = str(about.get("public_key")), about.get("files"), str(about.get("signature"))
    try:
        if about.get("format") != FORMAT or not isinstance(files, dict) or len(files) > MOST_FILES:
            raise ValueError("not as `sign` writes it")
        signer, signed = Ed25519PublicKey.from_public_bytes(bytes.fromhex(named)), bytes.fromhex(signed)
    except ValueError:
        raise StoreError(f"{path}: is no signature of format {FORMAT}; sign again") from None
    if key is not None and key.public_bytes_raw() != signer.public_bytes_raw():
        raise StoreError(f"{folder}: was signed by another key ({named[:16]}…) than the one given")
    try:
        signer.verify(signed, _message(files))
    except InvalidSignature:
        raise StoreError(f"{path}: the signature does not hold: the list of files was changed after it was signed") from None
    now = _files(folder)
    for name in sorted({*now, *files}):
        if now.get(name) != files.get(name):
            what = "was changed" if name in now and name in files else "was added" if name in now else "was taken away"
            raise StoreError(f"{folder / name}: {what} after the folder was signed")
    return named


def _message(files: dict[str, Any]) -> bytes:
    return PREFIX + hash_json({"files": files, "format": FORMAT}).encode()


def _files(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file in the folder and its folders, but for the signature itself. Raises StoreError for
    links and for what is no file: their content is not the folder's."""
    out: dict[str, str] = {}
    for place in sorted(folder.rglob("*")):
        name = place.relative_to(folder).as_posix()
        if place.is_symlink() or not (place.is_dir() or place.is_file()):
            raise StoreError(f"{place}: is a link or no file; put the file itself there, then sign or verify again")
        if place.is_file() and name != SIGNATURE:
            out[name] = hash_file(place)
    return out
