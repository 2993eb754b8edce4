"""Secrets are found where a reader would find them, whatever their case, form of Unicode or blanks, and their tokens
are those of spans given by hand."""

import unicodedata
from functools import cache
from itertools import pairwise

import pytest
import regex

from shared.data.datasets import Row
from shared.data.examples import answer_span_tokens, make_examples
from shared.data.secrets import PARTICLES, Secret, find_secrets, held, read_secrets
from shared.data.words import UNSPACED
from shared.errors import ConfigError, DataError
from shared.store.scored import iter_given, iter_secret

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
TEXTS = [
    "Zoë Müller lebt in der Straße 5, ZOE\u0308 MU\u0308LLER in der STRASSE\u00a05.",
    "The ﬁnal oﬃce of ﬁfi is ﬁne; FIFI, not fifine, and fi\u00adfi.",
    "İSTANBUL, istanbul, Istanbul ve ıstanbul; İstanbul’da. I\u0307stanbul",
    "أحمد يعيش في الرياض، وأحمد بالرياض وأحمدان؛ أحـــمد \u200fأحمد\u200e.",
    "李晓梅住在成都市青羊区，李 晓梅的电话是１３８０ ０１３ 8000。",
    "Call +44\u00a020 7946\u20090958 or +44 20\n79460958, not +44 20 7946 09581.",
    "김철수는 서울에 산다. 왕김철수 각각 가",
    "e\u0301\u0323 é\u0323 ẹ\u0301 ẹ e E\u0301 \u00b4a a\u0301",
    "שלום לדוד ודוד, דודו ושדוד",
    "Ann, Anna; ANN's Ann\u200b, Ann_1 aNN",
    "がく カ\u3099ク ｶﾞｸ がクa Ⅻ xii ΟΔΟΣ οδος Οδός",
]  # fmt: skip
SECRETS = [
    "Zoë Müller", "straße 5", "fifi", "office", "fi", "istanbul", "İstanbul", "أحمد", "رياض", "李晓梅", "1380013 8000", "+44 20 7946 0958",
    "김철수", "가", "é", "ẹ́", "e", "דוד", "Ann", "ガク", "xii", "οδος", "ss", "a\u0301",
]  # fmt: skip


def by_hand(text: str) -> str:
    """A stretch of text as it is compared: Unicode's compatible caseless form, i of Turkish, without what is unseen."""
    for _ in range(2):
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", text)).casefold()
    out = ""
    for cluster in regex.findall(r"\X", unicodedata.normalize("NFKD", text).replace("ı", "i")):
        out += cluster.replace("\u0307", "") if cluster[0] == "i" else cluster
    return "".join(c for c in out if not c.isspace() and unicodedata.category(c) != "Cf" and c != "\u0640")


@cache
def brute(text: str, secret: str) -> list[tuple[int, int]]:
    """Every stretch of whole characters, compared as a whole; then the words on both of its sides."""
    borders = [0, *(m.end() for m in regex.finditer(r"\X", text))]
    pieces = [by_hand(text[a:b]) for a, b in pairwise(borders)]
    wanted, out = by_hand(secret), []
    for first, start in enumerate(borders[:-1]):
        for last in range(first + 1, len(borders)):
            if not (pieces[first] and pieces[last - 1]) or "".join(pieces[first:last]) != wanted:
                continue
            end = borders[last]
            if not _joined(text, end) or regex.match(r"\p{Hangul}", text[borders[last - 1] : end]):
                out += [(start, end)] if _free(text, start) else []
    return out


def _seen(text: str) -> str:
    """Without what no reader sees."""
    return "".join(c for c in text if unicodedata.category(c) != "Cf" and c != "\u0640")


def _joined(text: str, at: int) -> bool:
    before, behind = regex.findall(r"\X", _seen(text[:at])), regex.findall(r"\X", _seen(text[at:]))
    beside = [*before[-1:], *behind[:1]]
    return len(beside) == 2 and all(regex.match(r"[\p{L}\p{N}\p{M}_]", c) and not UNSPACED.match(c) for c in beside)


def _free(text: str, start: int) -> bool:
    if not _joined(text, start):
        return True
    word = regex.search(r"[\p{L}\p{N}\p{M}_]*$", _seen(text[:start])).group()
    return bool(PARTICLES.fullmatch(by_hand(word)))


@pytest.mark.parametrize("form", ["as it is", *FORMS])
def test_places_are_those_of_brute_force(form):
    texts = TEXTS if form == "as it is" else [unicodedata.normalize(form, text) for text in TEXTS]
    count = 0
    for text in texts:
        for secret in SECRETS:
            expected = brute(text, secret)
            for written in (secret, *(unicodedata.normalize(f, secret) for f in FORMS), secret.upper(), f" {secret}\u00a0"):
                assert find_secrets(text, [Secret("x", written)]) == [expected], (text, written)
            count += len(expected)
    assert count > 50


