"""Word match: whether the answer has the words, in any script; and the answers' fluency on the screen of a run."""

import json
import math
import re
import unicodedata

import pytest

from shared.data.datasets import Row
from tests.tu_eval.conftest import SUITE
from tests.tu_eval.measure.test_own_files import SPANISH, lines, run
from tu_eval.attacks import sample
from tu_eval.measure.rows import add_word_match
from tu_eval.metrics.fluency import fluency
from tu_eval.results.results import load_results
from tu_eval.suites.sets import EvalSet
from tu_eval.suites.variants import Variants

CASES = [
    ("She was born in Lisbon.", [[16, 22]], "In LISBON, I think.", 1),
    ("She was born in Lisbon.", [[16, 22]], "In Lisbonne.", 0),
    ("She was born in Lisbon.", [[16, 19]], "In Lisbon.", 1),
    ("She was born in Lisbon.", [[16, 19]], "In Lis bon.", 0),  # a word that is marked in part counts as a whole
    ("Ella nació en Ávila en 1947.", [[14, 19], [23, 27]], "1947, ávila".replace("á", "a\u0301"), 1),
    ("Ella nació en Ávila en 1947.", [[14, 19], [23, 27]], "En Ávila, en 1948.", 0),
    ("他出生在北京市。", [[4, 6]], "他是北京人", 1),
    ("他出生在北京市。", [[4, 6]], "他是京北人", 0),
    ("وُلدت في القاهرة", [[9, 16]], "ربما القاهرة!", 1),
    ("Jane Austen", None, "It was Jane Austen who wrote it.", 1),
    ("Jane Austen", None, "It was Austen, Jane.", 0),
    ("Jane Austen", [], "Jane Austen", 1),  # facts are asked for, and this row marks none
]


def matched(answer, spans, text):
    row = Row("r", "Q?", answer, {} if spans is None else {"fact_spans": spans})
    part = EvalSet(name="forget", data="x", facts=spans is not None)
    kept = [{"generation": text, "word_match": None}]
    add_word_match(part, [Variants(type("E", (), {"row": row})(), None, [], [])], kept)  # type: ignore[arg-type]
    return kept[0]["word_match"]


@pytest.mark.parametrize(("answer", "spans", "text", "expected"), CASES)
def test_an_answer_has_the_words_or_not(answer, spans, text, expected):
    assert matched(answer, spans, text) == expected
    assert matched(answer, spans, unicodedata.normalize("NFD", text.upper())) == expected
    if spans:
        row = Row("r", "Q?", answer, {"fact_spans": spans})
        assert sample.holds(row, [text], 0.8, True) == [bool(expected)], "a drawn answer is a hit by the same rule"


def test_the_screen_of_a_run_says_whether_answers_read_as_language(run_cli, tiny_model, tiny_base, tmp_path):
    file = lines(tmp_path / "es.jsonl", SPANISH)
    code, out, err = run(run_cli, tiny_model, file, file, tmp_path / "out", "--fluency-model", tiny_base)
    assert code == 0, err
    found = load_results(tmp_path / "out")
    counted = fluency([row["generation"] for row in found.rows("forget")])
    line = next(line for line in out.splitlines() if re.match(r" ?Forget set +3 ", line))
    cells = ["Forget set", *line.split()[2:]]
    values = (counted.repetition, counted.distinct_1, counted.distinct_2, counted.empty, counted.refusing, counted.babbling)
    assert cells[2:8] == [f"{value:.3f}" for value in values]
    nats = [row["answer_nll"] for row in found.rows("forget") if row["answer_nll"] is not None]
    assert float(cells[8]) == pytest.approx(math.exp(sum(nats) / len(nats)), abs=1e-3)
    assert "Word match" in out and found.summary["metrics"]["forget_word_match"] == 0


def test_without_answers_there_is_no_word_match_and_no_table(run_cli, tiny_model, tmp_path):
    words = ("--suite", SUITE, "--limit", 2, "--device", "cpu", "--set", "generate=false")
    code, out, err = run_cli("tu-eval", "run", "--model", tiny_model, *words, "--out", tmp_path / "out")
    assert code == 0 and "Repetition" not in out and "read as language" not in out, err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"]["forget_word_match"] is None and "generate=false" in summary["reasons"]["forget_word_match"]
    assert run_cli("tu-eval", "verify", tmp_path / "out")[0] == 0
