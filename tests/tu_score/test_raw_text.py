"""Scoring raw text through the command: pieces with an overlap, copies, and stores that earlier versions began."""

import json

import pytest

from shared.data.raw_text import OVERLAP
from shared.lm.models import load_tokenizer
from shared.store.scored import scored_examples
from shared.store.scores import open_store

DATA = "atlas:documents-forget:people=3,facts_per_person=2,forget_people=1,holdout_people=1"
RUSSIAN = "Ольга Венн родилась в Пскове в 1987 году. Ольга пишет в Пскове, а летом живёт в Ижевске. "


@pytest.fixture
def score(run_cli, tiny_model, tmp_path):
    """`score(*arguments)` -> the store, what was said."""

    def run(*arguments, out="store", data=DATA):
        code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", data, "--out", tmp_path / out,
                               "--set", "text_length=64", *arguments)  # fmt: skip
        assert code == 0, err
        return open_store(str(tmp_path / out)), err

    return run


def test_documents_are_scored_in_pieces_that_read_what_came_before_and_a_store_says_so(score, tiny_model):
    store, _ = score()
    options = store.manifest["options"]
    assert (options["text_overlap"], options["text_copies"], options["spans"]) == (min(OVERLAP, 32), "earlier", "none")
    examples = scored_examples(store, load_tokenizer(tiny_model), str(tiny_model), None)
    assert len(examples) > 3 and [e.targets[0] for e in examples] == [1] + [32] * (len(examples) - 1)
    rows = list(store.rows(("input_ids", "tokens", "logprob", "copied", "is_target")))
    assert [row["input_ids"] for row in rows] == [e.input_ids for e in examples]
    copies = [sum(row["copied"][i] for i in e.targets) for row, e in zip(rows, examples, strict=True)]
    assert sum(copies[: len(copies) // 2]) < sum(copies[len(copies) // 2 :]), "the name, and what is said again at the end"
    apart, _ = score("--set", "text_overlap=0", out="apart")
    targets = [sum(sum(row["is_target"]) for row in s.rows(("is_target",))) for s in (store, apart)]
    assert targets[0] >= targets[1] >= targets[0] - 2 * len(rows), "each token once; without an overlap all but the first of a piece"


def test_windows_are_the_spans_of_documents_that_nobody_named_raw_text(score):
    store, _ = score("--set", "alpha=0.5", "--set", "max_spans=4")
    assert store.manifest["options"]["spans"] == "window"


def test_a_store_of_an_earlier_version_goes_on_as_it_was_begun(score, tmp_path):
    """Without overlap and copies a plan says neither, as those of earlier versions."""
    old, _ = score("--set", "text_overlap=0", "--set", "text_copies=none")
    plan = json.loads((tmp_path / "store" / "_plan.json").read_text())
    assert not {"text_overlap", "text_copies"} & plan["options"].keys()
    assert not any(any(row["copied"]) for row in old.rows(("copied",)))
    part = tmp_path / "store" / "part-00000.parquet"
    bytes_before = part.read_bytes()
    part.unlink()
    again, said = score()
    assert "was begun by an earlier version; this run goes on with text_overlap=0 and text_copies=none" in said
    assert part.read_bytes() == bytes_before and again.manifest["options"] == old.manifest["options"]


def test_who_asks_for_an_overlap_does_not_go_on_with_a_store_that_has_none(score, run_cli, tiny_model, tmp_path):
    score("--set", "text_overlap=0", "--set", "text_copies=none")
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", tmp_path / "store",
                           "--set", "text_length=64", "--set", "text_overlap=8")  # fmt: skip
    assert code == 2 and err.count("error: ") == 1


def test_text_that_is_not_english_has_copies_and_an_overlap(score, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"body": RUSSIAN * 4}, ensure_ascii=False) + "\n", encoding="utf-8")
    store, _ = score("--text-key", "body", data=path)
    rows = list(store.rows(("tokens", "copied", "is_target", "importance")))
    assert len(rows) > 2
    for row in rows[-2:]:  # the text says the same four times
        kept = [text for text, held, target in zip(row["tokens"], row["copied"], row["is_target"], strict=True) if target and not held]
        assert not any(letter.isalpha() for text in kept for letter in text)


def test_an_overlap_beyond_half_a_piece_is_one_line(run_cli, tiny_model, tmp_path):
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", tmp_path / "x", "--set", "text_length=64",
                           "--set", "text_overlap=40")  # fmt: skip
    assert code == 2 and "text_overlap 40: expected at most 32 tokens, half of text_length" in err and "Traceback" not in err
