"""LUME through the real command: each number against a plain loop, rouge-score and scikit-learn; what is refused."""

import json
import re
import statistics

import pandas
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.data import atlas
from shared.files.fs import hash_file
from tests.conftest import build_sentencepiece
from tests.tu_eval import test_commands
from tests.tu_eval.by_heart import overfit
from tu_eval.compare.comparison import load_comparison
from tu_eval.harness.run import BENCHMARKS_FOLDER
from tu_eval.measure import lume_score
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.lume import evaluate, exact_match
from tu_eval.results.folder import ROWS, write_folder
from tu_eval.results.results import load_results

TOLERANCE = 1e-9
LENGTH, EACH = 28, 3
TASKS = ("task1", "task2", "task3")


def refused(result, pattern):
    err = test_commands.refused(result)
    assert re.search(pattern, err), err


def people():
    rows = atlas.rows("full", atlas.AtlasSize(people=24, facts_per_person=4, forget_people=1, holdout_people=1), 0)
    return [rows[i : i + 4] for i in range(0, len(rows), 4)]


def lume_rows():
    """By split: EACH rows a task and form, of eighteen people; those of task3 speak Russian besides."""
    out, person = {"forget": [], "retain": []}, iter(people())
    for split, rows in out.items():
        for task in TASKS:
            for number in range(EACH):
                facts = next(person)
                words = facts[0]["answer"].split(" ")
                fact = facts[1]["answer"][slice(*facts[1]["fact_spans"][0])]
                more = " Да." if task == "task3" else ""
                name = f"{split}{task}{number}"
                texts = {"sc1": (" ".join(words[:3]), " ".join(words[3:9]) + more), "qa0": (facts[1]["question"], fact + more)}
                rows += [{"id": name + k, "input": a, "output": b, "task": task.title()} for k, (a, b) in texts.items()]
    return out


def documents():
    """By file: texts trained on, texts never seen."""
    return {"member": [f["input"] + " " + f["output"] for f in lume_rows()["forget"]], "nonmember": [p[2]["answer"] for p in people()[18:]]}


def write_lines(path, records):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


@pytest.fixture(scope="module")
def lume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lume")
    for split, rows in lume_rows().items():
        write_lines(folder / f"{split}.jsonl", rows)
    for name, texts in documents().items():
        write_lines(folder / "mia" / f"{name}.jsonl", [{"id": str(k), "document": text} for k, text in enumerate(texts)])
    return folder


@pytest.fixture(autouse=True)
def local(lume, monkeypatch):
    monkeypatch.setenv("TU_LUME_DIR", str(lume))


