"""What a release consists of, made into dist/: wheel, sdist, and a list of all they need (SBOM, CycloneDX 1.6).

    python .ci/release.py            makes and checks them; uploads nothing
    python .ci/release.py --notices  writes THIRD_PARTY.md: the licence of each package that is installed with ours

The version stands in shared/__init__.py alone. CHANGELOG.md must have a heading for it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shared import __version__  # noqa: E402

NAME = "token-unlearn"
NOTICES = """# Packages of others

What `pip install token-unlearn` installs beside it, without extras, on Linux with Python 3.11: none of it is part of
this repository. Licences are as each package states them (`python .ci/release.py --notices`).

| Package | Licence |
|---|---|
"""


def needed() -> list[importlib.metadata.Distribution]:
    """All distributions that ours needs without extras, as installed here, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(NAME, frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        one = importlib.metadata.distribution(name)
        for line in one.requires or ():
            wanted = Requirement(line)
            if wanted.marker is not None and not any(wanted.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                continue
            key = normal(wanted.name)
            if key not in found:
                found[key] = importlib.metadata.distribution(wanted.name)
                waiting.append((wanted.name, frozenset(wanted.extras)))
    return [found[name] for name in sorted(found)]


def normal(name: str) -> str:
    """The name under which the index knows a package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(one: importlib.metadata.Distribution) -> str:
    """One line: the expression, else the classifiers, else the first line of the field."""
    about = one.metadata
    if about.get("License-Expression"):
        return about["License-Expression"]
    classes = [line.rsplit(" :: ", 1)[-1] for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    return ", ".join(classes) or (about.get("License") or "not stated").splitlines()[0]


def bill() -> dict[str, object]:
    """CycloneDX: a component for each package with its version and licence."""
    parts = [
        {"type": "library", "name": normal(one.name), "version": one.version, "purl": f"pkg:pypi/{normal(one.name)}@{one.version}",
         "licenses": [{"license": {"name": licence(one)}}]}
        for one in needed()
    ]  # fmt: skip
    own = {"type": "library", "name": NAME, "version": __version__, "purl": f"pkg:pypi/{NAME}@{__version__}"}
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([own, parts], sort_keys=True))  # the same packages, the same number
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1,
            "metadata": {"component": own}, "components": parts}  # fmt: skip


def notices() -> str:
    return NOTICES + "".join(f"| {normal(one.name)} | {licence(one).replace('|', '/')} |\n" for one in needed())


def build(out: Path) -> None:
    """Raises SystemExit where the change log lacks the version, or a check of the index fails."""
    if f"## [{__version__}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise SystemExit(f"CHANGELOG.md: has no heading `## [{__version__}]`, the version of shared/__init__.py; write what is new in it")
    others = [path.name for path in out.glob("*") if not path.name.endswith((".whl", ".tar.gz", "sbom.json"))]
    if others:
        raise SystemExit(f"--out {out}: holds {others[0]}, which is no part of a release; name another folder")
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)], check=True)  # noqa: S603 (own words)
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(out.iterdir()))], check=True)  # noqa: S603
    (out / "sbom.json").write_text(json.dumps(bill(), indent=1) + "\n", encoding="utf-8")
    print(f"made: {', '.join(sorted(path.name for path in out.iterdir()))} in {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--notices", action="store_true", help="write THIRD_PARTY.md and make nothing else")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    asked = parser.parse_args()
    if asked.notices:
        (ROOT / "THIRD_PARTY.md").write_text(notices(), encoding="utf-8")
    else:
        build(asked.out)


if __name__ == "__main__":
    main()
