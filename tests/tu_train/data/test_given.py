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


def test_a_blocklist_names_the_tokens_and_is_part_of_the_run(tiny_model, tmp_path, run_cli):
    data, listed = documents(tmp_path / "documents.jsonl"), tmp_path / "names.txt"
    store = score(tiny_model, tmp_path / "store", data=str(data), text_key="text", text_length=64, spans="none", alpha=0.0)

    def train(out, *more):
        return run_cli("tu-train", "run", "--model", tiny_model, "--scores", store, "--retain", "none", "--epochs", 1, "--device", "cpu",
                       "--out", tmp_path / out, "--set", f"blocklist={listed}", *more)  # fmt: skip

    tokens = {}
    for out, words in (("a", "DORUNA\nПскове\nwelder\n"), ("b", "doruna\n\nwelder\nпскове\nZanzibar"), ("c", "Doruna")):
        listed.write_text(words, encoding="utf-8")
        code, _, err = train(out, "--tokens", "given")
        assert code == 0 and ("1 of 4 words and phrases occur in no answer" in err) == (out == "b"), err
        tokens[out] = json.loads((tmp_path / out / "training.json").read_text())["given_tokens"]
    assert tokens["a"] == tokens["b"] != tokens["c"]
    for words, more, problem in (
        ("Zanzibar", ("--tokens", "given"), "--set blocklist: none of its 1 words and phrases occurs in an answer"),
        ("\n", ("--tokens", "given"), "names.txt: holds no line; expected one word or phrase a line"),
        ("Doruna", ("--tokens", "hard"), "names the tokens of --tokens given, this is --tokens hard"),
    ):
        listed.write_text(words)
        code, out, err = train("d", *more)
        assert code == 2 and out == "" and problem in err and "Zanzibar" not in err, err


def test_secrets_train_the_tokens_of_spans_given_by_hand(tiny_model, tmp_path, run_cli):
    """The same labels, hence the same weights, and the same truth for agreement, as a file and as a column."""
    data, listed = documents(tmp_path / "documents.jsonl"), tmp_path / "secrets.txt"
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    rows[0]["own"] = [fact.upper() for fact in FACTS]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    listed.write_text("doruna\nПСКОВЕ\nwel\u00adder\nZanzibar\n", encoding="utf-8")
    store = score(tiny_model, tmp_path / "store", data=str(data), text_key="text", text_length=64, spans="none", alpha=0.0)

    def train(out, *more):
        return run_cli("tu-train", "run", "--model", tiny_model, "--scores", store, "--retain", "none", "--epochs", 1, "--device", "cpu",
                       "--tokens", "given", "--out", tmp_path / out, *more)  # fmt: skip

    weights = {}
    for out, more in (("hand", ("--set", "given_key=facts")), ("file", ("--secrets", listed)), ("column", ("--secrets", "column:own"))):
        code, _, err = train(out, *more)
        assert code == 0, err
        assert ("1 of 4 secrets stand in no answer: line 4" in err) == (out == "file")
        assert ("1 of 2 rows hold no secret in their answer" in err) == (out != "hand") and "Zanzibar" not in err
        weights[out] = (tmp_path / out / "model.safetensors").read_bytes()
    assert weights["hand"] == weights["file"] == weights["column"]
    figures = []
    for more in (("--truth-key", "facts"), ("--secrets", listed), ("--secrets", "column:own")):
        code, out, err = run_cli("tu-score", "agree", store, "--model", tiny_model, "--json", *more)
        assert code == 0, err
        figures.append({**json.loads(out), "truth": None})
    assert figures[0] == figures[1] == figures[2]
    for more, problem in (
        (("--secrets", listed, "--set", "blocklist=x"), "--secrets and --set blocklist: each names"),
        (("--secrets", "column:owned"), "no row has a column 'owned' (did you mean 'own'?)"),
        (("--secrets", listed, "--tokens", "hard"), "names the tokens of --tokens given, this is --tokens hard"),
        (("--secrets", tmp_path / "none.txt"), "none.txt: cannot be read"),
    ):
        code, out, err = train("d", *more)
        assert code == 2 and out == "" and problem in err and len(err.strip().splitlines()) == 1, err