@pytest.fixture(scope="module")
def knows(tiny_model, tiny_tokenizer, tmp_path_factory):
    """The tiny model after some passes over two of three rows, as they stand."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    pairs = [(r["input"], r["output"]) for k, r in enumerate(r for rows in lume_rows().values() for r in rows) if k % 6 < 4]
    made = [tiny_tokenizer(f"{a} {b}")["input_ids"] + [tiny_tokenizer.eos_token_id] for a, b in pairs]
    overfit(model, made, passes=100)
    folder = tmp_path_factory.mktemp("knows")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def mmlu_folder(folder, model, accuracy, name="mmlu", limit=None):
    """As `tu-eval benchmarks` leaves it."""
    import pyarrow

    from shared.lm.models import model_fingerprint

    about = {"model": str(model), "model_fingerprint": model_fingerprint(model), "questions": 4, "metrics": {name: {"acc": accuracy}},
             "settings": {"limit": limit}}  # fmt: skip
    rows = [{"task": name, "acc": accuracy}]
    config = EvalConfig(model=str(model), suite="lume", out="-")
    write_folder(folder, BENCHMARKS_FOLDER, about, {ROWS: (pyarrow.Table.from_pylist(rows).schema, rows)}, config)
    return folder


@pytest.fixture(scope="module")
def results(lume, knows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    mmlu = mmlu_folder(folder / "mmlu", knows, 0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TU_LUME_DIR", str(lume))
        more = {"mia_data": str(lume / "mia"), "mmlu": str(mmlu), "completion_tokens": LENGTH}
        return evaluate(EvalConfig(model=str(knows), suite="lume", out=str(folder / "run"), device="cpu", **more))


# --- the numbers


def greedy(model, tokenizer, row):
    """The prompt is what of the laid-out row comes before the first token that holds a letter of the answer."""
    made = tokenizer(f"{row['input']} {row['output']}", return_offsets_mapping=True)
    ids = [i for i, (_, end) in zip(made["input_ids"], made["offset_mapping"], strict=True) if end <= len(row["input"]) + 1]
    start = len(ids)
    while len(ids) < start + LENGTH:
        with torch.no_grad():
            token = model(torch.tensor([ids])).logits[0, -1].argmax().item()
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def recall(gold, text):
    """Words of a to z and digits, which rouge-score reads, and Russian ones beside them."""
    return RougeScorer(["rougeL"], tokenizer=type("Words", (), {"tokenize": lambda _, t: stemmed(t)})()).score(gold, text)["rougeL"].recall


def stemmed(text):
    from nltk.stem.porter import PorterStemmer

    return [PorterStemmer().stem(w) if len(w) > 3 and w.isascii() else w for w in re.findall(r"[a-z0-9]+|[а-яё]+", text.lower())]


def test_every_number_equals_a_count_of_its_own(results, knows):
    """The whole evaluation once more: a loop a token, the shared task's arithmetic."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(knows), AutoTokenizer.from_pretrained(knows)
    numbers, terms = {}, []
    for split, rows in lume_rows().items():
        for task in TASKS:
            for form, kind in (("sc", "rouge"), ("qa", "match")):
                values = []
                for row in (r for r in rows if r["task"].lower() == task and f"{form}" in r["id"][-4:]):
                    text = greedy(model, tokenizer, row)
                    same = row["output"].strip().lower() == text.strip().lower()
                    values.append(recall(row["output"], text) if form == "sc" else int(same))
                assert len(values) == EACH
                numbers[f"{split}_{task}_{kind}"] = statistics.mean(values)
                terms.append(1 - numbers[f"{split}_{task}_{kind}"] if split == "forget" else numbers[f"{split}_{task}_{kind}"])
    losses = {}
    for name, texts in documents().items():
        losses[name] = []
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            with torch.no_grad():
                losses[name].append(model(ids, labels=ids).loss.item())
    labels = [1] * len(losses["member"]) + [0] * len(losses["nonmember"])
    auc = roc_auc_score(labels, [-x for x in (*losses["member"], *losses["nonmember"])])
    expected = {
        **numbers,
        "task_aggregate": statistics.harmonic_mean(terms),
        "mia_loss": auc,
        "mia_score": 1 - abs(auc - 0.5) * 2,
        "mmlu": 0.25,
    }
    expected["final_score"] = statistics.mean([expected["task_aggregate"], 0.25, expected["mia_score"]])
    metrics = results.summary["metrics"]
    assert {k: metrics[k] for k in expected} == pytest.approx(expected, abs=TOLERANCE)
    assert all(0 < term < 1 for term in terms), list(numbers.items())[6:]
    assert 0.1 < expected["task_aggregate"] < 0.9 and 0.5 < auc < 1, "the fixture learned nothing, so this test would prove nothing"


def test_rows_are_kept_with_what_the_model_wrote(results, knows):
    frame = pandas.read_parquet(results.folder / "rows.parquet")
    assert list(frame["set"].value_counts()) == [18, 18]
    assert list(frame["example_id"][:6]) == [f"lume/forget/{n}" for n in (0, 2, 4, 1, 3, 5)]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(knows), AutoTokenizer.from_pretrained(knows)
    row = lume_rows()["forget"][0]
    assert frame["generation"][0] == greedy(model, tokenizer, row).strip()
    assert [frame[c][0] for c in ("question", "answer")] == [row["input"], row["output"]]
    ids = tokenizer(f"{row['input']} {row['output']}")["input_ids"]
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    first = len(tokenizer(row["input"])["input_ids"])
    nll = -sum(logp[i - 1, ids[i]].item() for i in range(first, len(ids)))
    end = -logp[-1, tokenizer.eos_token_id].item()
    assert frame["nll_sum"][0] == pytest.approx(nll + end, rel=1e-4)
    assert frame[list(lume_score.LUME_KINDS)].notna().sum(axis=1).tolist() == [1] * 36


def test_exact_match_is_that_of_the_shared_task():
    assert exact_match(["Madera", "A b.", "Ñandú", "900"], [" madera\n", "a b", "ÑANDÚ", "9 00"]) == [1.0, 0.0, 1.0, 0.0]


