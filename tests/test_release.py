"""What goes with a release: the list of all packages that ours needs, their licences, and what stops one."""

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import shared

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release():
    about = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert about is not None and about.loader is not None
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


def test_the_bill_holds_what_pyproject_asks_for_and_what_that_needs(release):
    asked = {Requirement(line).name for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]}
    bill = release.bill()
    found = {part["name"].lower(): part for part in bill["components"]}
    assert asked <= set(found) and "jinja2" in found and "tokenizers" in found and "pytest" not in found and "vllm" not in found
    for name, part in found.items():
        assert part["version"] == importlib.metadata.version(name) and part["licenses"][0]["license"]["name"]
    assert bill["metadata"]["component"]["version"] == shared.__version__ and release.bill() == bill


def test_notices_name_each_package_with_its_licence(release):
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    asked = {Requirement(line).name for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]}
    assert all(f"| {name} |".lower() in text.lower() for name in asked)
    assert text.splitlines()[:8] == release.notices().splitlines()[:8]


def test_a_version_without_its_heading_is_not_released(release, monkeypatch, tmp_path):
    monkeypatch.setattr(release, "__version__", "9.9.9")
    with pytest.raises(SystemExit, match=r"CHANGELOG.md: has no heading"):
        release.build(tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_the_citation_is_of_this_version():
    assert f"version: {shared.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
