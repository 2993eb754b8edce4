"""Attribution quality beside unlearning results: matched by the store's content, shown on the page, in Markdown and
CSV."""

import csv
import json

import pytest

from shared.errors import StoreError
from shared.records import TrainingRecord
from tests.browser import Browser
from tests.tu_eval.made import make_agreement, many
from tests.tu_eval.test_commands import refused
from tu_eval.compare.agreement import FIGURES, agreement_of, read_agreements
from tu_eval.compare.comparison import load_comparison
from tu_eval.compare.training import Training

STORE = "s" * 64  # the one that made.make_model names


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return many(tmp_path_factory.mktemp("made"), attacked=True)


def test_only_runs_whose_tokens_importance_chose_have_a_quality(tmp_path):
    held = read_agreements([make_agreement(tmp_path / "a.json", store=STORE)])

    def why(**settings):
        return agreement_of(Training(TrainingRecord(store=STORE, settings=settings)), held)

    for tokens in ("hard", "soft"):
        assert why(method="npo", tokens=tokens) == (held[0], "")
    for tokens in ("all", "given", "random"):
        assert why(method="npo", tokens=tokens) == (None, f"{tokens} tokens: importance chose none")
    other = Training(TrainingRecord(store="0" * 64, settings={"tokens": "hard"}))
    assert agreement_of(other, held)[1] == "no --agreement speaks of its store"
    assert agreement_of(Training(TrainingRecord(settings={})), held)[0] is agreement_of(None, held)[0] is None


def test_the_page_markdown_and_csv_show_it_beside_the_results(run_cli, folders, tmp_path):
    mine, other = make_agreement(tmp_path / "mine.json", store=STORE), make_agreement(tmp_path / "other.json", store="0" * 64)
    out = tmp_path / "r.html"
    more = ("--agreement", mine, "--agreement", other, "--markdown", tmp_path / "t.md", "--csv", tmp_path / "t.csv")
    code, stdout, err = run_cli("tu-eval", "compare", *folders, *more, "--out", out)
    assert code == 0, err
    assert "No run here was trained with the store of other.json" in stdout
    with Browser() as browser:
        page = browser.page(out)
        rows = page.evaluate(
            "[...document.querySelectorAll('#attribution tbody tr')]"
            ".map((r) => [...r.querySelectorAll('bdi, .about, td')].map((c) => c.textContent.trim()))"
        )
        assert page.errors() == []
    by_name = {row[0]: row[1:] for row in rows}
    assert "target" not in by_name and "retain" not in by_name
    assert by_name["npo · hard"][:7] == ["1 · minmax(base_entropy)", "0.731", "0.500", "0.440", "0.620", "0.550", "0.480"]
    assert by_name["npo-all-0"][:2] == ["all tokens: importance chose none", "—"]
    comparison = load_comparison(folders, None, [mine])
    at = [g.title for g in comparison.groups].index("npo · hard")
    utility = comparison.table()[at][[c.metric for c in comparison.columns].index("model_utility")].value
    assert by_name["npo · hard"][8] == f"{utility:.3f}"
    line = next(x for x in (tmp_path / "t.md").read_text().splitlines() if x.startswith("| npo · hard |"))
    assert "| 0.731 | 0.500 |" in line
    for row in csv.DictReader((tmp_path / "t.csv").read_text().splitlines()):
        assert row["importance_auc"] == ("0.731" if row["tokens"] in ("hard", "soft") else "")
    run_cli("tu-eval", "compare", *folders, "--out", out)
    assert 'id="attribution"' not in out.read_text()


def test_what_tu_score_writes_is_read(run_cli, tiny_model, tmp_path):
    store, data = tmp_path / "store", "atlas:forget:people=4,facts_per_person=2,forget_people=2,holdout_people=1"
    assert run_cli("tu-score", "run", "--model", tiny_model, "--data", data, "--spans", "question", "--out", store)[0] == 0
    code, out, err = run_cli("tu-score", "agree", store, "--model", tiny_model, "--json")
    assert code == 0, err
    (tmp_path / "agree.json").write_text(out)
    (found,) = read_agreements([tmp_path / "agree.json"])
    from shared.store.scores import open_store

    assert found.store == open_store(store).sha256 and found.recipe == "1 · learned_alone"
    assert found.figures == {k: json.loads(out)["signals"]["importance"]["per_answer"][k] for k in FIGURES}
    assert run_cli("tu-score", "recipe", store, "--recipe", "alpha=1")[0] == 0  # another importance is another store
    assert json.loads(run_cli("tu-score", "agree", store, "--model", tiny_model, "--json")[1])["store"] != found.store


def test_other_files_are_refused_in_one_line(run_cli, folders, tmp_path):
    def refusal(*places):
        words = [word for place in places for word in ("--agreement", place)]
        message = refused(run_cli("tu-eval", "compare", *folders[:2], *words, "--out", tmp_path / "r.html"))
        assert not (tmp_path / "r.html").exists()
        return message

    good = make_agreement(tmp_path / "good.json", store=STORE)
    assert "no such file" in refusal(tmp_path / "none.json")
    assert "same store" in refusal(good, make_agreement(tmp_path / "twice.json", store=STORE))
    assert "format 2" in refusal(make_agreement(tmp_path / "new.json", store=STORE, format=2))
    assert "KeyError 'importance'" in refusal(make_agreement(tmp_path / "bare.json", store=STORE, signals={}))
    (tmp_path / "list.json").write_text("[]")
    assert "not what tu-score agree --json writes" in refusal(tmp_path / "list.json")
    values = json.loads(good.read_text())
    values["signals"]["importance"]["per_answer"]["ap"] = float("nan")
    (tmp_path / "nan.json").write_text(json.dumps(values))
    assert "NaN" in refusal(tmp_path / "nan.json")
    with pytest.raises(StoreError):
        read_agreements([folders[0] / "summary.json"])