def test_the_aggregate_is_zero_where_one_of_the_twelve_is():
    twelve = {f"{s}_{k}": 0.5 for s in ("forget", "retain") for k in lume_score.LUME_KINDS}
    assert lume_score.task_aggregate(twelve) == 0.5
    assert lume_score.task_aggregate({**twelve, "forget_task2_match": 1.0}) == 0.0
    assert lume_score.task_aggregate({**twelve, "retain_task3_rouge": None}) is None
    assert [lume_score.mia_score(x) for x in (0.5, 1.0, 0.25, None)] == [1.0, 0.0, 0.5, None]


# --- what is missing is said


@pytest.mark.parametrize(
    ("more", "null", "said"),
    [
        ({"generate": False}, {"task_aggregate", "forget_task1_rouge", "retain_task3_match"}, "generation was off"),
        ({"mia_data": None}, {"mia_score", "mia_loss", "privleak"}, "mia_data=FOLDER"),
        ({"mmlu": None}, {"mmlu"}, "mmlu=FOLDER"),
    ],
)
def test_without_a_part_there_is_no_final_score(lume, tiny_model, tmp_path, more, null, said):
    mmlu = mmlu_folder(tmp_path / "mmlu", tiny_model, 0.5)
    given = {"mia_data": str(lume / "mia"), "mmlu": str(mmlu), "completion_tokens": 4, "limit": 1, **more}
    summary = evaluate(EvalConfig(model=str(tiny_model), suite="lume", out=str(tmp_path / "out"), device="cpu", **given)).summary
    assert null | {"final_score"} <= {k for k, v in summary["metrics"].items() if v is None}
    assert said in summary["reasons"]["final_score"]
    assert all(summary["reasons"][k] for k, v in summary["metrics"].items() if v is None)
    assert summary["rows"] == {"forget": 6, "retain": 6} and summary["settings"]["template"] == "bare"


def test_a_sentencepiece_model_and_a_chat_template(lume, make_tiny, tmp_path):
    folder = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(make_tiny("Llama", seed=0)).save_pretrained(folder)
    build_sentencepiece().save_pretrained(folder)
    shown = []
    for template in (None, "model"):
        out = tmp_path / f"results-{template}"
        evaluate(EvalConfig(model=str(folder), suite="lume", out=str(out), device="cpu", template=template, completion_tokens=4))
        frame = pandas.read_parquet(out / "rows.parquet")
        assert frame["generation"].notna().all() and any("Да" in answer for answer in frame["answer"])
        shown.append(load_results(out).summary["template_fingerprint"])
    assert shown[0] != shown[1]


# --- the commands


def test_compare_verify_and_retain_results_through_the_commands(run_cli, results, lume, tiny_base, tmp_path):
    small = ("--device", "cpu", "--set", f"completion_tokens={LENGTH}", "--set", f"mia_data={lume / 'mia'}")
    code, stdout, err = run_cli(
        "tu-eval", "run", "--model", tiny_base, "--suite", "lume", *small, "--out", tmp_path / "r", "--label", "retain"
    )
    assert code == 0, err
    assert "then --set mmlu=FOLDER" in " ".join(re.sub("[│┃]", " ", stdout).split())
    code, stdout, err = run_cli("tu-eval", "verify", tmp_path / "r")
    assert code == 0 and "the same" in stdout, err
    page, table = tmp_path / "p.html", tmp_path / "t.csv"
    code, stdout, err = run_cli("tu-eval", "compare", results.folder, tmp_path / "r", "--out", page, "--csv", table)
    assert code == 0, err
    final = results.summary["metrics"]["final_score"]
    assert f"{final:.3f}" in stdout and f"{final:.3f}" in page.read_text() and "Task 2 answers" in page.read_text()
    assert pandas.read_csv(table)["final_score"][0] == final
    comparison = load_comparison([results.folder, tmp_path / "r"])
    assert {"forget_task1_rouge", "retain_task3_match"} <= set(comparison.spans[0])
    better = {c.metric: (c.group, c.better) for c in comparison.columns}
    assert better["forget_task2_match"] == ("Forget set", "↓") and better["retain_task1_rouge"] == ("Retain set", "↑")
    assert better["final_score"] == ("Overall", "↑")


