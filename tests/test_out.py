"""Commands whose output folder appears whole refuse a place that it cannot take, in one line and before any work."""

import pytest

FROM = {
    "tu-train run": ("--model", "absent", "--scores", "absent", "--retain", "none"),
    "tu-train finetune": ("--model", "absent", "--data", "atlas:forget"),
    "tu-train finetune, resume": ("--model", "absent", "--data", "atlas:forget", "--resume"),
    "tu-train diagnose": ("--model", "absent", "--scores", "absent"),
    "tu-eval run": ("--model", "absent", "--suite", "atlas"),
    "tu-eval run, muse": ("--model", "absent", "--suite", "muse:news"),
    "tu-eval attack": ("--model", "absent", "--suite", "atlas"),
    "tu-eval choices": ("--model", "absent", "--data", "absent.jsonl"),
    "tu-eval benchmarks": ("--model", "absent", "--tasks", "wmdp"),
    "tu-eval judge": ("--model", "absent", "--data", "absent.jsonl"),
    "tu-eval evidence": ("--before", "absent", "--after", "absent"),
}


@pytest.mark.parametrize("out", [".", "", "..", "/", "new/.."])
@pytest.mark.parametrize("name", FROM)
def test_the_working_folder_is_no_output_folder(name, out, run_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("TU_JUDGE_URL", "http://127.0.0.1:9/v1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    more = ("--judge-model", "stub") if name.endswith("judge") else ()
    code, _, err = run_cli(*name.partition(",")[0].split(), *FROM[name], *more, "--out", out)
    assert code == 2 and err.count("\n") == 1, err
    assert "is the folder this command runs in, or one above it; --out wants a new folder for " in err
    assert [p.name for p in tmp_path.rglob("*")] == ["here"], "nothing was written"


def test_a_finished_run_is_told_from_inside_its_folder(run_cli, tiny_model, tmp_path, monkeypatch):
    arguments = ("finetune", "--model", tiny_model, "--data", "atlas:forget", "--limit", 2, "--epochs", 1, "--out")
    code, _, err = run_cli("tu-train", *arguments, tmp_path / "out")
    assert code == 0, err
    monkeypatch.chdir(tmp_path / "out")
    code, _, err = run_cli("tu-train", *arguments, ".", "--resume")
    assert code == 0 and "the run is finished, there is nothing to resume" in err, err