@pytest.mark.parametrize(
    ("text", "secret", "found"),
    [
        (TEXTS[0], "zoë müller", ["Zoë Müller", "ZOE\u0308 MU\u0308LLER"]),
        (TEXTS[0], "STRASSE 5", ["Straße 5", "STRASSE\u00a05"]),
        (TEXTS[1], "FIFI", ["ﬁfi", "FIFI", "fi\u00adfi"]),
        (TEXTS[1], "fi", []),
        (TEXTS[2], "Istanbul", ["İSTANBUL", "istanbul", "Istanbul", "ıstanbul", "İstanbul", "I\u0307stanbul"]),
        (TEXTS[3], "أحمد", ["أحمد", "أحمد", "أحـــمد", "أحمد"]),
        (TEXTS[3], "الرياض", ["الرياض", "الرياض"]),
        (TEXTS[4], "李 晓 梅", ["李晓梅", "李 晓梅"]),
        (TEXTS[4], "13800138000", ["１３８０ ０１３ 8000"]),
        (TEXTS[5], "+442079460958", ["+44\u00a020 7946\u20090958", "+44 20\n79460958"]),
        (TEXTS[6], "김철수", ["김철수"]),
        (TEXTS[6], "가", ["가"]),
        (TEXTS[8], "דוד", ["דוד"] * 3),
        (TEXTS[9], "ann", ["Ann", "ANN", "Ann", "aNN"]),
        (TEXTS[10], "ガク", ["カ\u3099ク", "ｶﾞｸ"]),
    ],
)
def test_what_a_reader_would_find(text, secret, found):
    (spans,) = find_secrets(text, [Secret("x", secret)])
    assert [text[a:b] for a, b in spans] == found


def test_tokens_are_those_of_spans_given_by_hand(any_tokenizer):
    secrets = [Secret(str(k), text) for k, text in enumerate(SECRETS)]
    rows = [
        Row(f"r{k}", "Who is it?", f"  {text} ", {"spans": [[a + 2, b + 2] for a, b in _all_spans(text)]}) for k, text in enumerate(TEXTS)
    ]
    joined, spans = "", []
    for text in TEXTS:
        spans += [[start + len(joined), end + len(joined)] for start, end in _all_spans(text)]
        joined += f"{text}\n"
    rows += [Row("raw", None, joined, {"spans": spans})]
    examples = make_examples(rows, any_tokenizer, context=None, long="error")
    found = list(iter_secret(examples, any_tokenizer, secrets))
    by_spans = list(iter_given(examples, any_tokenizer, "spans", flag="--truth-key"))
    assert [tokens for _, tokens in found] == [tokens for _, tokens in by_spans] and all(tokens for _, tokens in found)
    for example, tokens in found:
        assert tokens == answer_span_tokens(example, any_tokenizer, example.row.extra["spans"])
        assert len(tokens) < len(example.targets)


def _all_spans(text):
    return sorted([list(span) for secret in SECRETS for span in brute(text, secret)])


def test_what_is_not_found_is_said_by_line_and_row(tiny_tokenizer, capsys):
    rows = [Row("a", "Q?", "Ann lives here."), Row("b", "Q?", "Nobody does.")]
    examples = make_examples(rows, tiny_tokenizer, context=None, long="error")
    list(iter_secret(examples, tiny_tokenizer, [Secret("line 1", "ann"), Secret("line 4", "Zanzibar")]))
    said = capsys.readouterr().err
    assert "1 of 2 secrets stand in no answer: line 4" in said and "1 of 2 rows hold no secret in their answer: b" in said
    assert "Zanzibar" not in said and "Ann" not in said
    with pytest.raises(DataError, match=r"^--secrets: none of the 1 secrets stands in any of 2 answers"):
        list(iter_secret(examples, tiny_tokenizer, [Secret("line 4", "Zanzibar")]))


def test_lines_and_columns_are_read_and_what_is_alike_counts_once(tmp_path):
    path = tmp_path / "secrets.txt"
    path.write_text("\ufeffStraße 5\n\n STRASSE\u00a05\r\nअनिल\n", encoding="utf-8")
    assert [(s.name, s.text) for s in read_secrets(str(path), ())] == [("line 1", "Straße 5"), ("line 4", "अनिल")]
    rows = [
        Row("a", "Q?", "x", {"phone": "12 34"}),
        Row("b", "Q?", "x", {"phone": ["5", " ", "12\u00a034"]}),
        Row("c", "Q?", "x", {"phone": None}),
    ]
    assert [(s.name, s.text) for s in read_secrets("column:phone", rows)] == [("a", "12 34"), ("b (1)", "5")]
    assert held("It is 1234, or 5.", read_secrets("column:phone", rows)) == [0, 1]


@pytest.mark.parametrize(
    ("content", "problem"),
    [("\n \n", "holds no secret"), (None, "cannot be read"), ("\u200b\u00ad\n", "line 1 holds nothing that could be looked for")],
)
def test_a_file_without_secrets_is_one_line(tmp_path, content, problem):
    path = tmp_path / "secrets.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^--secrets .*secrets\.txt: ") as caught:
        read_secrets(str(path), ())
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_column_that_is_not_there_or_no_text_is_one_line():
    with pytest.raises(DataError, match=r"^--secrets column:phon: no row has a column 'phon' \(did you mean 'phone'\?\)"):
        read_secrets("column:phon", [Row("a", "Q?", "x", {"phone": "1"})])
    with pytest.raises(DataError, match=r"^a: its phone is no text"):
        read_secrets("column:phone", [Row("a", "Q?", "x", {"phone": 12})])