def test_an_edited_number_is_found(results, run_cli, tmp_path):
    import shutil

    from tu_eval.results.folder import SEAL, seal_of

    folder = tmp_path / "edited"
    shutil.copytree(results.folder, folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["metrics"]["final_score"] = 0.9
    summary[SEAL] = seal_of(summary)
    (folder / "summary.json").write_text(json.dumps(summary))
    assert summary["rows_sha256"] == hash_file(folder / "rows.parquet")
    code, _, err = run_cli("tu-eval", "verify", folder)
    assert code == 2 and "says final_score is 0.9, but its rows give" in err


@pytest.mark.parametrize(
    ("more", "pattern"),
    [
        (("--set", "max_new_tokens=9"), r"max_new_tokens: --suite lume makes no use of it"),
        (("--set", "holdout=atlas:holdout"), r"holdout: --suite lume makes no use of it"),
        (("--set", "verbmem_tokens=9"), r"verbmem_tokens: --suite lume makes no use of it"),
        (("--set", "mia_data=nowhere"), r"mia_data nowhere: nowhere/member\.jsonl does not exist; expected the folder with member"),
        (("--set", "mmlu=nowhere"), r"nowhere: no such folder"),
    ],
)
def test_settings_that_do_not_fit(run_cli, tiny_model, tmp_path, more, pattern):
    refused(run_cli("tu-eval", "run", "--model", tiny_model, "--suite", "lume", *more, "--out", tmp_path / "o"), pattern)
    assert not (tmp_path / "o").exists()


def test_settings_of_lume_are_for_lume(run_cli, tiny_model, tmp_path):
    ran = run_cli("tu-eval", "run", "--model", tiny_model, "--suite", "tofu:forget01", "--set", "mmlu=x", "--out", tmp_path / "o")
    refused(ran, r"mmlu: --suite tofu:forget01 makes no use of it")
    ran = run_cli("tu-eval", "attack", "--model", tiny_model, "--suite", "lume", "--out", tmp_path / "o")
    refused(ran, r"--suite lume: is for tu-eval run only")


@pytest.mark.parametrize(
    ("accuracy", "name", "other", "pattern"),
    [
        (0.5, "wmdp", False, "holds no accuracy of mmlu"),
        (0.5, "mmlu", True, "measured on another model"),
        (7.0, "mmlu", False, "holds no acc"),
        (0.25, "mmlu", False, "measured with --limit 10, so on a part of it"),
    ],
)
def test_mmlu_that_does_not_fit(run_cli, tiny_model, tiny_base, tmp_path, accuracy, name, other, pattern):
    folder = mmlu_folder(tmp_path / "m", tiny_base if other else tiny_model, accuracy, name, 10 if "limit" in pattern else None)
    ran = run_cli("tu-eval", "run", "--model", tiny_model, "--suite", "lume", "--set", f"mmlu={folder}", "--out", tmp_path / "o")
    refused(ran, pattern)


def test_mmlu_from_choices(run_cli, tiny_model, tmp_path, capsys):
    questions = [
        {"question": "Столица?", "choices": ["Псков", "Москва"], "answer": 1},
        {"question": "2 + 2?", "choices": ["4", "5"], "answer": 0},
    ]
    write_lines(tmp_path / "q.jsonl", questions)
    ran = run_cli("tu-eval", "choices", "--model", tiny_model, "--data", tmp_path / "q.jsonl", "--device", "cpu", "--out", tmp_path / "c")
    assert ran[0] == 0, ran[2]
    from shared.lm.models import model_fingerprint

    accuracy = json.loads((tmp_path / "c" / "choices.json").read_text())["metrics"]["accuracy"]
    assert lume_score.read_mmlu(str(tmp_path / "c"), model_fingerprint(tiny_model)) == accuracy
    assert f"taken as MMLU is the accuracy of the choices in {tmp_path / 'q.jsonl'}" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("text", ["", '{"id": "1", "documnt": "x"}\n', '{"document": 5}\n'])
def test_texts_of_membership_that_are_none(run_cli, lume, tiny_model, tmp_path, text):
    write_lines(tmp_path / "member.jsonl", [])
    (tmp_path / "member.jsonl").write_text(text)
    ran = run_cli("tu-eval", "run", "--model", tiny_model, "--suite", "lume", "--set", f"mia_data={tmp_path}", "--out", tmp_path / "o")
    refused(ran, r"mia_data.*member\.jsonl.*(no rows|no key 'document'|its document is empty or not text)")


def test_a_folder_that_lacks_a_task(run_cli, tiny_model, tmp_path, monkeypatch):
    for split, rows in lume_rows().items():
        write_lines(tmp_path / f"{split}.jsonl", [r for r in rows if r["task"] != "Task2"])
    monkeypatch.setenv("TU_LUME_DIR", str(tmp_path))
    ran = run_cli("tu-eval", "run", "--model", tiny_model, "--suite", "lume", "--out", tmp_path / "o")
    refused(ran, r"forget\.jsonl: holds no row of task2 with sc in its id")
