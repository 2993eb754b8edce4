"""Numbers are kept by a row's id, so two sets may not share one."""

import json

from tests.tu_eval.test_commands import refused


def test_two_files_of_one_name_are_refused(run_cli, tiny_model, tmp_path):
    for name, rows in (("a", 2), ("b", 3)):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"question": f"¿Dónde vive {name}{k}?", "answer": f"{name}{k} vive en Ávila."}) for k in range(rows)]
        (tmp_path / name / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = ("run", "--model", tiny_model, "--forget", tmp_path / "a/rows.jsonl", "--retain", tmp_path / "b/rows.jsonl")
    said = refused(run_cli("tu-eval", *words, "--device", "cpu", "--out", tmp_path / "out"))
    assert "sets forget and retain: both have a row" in said and "rename one of the files" in said
    assert not (tmp_path / "out").exists()
