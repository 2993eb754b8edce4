"""Entities in scripts without capitals, and beside them; tests/tu_score/test_spans.py has English and the rest."""

import pytest

from shared.data.datasets import Row
from shared.data.examples import place, text_examples
from tu_score.config import ScoreConfig
from tu_score.entities import entity_spans
from tu_score.replace import Replacement
from tu_score.spans import plan_masking, read_after


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("王成1987年3月12日生于成都，写了《红楼梦》和42本书。", ["1987年3月12日", "红楼梦", "42"]),
        ("他去了Paris和New York，住在第7街。", ["Paris", "New York", "7"]),
        ("アダは1987年に「銀の鐘」を書いた。", ["1987年", "銀の鐘"]),
        ("서울에 2020년 갔다", ["2020"]),
        ("สมชายเกิดปี 2530 ที่กรุงเทพ", ["2530"]),
        ("काम 42 दिन", ["42"]),
        ("Он родился 12 мая 1987 в Пскове.", ["Он", "12", "1987", "Пскове"]),
        ("a3x 3x x3 Ada2", ["Ada2"]),
    ],
)
def test_numbers_dates_and_quoted_names_are_found_without_capitals(text, expected):
    assert [text[start:end] for start, end in entity_spans(text)] == expected


@pytest.mark.parametrize(
    "text", ["王成1987年3月12日生于成都，写了《红楼梦》。" * 4, "Orla Venn left Port Sable in 1987. She met Ada Lune there. " * 3]
)
@pytest.mark.parametrize("spans", ["entity", "window"])
def test_spans_of_pieces_with_an_overlap_are_read_at_targets_behind_them(any_tokenizer, text, spans):
    row = Row("raw", None, text)
    config = ScoreConfig(model="m", data="d.jsonl", out="o", text_key="text", spans=spans, max_spans=0, horizon=8, window_length=3)
    examples = list(text_examples(row, any_tokenizer, 24, 8))
    masking = plan_masking(config, any_tokenizer, examples, None)
    wanted = {tuple(span) for span in entity_spans(text)}
    placed, context = place(row, any_tokenizer), 0
    for example in examples:
        own = example.targets[0]
        for span in masking.spans[example.id]:
            assert example.lead <= span[0] < span[1] <= len(example.input_ids), "what every text begins with is not masked"
            at = read_after(example, span, 8, masking.replacement)
            assert at and all(example.is_target[i] and span[1] <= i < span[1] + 8 for i in at)
            context += span[1] <= own
            if spans == "entity":
                first, last = (example.row_start - example.lead + i for i in (span[0], span[1] - 1))
                start, end = placed.offsets[first][0], placed.offsets[last][1]
                assert any(a < end and b > start for a, b in wanted)
    assert context, "spans in the overlap are context of the piece behind"
    assert isinstance(masking.replacement, Replacement)
