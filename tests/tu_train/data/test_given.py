"""`--tokens given` over raw text: the tokens of a document that its column of spans names are what is trained."""

import json

from shared.store.scores import open_store
from tests.tu_train.conftest import score

TEXT = "Mirel Tolton was born in Doruna. Она живёт в Пскове. She works as a welder, and keeps two dogs in her house."
FACTS = ["Doruna", "Пскове", "welder"]


def documents(path):
    spans = [[TEXT.index(f), TEXT.index(f) + len(f)] for f in FACTS]
    rows = [{"text": TEXT, "facts": spans}, {"text": TEXT[::-1], "facts": []}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_facts_of_documents_are_trained_and_agreed_with(tiny_model, tmp_path, run_cli):
    data = documents(tmp_path / "documents.jsonl")
    store = score(tiny_model, tmp_path / "store", data=str(data), text_key="text", text_length=16, spans="none", alpha=0.0)
    code, _, err = run_cli("tu-train", "run", "--model", tiny_model, "--scores", store, "--tokens", "given", "--set", "given_key=facts",
                           "--method", "npo", "--retain", "none", "--epochs", 1, "--device", "cpu", "--out", tmp_path / "out")  # fmt: skip
    assert code == 0, err
    pieces = open_store(store).manifest["rows"]
    assert f"of {pieces} forget rows have no token that is chosen" in err
    code, out, err = run_cli("tu-score", "agree", store, "--truth", "spans", "--truth-key", "facts", "--model", tiny_model)
    assert code == 0, err
    assert "true" in out and "importance" in out
