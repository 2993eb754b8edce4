"""What is told of a machine for a bug report, and what never is."""

import importlib.metadata
from pathlib import Path

import pytest

import shared
from tu_score import doctor

ROOT = Path(__file__).parents[2]


def test_it_tells_versions_memory_and_devices_and_no_secret(run_cli, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_geheim")
    monkeypatch.setenv("TU_TOFU_DIR", "/données/tofu")
    code, out, _ = run_cli("tu-score", "doctor")
    said = dict(line.split(": ", 1) for line in out.splitlines())
    assert code == 0 and said["token-unlearn"].startswith(shared.__version__)
    for name in doctor.PACKAGES:
        assert said[name] == importlib.metadata.version(name)
    assert "threads" in said["processor"] and "GiB free" in said["memory"]
    assert said["TU_TOFU_DIR"] == "/données/tofu"
    assert "geheim" not in out


def test_what_is_missing_is_said_with_what_would_install_it(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    said = dict(doctor.report())
    assert said["torch"] == "missing; install token-unlearn again"
    assert said["[ray]"] == f'not installed (pip install -c constraints.txt -e ".[ray]", in {ROOT})'
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for extra in ("vllm", "lora"):
        assert said[f"[{extra}]"].removeprefix("not installed (").partition(", in")[0] in readme


def test_a_wheel_alone_is_told_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(shared, "__file__", str(tmp_path / "shared" / "__init__.py"))
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert dict(doctor.report())["[ray]"] == 'not installed (pip install "token-unlearn[ray]")'


@pytest.mark.parametrize("program", ["tu-score", "tu-train", "tu-eval"])
def test_version_and_the_short_flag_for_help(run_cli, program):
    assert run_cli(program, "--version") == (0, f"token-unlearn {shared.__version__}\n", "")
    for words in ((), ("run",)):
        assert run_cli(program, *words, "-h") == run_cli(program, *words, "--help")
        assert run_cli(program, *words, "-h")[1].startswith("Usage:")
