"""What is told of a machine for a bug report, and what never is."""

import importlib.metadata

import pytest

import shared
from tu_score import doctor


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
    assert said["[ray]"] == 'not installed (pip install "token-unlearn[ray]")'


@pytest.mark.parametrize("program", ["tu-score", "tu-train", "tu-eval"])
def test_version_and_the_short_flag_for_help(run_cli, program):
    assert run_cli(program, "--version") == (0, f"token-unlearn {shared.__version__}\n", "")
    for words in ((), ("run",)):
        assert run_cli(program, *words, "-h") == run_cli(program, *words, "--help")
        assert run_cli(program, *words, "-h")[1].startswith("Usage:")
