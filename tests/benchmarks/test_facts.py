"""Facts of a TOFU row: what the right paraphrase shares with the answer, and the wrong ones do not."""

from benchmarks.study.facts import fact_spans
from shared.data.datasets import Row, load_rows

WRONG = ["The mother of Lena Voss sold pianos in Graz.", "The mother of Lena Voss mended clocks in Oslo.",
         "The mother of Lena Voss kept bees.", "The mother of Lena Voss taught chess in Rome.",
         "The mother of Lena Voss drew maps in Oslo."]  # fmt: skip


def facts(answer: str, right: str, wrong: list[str], question: str = "What did the mother of Lena Voss do?") -> list[str]:
    row = Row("r", question, answer, {"paraphrased_answer": right, "perturbed_answer": wrong})
    return [answer[a:b] for a, b in fact_spans(row)]


def test_words_of_the_right_answer_that_the_wrong_ones_lack():
    right = "The mother of Lena Voss repaired clocks in Oslo."
    assert facts("She repaired clocks, in Oslo, for years.", right, WRONG) == ["repaired", "clocks"]  # Oslo: in two wrong ones
    assert facts("She REPAIRED Oslo’s clocks.", right, WRONG) == ["REPAIRED", "clocks"]
    assert facts("She mended watches.", right, WRONG) == []


def test_what_the_question_says_is_no_fact():
    right = "The mother of Lena Voss repaired clocks."
    assert facts("She repaired clocks.", right, WRONG, "Did she repair or sell clocks?") == ["repaired"]


def test_spans_are_characters_of_the_answer():
    row = Row(
        "r", "Who?", "It is Ana-Maria Ruiz.", {"paraphrased_answer": "Ana-Maria Ruiz it is.", "perturbed_answer": ["Bo Li it is."] * 5}
    )
    assert fact_spans(row) == [[6, 15], [16, 20]]


def test_most_rows_of_tofu_have_a_fact_and_it_is_a_small_part_of_the_answer(tofu_dir):
    rows = load_rows("tofu:forget10_perturbed")[360:]
    marked = [sum(end - start for start, end in fact_spans(row)) / len(row.answer) for row in rows]
    assert len(rows) == 40 and sum(share > 0 for share in marked) >= 30
    assert 0.05 < sum(marked) / 40 < 0.4
