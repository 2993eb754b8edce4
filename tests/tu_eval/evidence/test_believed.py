"""What nobody has to believe: numbers that their rows do not give, stores of something else, files that anyone could
have edited."""

import json
import math
import shutil

import pytest

from shared.files.fs import hash_json
from tests.tu_eval.made import TEXTS, make_results, many
from tests.tu_eval.test_commands import refused, rewrite


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def both(run_cli, made, tmp_path):
    """`both()` -> the lines with which compare and evidence refuse, of which nothing is left."""

    def call():
        before, after, retain = made
        out = tmp_path / "out"
        lines = [
            refused(run_cli("tu-eval", "compare", before, after, retain, "--out", out)),
            refused(run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--retain", retain, "--out", out)),
        ]
        assert not out.exists()
        return lines

    return call


@pytest.mark.parametrize(
    "metric", ["forget_probability", "forget_rouge", "retain_truth_ratio", "model_utility", "mia_min_k", "forget_quality"]
)
def test_a_metric_that_its_rows_do_not_give_is_refused(made, both, metric):
    _, after, _ = made
    found = summary(after)
    metrics = {**found["metrics"], metric: found["metrics"][metric] * 0.5 + 1e-4}
    attacks = found["membership"]["attacks"]
    if metric.startswith("mia_"):
        attacks["min_k"] |= {"auc": metrics[metric], "low": 0.0, "high": 1.0}
    rewrite(after, metrics=metrics, membership={**found["membership"], "attacks": attacks})
    for line in both():
        assert f"says {metric} is" in line and "but its rows give" in line


def test_a_utility_without_its_worst_part_is_refused(made, both):
    _, after, _ = made
    found = summary(after)
    parts = found["utility_parts"][1:]
    utility = len(parts) / math.fsum(1 / found["metrics"][p] for p in parts)
    rewrite(after, utility_parts=parts, metrics={**found["metrics"], "model_utility": utility})
    for line in both():
        assert "its model utility leaves retain_probability out" in line


@pytest.mark.parametrize("value", [-5, 1.5, 1e308, -1e-3, "0.5", True, [0.5]])
def test_numbers_off_the_scale_are_refused(made, both, value):
    _, after, _ = made
    rewrite(after, metrics={**summary(after)["metrics"], "forget_probability": value})
    for line in both():
        assert "its forget_probability is" in line or ("metrics.forget_probability is" in line and "expected a number" in line)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_refused(made, both, text):
    _, after, _ = made
    found = summary(after)
    found["metrics"]["forget_probability"] = float(text.lower().replace("infinity", "inf"))
    del found["summary_sha256"]
    found["summary_sha256"] = hash_json(found)
    (after / "summary.json").write_text(json.dumps(found))
    for line in both():
        assert f"holds {text}" in line


def test_an_interval_without_its_value_is_refused(made, both):
    _, after, _ = made
    found = summary(after)["membership"]
    attacks = {**found["attacks"], "min_k": {**found["attacks"]["min_k"], "low": 0.0, "high": 0.0}}
    rewrite(after, membership={**found, "attacks": attacks})
    for line in both():
        assert "membership inference by min_k has AUC" in line


def test_rows_off_the_scale_are_refused(made, both):
    import pandas

    from shared.files.fs import hash_file

    _, after, _ = made
    frame = pandas.read_parquet(after / "rows.parquet")
    frame.loc[3, "probability"] = float("nan")
    frame.loc[4, "probability"] = -5.0
    frame.to_parquet(after / "rows.parquet")
    rewrite(after, rows_sha256=hash_file(after / "rows.parquet"))
    for line in both():
        assert "rows.parquet: row 4: its probability is -5.0, expected 0 to 1" in line


def test_a_wider_interval_in_the_summary_changes_nothing_in_the_report(run_cli, made, tmp_path):
    before, after, _ = made
    found = summary(after)["membership"]
    attacks = {**found["attacks"], "min_k": {**found["attacks"]["min_k"], "low": 0.0, "high": 1.0}}
    reports = []
    for k in range(2):
        out = tmp_path / f"out{k}"
        assert run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--out", out)[0] == 0
        reports.append({m["metric"]: m["after"]["span"] for m in json.loads((out / "evidence.json").read_text())["measured"]})
        rewrite(after, membership={**found, "attacks": attacks})
    assert reports[0] == reports[1] and reports[0]["mia_min_k"] == [found["attacks"]["min_k"]["low"], found["attacks"]["min_k"]["high"]]


def test_what_stands_in_training_json_is_recorded_and_not_verified(run_cli, made, tmp_path):
    before, after, _ = made
    place = tmp_path / "model" / "training.json"
    about = json.loads(place.read_text())
    place.write_text(
        json.dumps({**about, "verified": True, "recorded": True, "known": True, "settings": {**about["settings"], "method": "gold"}})
    )
    assert run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--out", tmp_path / "out")[0] == 0
    data = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert data["training"]["recorded"] is True and data["training"]["verified"] is False
    assert "as recorded, not verified" in data["training"]["said"]
    assert any("training.json is as recorded, not verified" in item for item in data["not_claimed"])
    assert "as recorded, not verified" in (tmp_path / "out" / "evidence.html").read_text()


def test_metrics_that_need_the_retain_results_are_said_to_be_recorded(run_cli, made, tmp_path):
    before, after, retain = made
    for more, expected in (((), True), (("--retain", retain), False)):
        out = tmp_path / f"out{len(more)}"
        assert run_cli("tu-eval", "evidence", "--before", before, "--after", after, *more, "--out", out)[0] == 0
        items = json.loads((out / "evidence.json").read_text())["not_claimed"]
        assert any("That forget_quality follow from the rows" in item for item in items) is expected


def store_of(folder, model_fingerprint, texts):
    """A store with these questions and answers, a token a character."""
    from shared.store.writer import Writer

    plan = {
        "options": {"data": "made", "question_key": "question", "answer_key": "answer"}, "parts": [[0, len(texts)]],
        "fingerprints": {"model": model_fingerprint, "data": "d", "tokenizer": "t", "chat_template": "c", "base_model": None},
    }  # fmt: skip
    writer = Writer(folder, plan)
    from shared.store.parts import TOKEN_COLUMNS, schema

    rows = []
    for k, (question, answer) in enumerate(texts):
        asked = f"<{question}>" if question else ""
        tokens, prompt = [*asked, *answer, "</s>"], len(asked)
        row = {name: [None] * len(tokens) for name in TOKEN_COLUMNS} | {"tokens": tokens, "input_ids": [1] * len(tokens)}
        row |= {"is_target": [i >= max(prompt, 1) for i in range(len(tokens))], "example_id": f"x/{k}", "spans": []}
        rows.append(row)
    import pyarrow as pa

    writer.write_part(0, pa.Table.from_pylist(rows, schema=schema()))
    writer.finish()
    return folder


def test_a_store_of_something_else_is_no_store_of_what_was_asked(run_cli, made, tmp_path):
    """Also where nothing in the model's folder says which store was used."""
    before, after, _ = made
    (tmp_path / "model" / "training.json").unlink()
    other = store_of(tmp_path / "other", "0" * 64, [(f"Who wrote book {k}?", f"Somebody {k}.") for k in range(30)])
    right = store_of(tmp_path / "right", "0" * 64, TEXTS)
    some = store_of(tmp_path / "some", "0" * 64, [*TEXTS[:10], ("Who?", "Me.")])
    texts = store_of(tmp_path / "texts", "0" * 64, [("", "A text."), ("", "Another.")])

    def report(store, name):
        out = tmp_path / name
        code, _, err = run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--store", store, "--out", out)
        return (json.loads((out / "evidence.json").read_text()), err) if code == 0 else (None, err)

    data, err = report(other, "a")
    assert data is None and "none of its rows is one of the 30 rows of the suite's forget set" in err and not (tmp_path / "a").exists()
    data, err = report(right, "b")
    assert data is not None, err
    assert (data["asked"]["store"]["matched"], data["asked"]["store"]["others"]) == (30, 0)
    assert not any("score store" in item for item in data["not_claimed"])
    data, _ = report(some, "c")
    assert any("20 of 30 rows are not in the score store" in item for item in data["not_claimed"])
    assert any("1 of the 11 rows of the score store are none" in item for item in data["not_claimed"])
    data, err = report(texts, "d")
    assert data is not None, err
    assert data["asked"]["store"]["matched"] is None and "plain texts" in "".join(data["not_claimed"])


def test_honest_results_are_all_computed_again(made, tmp_path):
    from tu_eval.measure.recompute import require_recomputable
    from tu_eval.results.results import load_results

    results = [load_results(folder) for folder in made]
    assert require_recomputable(results[0], results) == {k for k, v in results[0].summary["metrics"].items()}
    for folder in many(tmp_path / "many"):
        require_recomputable(load_results(folder))


# --- signatures


@pytest.fixture
def keys(run_cli, tmp_path):
    assert run_cli("tu-eval", "key", tmp_path / "mine.pem")[0] == 0
    assert (tmp_path / "mine.pem").stat().st_mode & 0o777 == 0o600
    assert run_cli("tu-eval", "key", tmp_path / "other.pem")[0] == 0
    return tmp_path / "mine.pem", tmp_path / "mine.public.pem", tmp_path / "other.public.pem"


def test_a_signed_folder_verifies_until_any_file_changes(run_cli, made, keys, tmp_path):
    private, public, other = keys
    _, after, _ = made
    code, out, _ = run_cli("tu-eval", "verify", after)
    assert code == 0 and "signature: none" in out and "computed again" in out
    assert "is not signed" in refused(run_cli("tu-eval", "verify", after, "--key", public))
    assert run_cli("tu-eval", "sign", after, "--key", private)[0] == 0
    code, out, _ = run_cli("tu-eval", "verify", after, "--key", public)
    assert code == 0 and "signature: holds, by " in out and "the key given" in out
    assert "signed by another key" in refused(run_cli("tu-eval", "verify", after, "--key", other))
    for change, says in (
        (lambda f: (f / "_config.toml").write_text("x = 1"), "_config.toml: was changed"),
        (lambda f: (f / "more.txt").write_text("x"), "more.txt: was added"),
        (lambda f: (f / "_config.toml").unlink(), "_config.toml: was taken away"),
        (lambda f: (f / "more").symlink_to(f / "rows.parquet"), "is a link"),
        (lambda f: edit(f / "signature.json", "signature", "00" * 64), "the signature does not hold"),
        (lambda f: edit(f / "signature.json", "files", {}), "the signature does not hold"),
        (lambda f: edit(f / "signature.json", "public_key", "00"), "is no signature of format 1"),
        (lambda f: edit(f / "signature.json", "signature", 7), "the signature does not hold"),
        (lambda f: (f / "signature.json").write_text("[" * 100_000), "nested too deeply"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(after, copy)
        change(copy)
        message = refused(run_cli("tu-eval", "verify", copy, "--key", public))
        assert says in message or "is no signature" in message, message
        shutil.rmtree(copy)


def edit(path, field, value):
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))


def test_edited_rows_and_metrics_that_agree_are_found_by_the_signature_alone(run_cli, made, keys, tmp_path):
    private, public, _ = keys
    before, after, _ = made
    assert run_cli("tu-eval", "sign", after, "--key", private)[0] == 0
    honest = make_results(
        tmp_path / "better", "npo", seed=3, known=0.01, model_fingerprint=summary(after)["model_fingerprint"], attacked=True
    )
    for name in ("rows.parquet", "membership.parquet", "summary.json"):
        shutil.copy(honest / name, after / name)
    assert "was changed after the folder was signed" in refused(run_cli("tu-eval", "verify", after, "--key", public))
    assert "was changed after" in refused(run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--out", tmp_path / "o"))
    (after / "signature.json").unlink()
    assert run_cli("tu-eval", "verify", after)[0] == 0


def test_run_and_evidence_sign_what_they_write(run_cli, made, keys, tiny_model, tmp_path):
    from tests.tu_eval.test_commands import SMALL

    private, public, _ = keys
    out = tmp_path / "run"
    code, _, err = run_cli("tu-eval", "run", "--model", tiny_model, *SMALL, "--out", out, "--sign", private)
    assert code == 0, err
    assert run_cli("tu-eval", "verify", out, "--key", public)[0] == 0
    before, after, _ = made
    assert run_cli("tu-eval", "sign", after, "--key", private)[0] == 0
    report = tmp_path / "report"
    code, _, err = run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--out", report, "--sign", private)
    assert code == 0, err
    code, stdout, err = run_cli("tu-eval", "verify", report, "--key", public)
    assert code == 0 and "page: says what evidence.json says" in stdout, err
    signed = json.loads((report / "evidence.json").read_text())["signed_by"]
    assert signed["before"] is None and len(signed["after"]) == 64


def test_an_edited_report_is_refused(run_cli, made, tmp_path):
    before, after, _ = made
    out = tmp_path / "report"
    assert run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--out", out)[0] == 0
    assert run_cli("tu-eval", "verify", out)[0] == 0
    page = (out / "evidence.html").read_text()
    (out / "evidence.html").write_text(page.replace("cannot be claimed", "can be claimed"))
    assert "does not say what evidence.json says" in refused(run_cli("tu-eval", "verify", out))
    data = json.loads((out / "evidence.json").read_text())
    data["measured"][0]["after"] = {"value": 1e-9, "span": [0, 0]}
    del data["evidence_sha256"]
    (out / "evidence.json").write_text(json.dumps({**data, "evidence_sha256": hash_json(data)}))
    assert "lies outside of its interval" in refused(run_cli("tu-eval", "verify", out))


@pytest.mark.parametrize("name", ["absent.pem", "words.pem", "rsa.pem"])
def test_what_is_no_key_is_one_line_before_any_work(run_cli, made, tmp_path, name):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    before, after, _ = made
    (tmp_path / "words.pem").write_text("no key")
    curve = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "rsa.pem").write_bytes(curve.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    message = refused(
        run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--out", tmp_path / "o", "--sign", tmp_path / name)
    )
    assert "--sign" in message and "key" in message and not (tmp_path / "o").exists()
    assert "--key" in refused(run_cli("tu-eval", "verify", after, "--key", tmp_path / name))
    (tmp_path / "there.pem").write_text("x")
    assert "already exists" in refused(run_cli("tu-eval", "key", tmp_path / "there.pem"))


def test_a_missing_package_is_named(run_cli, made, tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "cryptography" else found(name, *more))
    assert 'pip install "token-unlearn[sign]"' in refused(run_cli("tu-eval", "key", tmp_path / "k.pem"))
    assert run_cli("tu-eval", "verify", made[0])[0] == 0  # without a signature it takes none
