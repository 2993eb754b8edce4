"""The evidence report: what it says, what it keeps to itself, what it refuses."""

import hashlib
import json

import pytest

from shared.files.fs import hash_json
from tests.browser import Browser
from tests.tu_eval.made import TEXTS, make_model, make_results
from tests.tu_eval.test_commands import refused, rewrite
from tu_eval.compare.comparison import load_comparison


@pytest.fixture
def made(tmp_path):
    retain = make_results(tmp_path / "retain", "retain", seed=1, known=0.25)
    before = make_results(tmp_path / "before", "target", seed=2, known=0.95, retain=retain, model_fingerprint="0" * 64)
    model, weights = make_model(tmp_path / "model", word="w", method="npo", tokens="hard", seed=4)
    after = make_results(tmp_path / "after", "npo", seed=3, known=0.3, retain=retain, model=model, model_fingerprint=weights)
    return before, after, retain


def report(run_cli, out, *arguments):
    code, stdout, err = run_cli("tu-eval", "evidence", *arguments, "--out", out)
    assert code == 0, err
    assert str(out) in stdout and sorted(p.name for p in out.iterdir()) == ["evidence.html", "evidence.json"]
    return json.loads((out / "evidence.json").read_text()), (out / "evidence.html").read_text()


def test_it_says_what_was_asked_done_and_measured(run_cli, made, tmp_path):
    before, after, retain = made
    data, html = report(run_cli, tmp_path / "out", "--before", before, "--after", after, "--retain", retain)
    question, answer = TEXTS[5]
    plain = json.dumps({"answer": answer, "question": question}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert data["asked"]["rows"] == len(TEXTS)
    assert data["asked"]["hashes"][5]["sha256"] == hashlib.sha256(plain.encode()).hexdigest()
    assert not any(text in html or text in json.dumps(data) for text in ("Lisbon", "Who is"))  # hashes, not text
    assert data["training"]["settings"]["method"] == "npo" and "npo" in html
    for entry in data["measured"]:
        for role, folder in (("before", before), ("after", after)):
            assert entry[role]["value"] == json.loads((folder / "summary.json").read_text())["metrics"][entry["metric"]]
        assert entry["definition"] and entry["retain"]["value"] is not None
    body = {k: v for k, v in data.items() if k != "evidence_sha256"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert data["evidence_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_what_cannot_be_claimed_follows_from_what_is_missing(run_cli, made, tmp_path):
    before, after, retain = made
    full = "\n".join(report(run_cli, tmp_path / "a", "--before", before, "--after", after, "--retain", retain)[0]["not_claimed"])
    assert "Resistance to attacks" in full and "quantised" in full and "no score store" in full
    assert not any(part in full for part in ("Any forget quality", "--limit", "generation was off", "names", "By which method"))
    rewrite(before, limit=6)
    summary = json.loads((after / "summary.json").read_text())
    settings = {**summary["settings"], "generate": False, "dtype": "bfloat16"}
    rewrite(after, limit=6, retain_results=None, metrics={**summary["metrics"], "forget_quality": None}, model="gone", settings=settings)
    bare = "\n".join(report(run_cli, tmp_path / "b", "--before", before, "--after", after)[0]["not_claimed"])
    for part in ("Any forget quality", "first 6", "generation was off", "differ in dtype", "By which method", "no retain results"):
        assert part in bare


@pytest.mark.parametrize("both", [False, True])
def test_rouge_of_an_earlier_version_beside_todays_is_said(run_cli, made, tmp_path, both):
    before, after, _ = made
    newer = [make_results(tmp_path / f"newer{k}", f"newer{k}", seed=4 + k, rouge_words="every script") for k in range(2)]
    pair = newer if both else (before, newer[0])
    told, _ = report(run_cli, tmp_path / "out", "--before", pair[0], "--after", pair[1])
    assert any("read a to z and digits alone" in item for item in told["not_claimed"]) is not both
    assert any("ROUGE of target is of an earlier version" in note for note in load_comparison(pair).notes) is not both
    assert load_comparison([before, after]).notes == []  # both of an earlier version: they compare


def test_another_start_model_is_said(run_cli, made, tmp_path):
    before, after, _ = made
    rewrite(before, model_fingerprint="1" * 64)
    data, _ = report(run_cli, tmp_path / "out", "--before", before, "--after", after)
    assert any("names 000000000000 as start, before is 111111111111" in item for item in data["not_claimed"])


def test_refusals_are_one_line_and_write_nothing(run_cli, made, tmp_path):
    before, after, _ = made
    out = tmp_path / "out"

    def refusal(*arguments):
        message = refused(run_cli("tu-eval", "evidence", *arguments, "--out", out))
        assert not out.exists()
        return message

    assert "given twice" in refusal("--before", before, "--after", before)
    other = make_results(tmp_path / "other", "x", model_fingerprint="0" * 64)
    assert "same weights" in refusal("--before", before, "--after", other)
    assert "other retain results" in refusal("--before", before, "--after", after, "--retain", other)
    rewrite(before, data_fingerprint="e" * 64)
    assert "another data fingerprint" in refusal("--before", before, "--after", after)
    rewrite(before, suite="else")
    assert "another suite" in refusal("--before", before, "--after", after)


def test_texts_are_shown_on_request_and_literally(run_cli, made, tmp_path):
    before, after, retain = made
    data, _ = report(run_cli, tmp_path / "out", "--before", before, "--after", after, "--retain", retain, "--show-text")
    assert data["asked"]["hashes"][0]["question"] == TEXTS[0][0]
    with Browser() as browser:
        page = browser.page(tmp_path / "out" / "evidence.html", size=(400, 900), dark=True)
        page.evaluate("document.querySelector('details').open = true")
        assert TEXTS[0][0] in page.evaluate("document.querySelector('details').textContent")
        assert page.evaluate("document.querySelectorAll('img, script').length") == 0
        assert page.errors() == [] and page.requests() == []
        assert page.evaluate("document.title").startswith("Evidence") and page.evaluate("document.documentElement.scrollWidth") == 400


def leak(folder, role_secrets, *, name="line 1"):
    """The results with a leak check beside them: one secret, and answers of which some hold it."""
    import pyarrow
    import pyarrow.parquet

    from shared.files.fs import hash_file
    from tu_eval.results.leaks import count_leaks, schema

    about = {"set": "forget", "kind": "greedy", "prompt": "plain", "question": "Q?", "answer": "A", "told": []}
    rows = [
        {"model": role, "example_id": f"made/forget/{k}", "secrets": found, **about}
        for role, some in role_secrets.items()
        for k, found in enumerate(some)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema()), folder / "leaks.parquet", write_page_checksum=True)
    settings = {"samples": 0, "temperature": 1.0, "max_new_tokens": 40, "seed": 0}
    leaks = {"secrets_sha256": "a" * 64, "settings": settings, **count_leaks(rows, [{"name": name, "rows": 3}])}
    return leaks, hash_file(folder / "leaks.parquet")


def with_leaks(folder, found, **changes):
    leaks, digest = leak(folder, {"model": found})
    rewrite(folder, leaks={**leaks, **changes}, leaks_sha256=digest)
    return folder


def make_attack(folder, models, found):
    """A folder of tu-eval attack: one attack, and a leak check."""
    from tests.tu_eval.made import NoConfig
    from tu_eval.attacks.run import ATTACK_FOLDER, schema, summarise
    from tu_eval.results.folder import ROWS, write_folder
    from tu_eval.results.leaks import LEAKS, leak_rows
    from tu_eval.results.leaks import schema as leaks_schema

    row = {"setting": "8 bits", "set": "forget", "example_id": "x", "fact_probability": None}
    rows = {role: {"quantise": [{**row, "probability": 0.25 + 0.5 * k}]} for k, role in enumerate(models)}
    flat = [{"model": role, "attack": "quantise", **made["quantise"][0]} for role, made in rows.items()]
    folder.parent.mkdir(exist_ok=True)
    scratch = folder.with_name("scratch")
    scratch.mkdir()
    leaks, _ = leak(scratch, found)
    about = {role: {"label": role, "model": role, "model_fingerprint": print_} for role, print_ in models.items()}
    summary = {"models": about, "suite": "made", "numbers": summarise(["quantise"], rows), "leaks": leaks}
    write_folder(folder, ATTACK_FOLDER, summary, {ROWS: (schema(), flat), LEAKS: (leaks_schema(), leak_rows(scratch))}, NoConfig())
    return folder


def test_attacks_and_leak_checks_stand_in_the_report_with_its_request(run_cli, made, tmp_path):
    before, after, retain = made
    weights = json.loads((after / "summary.json").read_text())["model_fingerprint"]
    with_leaks(before, [[0], [0], []]), with_leaks(after, [[], [0], []])
    attack = make_attack(tmp_path / "attack", {"model": weights, "before": "0" * 64}, {"model": [[0]], "before": [[0]]})
    more = ("--attacks", attack, "--request-id", "DSR-17 <b>", "--operator", "Orla Venn", "--show-answers")
    data, html = report(run_cli, tmp_path / "out", "--before", before, "--after", after, "--retain", retain, *more)
    assert data["request"] == {"id": "DSR-17 <b>", "operator": "Orla Venn"} and "DSR-17 &lt;b&gt;" in html and "Orla Venn" in html
    assert data["leaks"]["secrets"][0]["found"] == {"before": {"greedy": 2}, "after": {"greedy": 1}}
    assert data["attacks"][0]["leaks"]["secrets"][0]["found"] == {"after": {"greedy": 1}, "before": {"greedy": 1}}
    assert data["attacks"][0]["numbers"][0]["after"] == 0.25 and data["attacks"][0]["numbers"][0]["before"] == 0.75
    claims = "\n".join(data["not_claimed"])
    assert "quantised" not in claims and "no leak check" not in claims and "relearning" in claims and "paraphrased prompts" in claims
    assert data["asked"]["hashes"][3]["after"] and "question" not in data["asked"]["hashes"][3] and "answer after" in html
    assert "line 1" in html and "of 1 secrets 1 in 3 greedy answers" in html
    code, stdout, err = run_cli("tu-eval", "verify", tmp_path / "out")
    assert code == 0 and "page: says what" in stdout, err
    with Browser() as browser:
        page = browser.page(tmp_path / "out" / "evidence.html", size=(400, 900), dark=True)
        assert page.errors() == [] and page.evaluate("document.documentElement.scrollWidth") == 400


def test_attacks_and_leak_checks_of_something_else_are_refused(run_cli, made, tmp_path):
    before, after, _ = made
    weights = json.loads((after / "summary.json").read_text())["model_fingerprint"]

    def refusal(*arguments):
        return refused(run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--out", tmp_path / "out", *arguments))

    other = make_attack(tmp_path / "a" / "attack", {"model": "1" * 64}, {"model": [[0]]})
    assert "its model has other weights than the results after" in refusal("--attacks", other)
    edited = make_attack(tmp_path / "b" / "attack", {"model": weights}, {"model": [[0]]})
    about = json.loads((edited / "attack.json").read_text())
    about["numbers"][0]["model"] = 0.0
    del about["summary_sha256"]
    (edited / "attack.json").write_text(json.dumps({**about, "summary_sha256": hash_json(about)}))
    assert "its numbers are not what its rows give" in refusal("--attacks", edited)
    with_leaks(after, [[0]])
    with_leaks(before, [[0]], secrets_sha256="b" * 64)
    assert "other secrets than" in refusal()
    with_leaks(before, [[0]], answers={"model": {"greedy": 2}})
    assert "its leaks are not what leaks.parquet gives" in refusal()
