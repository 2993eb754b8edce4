"""Leak checks of compared models side by side: counts are those of the folders, other secrets do not compare."""

import pytest

from tests.tu_eval.evidence.test_evidence import with_leaks
from tests.tu_eval.made import make_results
from tests.tu_eval.test_commands import refused
from tu_eval.compare.comparison import load_comparison

GIVEN = ([[0], [0], []], [[], [0], []])


@pytest.fixture
def pair(tmp_path):
    folders = [make_results(tmp_path / name, name, seed=k + 1, known=0.9 - 0.5 * k) for k, name in enumerate(("before", "after"))]
    return [with_leaks(folder, found) for folder, found in zip(folders, GIVEN, strict=True)]


def test_counts_are_those_of_each_model(run_cli, pair, tmp_path):
    bare = make_results(tmp_path / "bare", "bare", seed=9)
    page, table = tmp_path / "page.html", tmp_path / "table.md"
    code, out, err = run_cli("tu-eval", "compare", *pair, bare, "--out", page, "--markdown", table)
    assert code == 0, err
    heads, rows = load_comparison([*pair, bare]).leaks or ([], [])
    assert heads == ["Secret", "before: greedy, of 3", "after: greedy, of 3"], "a model without a leak check has no column"
    assert rows == [["given away", "1 of 1", "1 of 1"], ["line 1", "2", "1"]]
    assert "secrets in answers of before: greedy, of 3: 1 of 1" in out
    html = page.read_text(encoding="utf-8")
    assert "Secrets given away" in html and "before: greedy, of 3" in html
    assert "| line 1 | 2 | 1 |" in table.read_text(encoding="utf-8")
    assert load_comparison([bare]).leaks is None


def test_other_secrets_and_other_ways_to_ask_are_said(pair):
    before, after = pair
    settings = {"samples": 4, "temperature": 1.0, "max_new_tokens": 40, "seed": 0}
    with_leaks(after, GIVEN[1], settings=settings)
    made = load_comparison([before, after])
    assert any("after was searched in were written otherwise than those of before" in note for note in made.notes)
    assert made.leaks is not None and made.leaks[1][1] == ["line 1", "2", "1"]
    with_leaks(after, GIVEN[1], secrets_sha256="b" * 64)
    made = load_comparison([before, after])
    assert any("after was searched for other secrets than before" in note for note in made.notes)
    assert made.leaks is not None and made.leaks[1] == [["given away", "1 of 1", "—"], ["line 1", "2", "—"]]


def test_counts_that_the_answers_do_not_give_are_refused(run_cli, pair, tmp_path):
    before, after = pair
    with_leaks(before, GIVEN[0], answers={"model": {"greedy": 2}})
    assert "its leaks are not what leaks.parquet gives" in refused(
        run_cli("tu-eval", "compare", before, after, "--out", tmp_path / "p.html")
    )
    assert not (tmp_path / "p.html").exists()
