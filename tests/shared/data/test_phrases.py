"""Words and phrases of a blocklist are found as a reader would: as whole words, in any script, whatever their case."""

import pytest

from shared.data.phrases import find_phrases, read_phrases
from shared.errors import ConfigError, StoreError


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("Anna met Hanna and ANNA's friend Anna-Lena.", "anna", ["Anna", "ANNA", "Anna"]),
        ("Annabel", "anna", []),
        ("She lives in New\n  York, not NewYork.", " new york ", ["New\n  York"]),
        ("jane@x.com, mary.jane@x.com2", "jane@x.com", ["jane@x.com"]),
        ("Call +1 (555) 010-2222 or 5550.", "555", ["555"]),
        ("Call +1 (555) 010-2222.", "+1 (555) 010-2222", ["+1 (555) 010-2222"]),
        ("Straße, STRASSE", "strasse", ["Straße", "STRASSE"]),
        ("re\u0301sume\u0301 RÉSUMÉ ｒésumé", "résumé", ["re\u0301sume\u0301", "RÉSUMÉ", "ｒésumé"]),
        ("ﬁne", "f", []),
        ("Ольга и ОЛЬГА, но не Ольгана", "ольга", ["Ольга", "ОЛЬГА"]),
        ("李晓梅住在成都市青羊区。", "成都", ["成都"]),
        ("กรุงเทพมหานคร", "เทพ", ["เทพ"]),
        ("김철수는 서울에 산다, 왕김철수", "김철수", ["김철수"]),
        ("मीरा पुणे में", "मी", []),
        ("मीरा पुणे में", "पुणे", ["पुणे"]),
        ("C++ and C, not C++0", "c++", ["C++", "C++"]),
        ("aa aa aa", "aa aa", ["aa aa", "aa aa"]),
        ("anything", "   ", []),
        ("", "anything", []),
    ],
)
def test_a_phrase_is_found_as_whole_words(text, phrase, found):
    (spans,) = find_phrases(text, [phrase])
    assert [text[a:b] for a, b in spans] == found


def test_lines_of_a_file_are_phrases(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\ufeffOrla Venn\n\n  Псков \r\n成都\nOrla Venn\n", encoding="utf-8")
    assert read_phrases(str(path), flag="--set blocklist") == ["Orla Venn", "Псков", "成都"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe", b"x\n" * 600_000, None])
def test_a_file_of_no_phrases_is_one_line(tmp_path, content):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^--set blocklist=.*names\.txt: (holds no line|cannot be read|has more than)") as caught:
        read_phrases(str(path), flag="--set blocklist")
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file_of_phrases(tmp_path):
    with pytest.raises((ConfigError, StoreError), match=r"cannot be read|no ordinary file"):
        read_phrases(str(tmp_path), flag="--set blocklist")
