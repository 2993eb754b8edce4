"""`tu-eval compare` with folders of `tu-eval choices`: accuracies stand beside the metrics of the same weights."""

import json

import numpy as np
import pytest

from tu_eval.choices.config import ChoicesConfig
from tu_eval.choices.run import CHOICES_FOLDER, evaluate_choices
from tu_eval.compare.comparison import load_comparison
from tu_eval.results.folder import read_folder

ROWS = [{"question": f"Столица {k}?", "choices": ["Псков", "Москва", "Тула"], "answer": k % 3} for k in range(9)]


@pytest.fixture
def choices(tmp_path):
    def make(model, rows=ROWS, name="choices"):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        out = tmp_path / name
        evaluate_choices(ChoicesConfig(model=str(model), data=str(data), out=str(out), device="cpu"))
        return out

    return make


def test_accuracies_stand_beside_the_metrics_of_the_same_weights(run_cli, choices, target_results, retain_results, tiny_model, tmp_path):
    folder = choices(tiny_model)
    comparison = load_comparison([target_results, folder, retain_results])
    assert [r.label for r in comparison.results] == ["target", "retain"]
    rows = read_folder(folder, CHOICES_FOLDER).rows()
    for metric, column in (("choices_accuracy", "picked"), ("choices_accuracy_norm", "picked_norm")):
        right = [row[column] == row["answer"] for row in rows]
        assert comparison.value(0, metric) == pytest.approx(np.mean(right)) and comparison.value(1, metric) is None
        low, high = comparison.spans[0][metric]
        assert 0 <= low <= np.mean(right) <= high <= 1
    code, _, err = run_cli("tu-eval", "compare", target_results, retain_results, folder, "--out", tmp_path / "page.html")
    assert code == 0, err
    assert "length taken out" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_choices_of_other_weights_or_questions_are_one_line(
    run_cli, choices, target_results, retain_results, tiny_model, tiny_base, make_tiny, tmp_path
):
    def said(*folders):
        code, _, err = run_cli("tu-eval", "compare", *folders, "--out", tmp_path / "page.html")
        assert code == 2 and len(err.splitlines()) == 1, err
        return err

    one = choices(make_tiny("Llama", seed=0))
    assert "none of the results given is of its weights" in said(target_results, choices(make_tiny("Llama", seed=2), name="other"))
    assert "other questions" in said(target_results, retain_results, one, choices(make_tiny("Llama", seed=1), ROWS[:4], "fewer"))
    assert "choices alone" in said(one)
