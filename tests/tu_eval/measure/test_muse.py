"""MUSE through the real command: each number against a plain transformers loop, rouge-score and scikit-learn; what is
refused."""

import json
import re
import shutil

import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.data import atlas
from shared.data.words import terms
from shared.engines.torch import TorchEngine
from shared.errors import DataError
from tests.conftest import build_tokenizer
from tests.tu_eval.by_heart import overfit
from tests.tu_eval.test_commands import refused
from tu_eval.compare.comparison import load_comparison
from tu_eval.measure.muse import first_answer
from tu_eval.metrics.rouge import rouge_l_f1
from tu_eval.results.results import load_results
from tu_eval.suites.muse_data import load_parts, load_texts

TOLERANCE = 1e-6
LENGTHS = {"verbmem": 24, "knowmem": 16}
SMALL = ("--device", "cpu", *(x for kind, n in LENGTHS.items() for x in ("--set", f"{kind}_tokens={n}")))
FACTS = 4


def people(seed):
    """Facts of thirty people, and all that is known of each as one text."""
    rows = atlas.rows("full", atlas.AtlasSize(people=30, facts_per_person=FACTS, forget_people=1, holdout_people=1), seed)
    facts = [rows[i : i + FACTS] for i in range(0, len(rows), FACTS)]
    return facts, [" ".join(row["answer"] for row in person) for person in facts]


def fact_of(row):
    """MUSE's answers are short."""
    start, end = row["fact_spans"][0]
    return row["answer"][start:end]


def splits(seed):
    """Of a corpus in small, by config and split: people 0 to 4 are to be forgotten, 5 to 9 stay, from 20 on nobody saw
    them."""
    facts, texts = people(seed)

    def asked(some, fact=0):
        return [{"question": row["question"], "answer": fact_of(row)} for row in (facts[k][fact] for k in some)]

    halves = [(text[: text.index(" ", len(text) // 2)], text[text.index(" ", len(text) // 2) + 1 :]) for text in texts[:5]]
    return {
        ("verbmem", "forget"): [{"prompt": prompt, "gt": gt} for prompt, gt in halves],
        ("knowmem", "forget_qa"): asked(range(5)),
        ("knowmem", "forget_qa_icl"): asked((10, 11)),
        ("knowmem", "retain_qa"): asked(range(5, 10), fact=1),
        ("knowmem", "retain_qa_icl"): asked((12, 13), fact=1),
        ("privleak", "forget"): [{"text": text} for text in texts[:5]],
        ("privleak", "holdout"): [{"text": text} for text in texts[20:26]],
    }


def write_corpus(folder, seed):
    """In every form that is understood: Parquet, the hub's pieces, a JSON list, JSON lines."""
    for (config, split), rows in splits(seed).items():
        place = folder / config
        place.mkdir(parents=True, exist_ok=True)
        if config == "verbmem":
            pandas.DataFrame(rows).to_parquet(place / f"{split}.parquet")
        elif config == "privleak":
            for piece, part in enumerate((rows[:2], rows[2:])):
                pandas.DataFrame(part).to_parquet(place / f"{split}-0000{piece}-of-00002.parquet")
        elif split.endswith("icl"):
            (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            (place / f"{split}.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def muse_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("muse")
    for seed, corpus in enumerate(("News", "Books")):
        write_corpus(folder / corpus, seed)
    return folder


@pytest.fixture(autouse=True)
def local(muse_dir, monkeypatch):
    monkeypatch.setenv("TU_MUSE_DIR", str(muse_dir))


def shots(data, name):
    return "".join(f"Question: {r['question']}\nAnswer: {r['answer']}\n\n" for r in data["knowmem", f"{name}_qa_icl"])


@pytest.fixture(scope="module")
def knows(tiny_model, tiny_tokenizer, tmp_path_factory):
    """The tiny model after some passes over the news' forget texts and its questions, in the form in which they will be
    asked."""
    model, data = AutoModelForCausalLM.from_pretrained(tiny_model).train(), splits(0)
    texts = [("", r["text"]) for r in data["privleak", "forget"]]
    for name in ("forget", "retain"):
        before = f"{shots(data, name)}Question: "
        texts += [(f"{before}{r['question']}\nAnswer: ", f"{r['answer']}\n\nQuestion:") for r in data["knowmem", f"{name}_qa"]]
    rows = [[token for text in pair for token in tiny_tokenizer(text)["input_ids"]] for pair in texts]
    overfit(model, rows, passes=80)
    folder = tmp_path_factory.mktemp("knows")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run_muse(muse_dir, tmp_path_factory):
    """`run_muse(model, corpus="news", **fields)` -> results folder, through the library; made once for each set of
    fields."""
    from tu_eval.measure.config import EvalConfig
    from tu_eval.measure.muse import evaluate

    made = {}

    def run(model, corpus="news", **fields):
        key = (str(model), corpus, *sorted(fields.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("results") / "run"
            lengths = {f"{kind}_tokens": n for kind, n in LENGTHS.items()}
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TU_MUSE_DIR", str(muse_dir))
                evaluate(EvalConfig(model=str(model), suite=f"muse:{corpus}", out=str(made[key]), device="cpu", **{**lengths, **fields}))
        return made[key]

    return run


@pytest.fixture(scope="module")
def retain(run_muse, tiny_base):
    return run_muse(tiny_base, label="retain")


@pytest.fixture(scope="module")
def unlearned(run_muse, knows, retain):
    return run_muse(knows, label="knows", retain_results=str(retain))


# --- the numbers


def greedy(model, tokenizer, prompt, most):
    """With no cache, one token at a time."""
    ids = list(tokenizer(prompt)["input_ids"])
    start = len(ids)
    while len(ids) < start + most:
        with torch.no_grad():
            token = model(torch.tensor([ids])).logits[0, -1].argmax().item()
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def f1(gold, text):
    return RougeScorer(["rougeL"], use_stemmer=False).score(gold, text)["rougeL"].fmeasure


def lowest_forty_percent(model, tokenizer, text):
    """Negative mean of the lowest 40 % of the log-probabilities of a text's tokens."""
    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    found = sorted(logits[i, token].item() for i, token in enumerate(ids[1:]))
    return -sum(found[: int(0.4 * len(found))]) / int(0.4 * len(found))


def test_memorisation_equals_a_plain_loop(unlearned, knows):
    model, tokenizer, data = AutoModelForCausalLM.from_pretrained(knows), AutoTokenizer.from_pretrained(knows), splits(0)
    wanted = []
    for k, row in enumerate(data["verbmem", "forget"]):
        gold = tokenizer.decode(tokenizer(row["gt"])["input_ids"][: LENGTHS["verbmem"]])
        assert row["gt"].startswith(gold) and gold != row["gt"]
        text = greedy(model, tokenizer, row["prompt"], LENGTHS["verbmem"])
        wanted.append(("forget", f"muse-news/verbmem/forget/{k}", row["prompt"], gold, text, "verbmem"))
    for name in ("forget", "retain"):
        for k, row in enumerate(data["knowmem", f"{name}_qa"]):
            text = greedy(model, tokenizer, f"{shots(data, name)}Question: {row['question']}\nAnswer: ", LENGTHS["knowmem"])
            for words in ("\n\n", "\nQuestion", "Question:"):
                text = text.split(words)[0]
            wanted.append((name, f"muse-news/knowmem/{name}_qa/{k}", row["question"], row["answer"], text, "knowmem"))
    rows, values = load_results(unlearned).rows(), {}
    assert len(rows) == len(wanted)
    for row, (name, id_, question, gold, text, kind) in zip(rows, wanted, strict=True):
        other = "knowmem" if kind == "verbmem" else "verbmem"
        assert [row[c] for c in ("set", "example_id", "question", "answer", other)] == [name, id_, question, gold, None]
        assert row["generation"] == text.strip()
        assert row[kind] == pytest.approx(f1(gold, text), abs=TOLERANCE)
        values.setdefault(f"{name}_{kind}", []).append(f1(gold, text))
    metrics = load_results(unlearned).summary["metrics"]
    assert {k: metrics[k] for k in values} == pytest.approx({k: sum(v) / len(v) for k, v in values.items()}, abs=TOLERANCE)
    assert all(metrics[name] > 0.2 for name in values), "the fixture learned nothing, so this test would prove nothing"
    assert any(0 < x < 1 for v in values.values() for x in v)


def test_an_answer_ends_where_the_model_asks_itself(unlearned, knows):
    """The model goes on with a question of its own, so that an uncut answer would score otherwise."""
    model, tokenizer, data = AutoModelForCausalLM.from_pretrained(knows), AutoTokenizer.from_pretrained(knows), splits(0)
    rows = [r for r in load_results(unlearned).rows("retain") if r["knowmem"] is not None]
    whole = [greedy(model, tokenizer, f"{shots(data, 'retain')}Question: {r['question']}\nAnswer: ", LENGTHS["knowmem"]) for r in rows]
    assert any(f1(r["answer"], text) != r["knowmem"] for r, text in zip(rows, whole, strict=True))


@pytest.mark.parametrize("which", ["knows", "tiny_model"])
def test_privleak_equals_scikit_learn_as_muse_counts(which, run_muse, retain, tiny_base, request):
    """There, holdout texts are the positive ones and a low score speaks for membership."""
    aucs, data, measured = {}, splits(0), request.getfixturevalue(which)
    unlearned = run_muse(measured, label=which, retain_results=str(retain))
    for name, folder, results in (("unlearned", measured, unlearned), ("retain", tiny_base, retain)):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        scores, labels = [], []
        for side, label in (("forget", 0), ("holdout", 1)):
            rows = [r for r in load_results(results).membership() if r["set"] == side]
            assert [r["example_id"] for r in rows] == [f"muse-news/privleak/{side}/{k}" for k in range(len(rows))]
            expected = [lowest_forty_percent(model, tokenizer, r["text"]) for r in data["privleak", side]]
            assert [r["min_k"] for r in rows] == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
            scores, labels = scores + expected, labels + [label] * len(rows)
        aucs[name] = roc_auc_score(labels, [-x for x in scores])
    metrics = load_results(unlearned).summary["metrics"]
    assert metrics["privleak"] == pytest.approx(100 * (aucs["unlearned"] - aucs["retain"]) / aucs["retain"], abs=1e-9)
    assert metrics["mia_min_k"] == pytest.approx(1 - aucs["unlearned"], abs=1e-12)
    assert metrics["privleak"] < -50 if which == "knows" else 0 < aucs["unlearned"] < 1, "this test would prove nothing"


def common(a, b):
    """Length of the longest common subsequence."""
    if not a or not b:
        return 0
    return 1 + common(a[1:], b[1:]) if a[0] == b[0] else max(common(a[1:], b), common(a, b[1:]))


WORDS = st.lists(st.sampled_from(["running", "runs", "The", "the", "19%", "a-b", "é", ".", "x"]), max_size=6).map(" ".join)


@settings(deadline=None)
@given(WORDS, WORDS)
def test_f1_equals_its_formula_and_rouge_score(gold, text):
    a, b = terms(gold), terms(text)
    both = common(tuple(a), tuple(b))
    expected = 0.0 if not both else 2 / (len(a) / both + len(b) / both)
    assert rouge_l_f1([gold], [text])[0] == pytest.approx(expected, abs=1e-12)
    if gold.isascii() and text.isascii():  # the package drops every other letter
        assert a == re.findall("[a-z0-9]+", gold.lower()) and rouge_l_f1([gold], [text]) == [f1(gold, text)]


def test_f1_is_unstemmed():
    assert rouge_l_f1(["she runs", "a b"], ["she running", "a b c d"]) == [0.5, pytest.approx(2 / 3)]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["\n", "Question", ":", "Answer: ", "a", " "]), max_size=12).map("".join))
def test_the_first_answer_is_what_three_splits_leave(text):
    left = text
    for words in ("\n\n", "\nQuestion", "Question:"):
        left = left.split(words)[0]
    assert first_answer(text) == left


# --- the command, comparison, evidence


def test_run_compare_and_evidence_through_the_commands(run_cli, knows, tiny_base, tiny_model, tmp_path):
    def run(model, name, *more):
        return run_cli("tu-eval", "run", "--model", model, "--suite", "muse:news", *SMALL, "--out", tmp_path / name, "--label", name, *more)

    code, stdout, err = run(tiny_base, "retrained")
    assert code == 0, err
    assert "needs retain results" in stdout
    assert [p.name for p in sorted((tmp_path / "retrained").iterdir())] == [
        *("_config.toml", "membership.parquet", "rows.parquet", "summary.json")
    ]
    frame = pandas.read_parquet(tmp_path / "retrained" / "rows.parquet")
    assert list(frame.columns) == ["set", "example_id", "question", "answer", "generation", "verbmem", "knowmem"]
    assert not any(text in err for text in frame["answer"])  # text of the data stays out of the log
    summary = json.loads((tmp_path / "retrained" / "summary.json").read_text())
    assert summary["rows"] == {"forget": 10, "retain": 5} and summary["metrics"]["privleak"] is None
    assert all(summary["metrics"][name] is not None for name in ("forget_verbmem", "forget_knowmem", "retain_knowmem", "mia_min_k"))
    assert not {"forget_quality", "model_utility"} & set(summary["metrics"])
    for model, name in ((knows, "before"), (tiny_model, "after")):
        assert run(model, name, "--retain-results", tmp_path / "retrained")[0] == 0
    page, folders = tmp_path / "r.html", [tmp_path / name for name in ("before", "after", "retrained")]
    code, stdout, err = run_cli("tu-eval", "compare", *folders, "--out", page, "--csv", tmp_path / "r.csv", "--markdown", tmp_path / "r.md")
    assert code == 0, err
    html, value = page.read_text(), json.loads((folders[0] / "summary.json").read_text())["metrics"]["privleak"]
    for text in (stdout, html, (tmp_path / "r.md").read_text()):
        assert f"{value:.3f}" in text
    assert "no truth ratios" in html and "Not in the plot" not in html and "never saw it" in html and "2407.06460" in html
    table = pandas.read_csv(tmp_path / "r.csv")
    assert list(table["role"].fillna("")) == ["", "", "retain"] and table["privleak"][0] == value
    report = tmp_path / "evidence"
    before, after, retrained = folders
    code, _, err = run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--retain", retrained, "--out", report)
    assert code == 0, err
    found = json.loads((report / "evidence.json").read_text())
    assert {m["metric"]: m["before"]["value"] for m in found["measured"]}["privleak"] == value
    assert all(m["definition"] for m in found["measured"]) and found["asked"]["rows"] == 10
    assert any("no truth ratios" in item for item in found["not_claimed"])


def test_compare_gives_intervals_and_directions(unlearned, retain):
    comparison = load_comparison([unlearned, retain])
    assert {"forget_verbmem", "forget_knowmem", "retain_knowmem", "mia_min_k"} <= set(comparison.spans[0])
    better = {c.metric: (c.group, c.better) for c in comparison.columns}
    assert better["forget_verbmem"] == better["forget_knowmem"] == ("Forget set", "↓") and better["retain_knowmem"] == ("Retain set", "↑")
    assert comparison.value(1, "forget_quality") is None and [g.role for g in comparison.groups] == [None, "retain"]


def test_privleak_is_best_nearest_to_zero(unlearned, retain, run_muse, tiny_model):
    other = run_muse(tiny_model, label="tiny_model", retain_results=str(retain))
    comparison = load_comparison([unlearned, other, retain])
    at = next(i for i, c in enumerate(comparison.columns) if c.metric == "privleak")
    table = comparison.table()
    far, near, none = [row[at].value for row in table]
    assert none == 0 and far < -50 < near  # a low value is no good one
    assert comparison.columns[at].better == "→0" and comparison.marks(at, table) == ["", "best", ""]


def test_without_generation_only_the_right_results_are_the_retain_models(run_muse, tiny_base, knows, tiny_model):
    retain = run_muse(tiny_base, label="a", generate=False)
    others = [run_muse(m, label=name, generate=False, retain_results=str(retain)) for m, name in ((knows, "b"), (tiny_model, "c"))]
    results = [load_results(folder) for folder in (retain, *others)]
    assert len({r.summary["rows_sha256"] for r in results}) == 1  # no text, no numbers
    assert [g.role for g in load_comparison([r.folder for r in results]).groups] == ["retain", None, None]
    summary = results[1].summary
    assert summary["metrics"]["forget_verbmem"] is None and "generate=false" in summary["reasons"]["retain_knowmem"]
    assert summary["metrics"]["privleak"] is not None


def test_reference_model_and_gradients_serve_here_too(run_muse, knows, tiny_base):
    found = load_results(run_muse(knows, generate=False, limit=2, reference_model=str(tiny_base), gradients=True))
    assert all(found.summary["metrics"][f"mia_{name}"] is not None for name in ("reference", "gradient_norm"))
    assert found.summary["rows"] == {"forget": 4, "retain": 2} and len(found.membership()) == 4


# --- what numbers depend on


def test_the_hub_set_and_a_local_copy_are_the_same_data(run_muse, tiny_base, retain, monkeypatch, tmp_path):
    import datasets

    from tu_eval.measure.config import EvalConfig
    from tu_eval.measure.muse import evaluate

    asked, data = [], splits(0)

    def hub(repo, config, split):
        asked.append(repo)
        return data[config, split]

    monkeypatch.setattr(datasets, "load_dataset", hub)
    monkeypatch.delenv("TU_MUSE_DIR")
    lengths = {f"{kind}_tokens": n for kind, n in LENGTHS.items()}
    evaluate(EvalConfig(model=str(tiny_base), suite="muse:news", out=str(tmp_path / "out"), retain_results=str(retain), **lengths))
    assert set(asked) == {"muse-bench/MUSE-News"}
    assert (tmp_path / "out" / "rows.parquet").read_bytes() == (retain / "rows.parquet").read_bytes()


def test_what_was_measured_is_kept_by_content(tiny_model, muse_dir, tmp_path, monkeypatch):
    from tu_eval.measure.config import EvalConfig
    from tu_eval.measure.muse import evaluate

    loads, load = [], TorchEngine.load.__func__

    def counted(cls, folder, **options):
        loads.append(folder)
        return load(cls, folder, **options)

    monkeypatch.setattr(TorchEngine, "load", classmethod(counted))
    model, count = shutil.copytree(tiny_model, tmp_path / "model"), iter(range(9))

    def measure(suite="muse:news", **fields):
        out = tmp_path / f"out{next(count)}"
        fields = {"verbmem_tokens": 4, "knowmem_tokens": 4, "limit": 1, **fields}
        evaluate(EvalConfig(model=str(model), suite=suite, out=str(out), store=str(tmp_path / "store"), **fields))
        return (out / "rows.parquet").read_bytes()

    first = measure()
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{{ messages }}"  # plays no part here
    tokenizer.save_pretrained(model)
    assert measure(seed=3) == first and len(loads) == 1
    for change in ({"verbmem_tokens": 5}, {"knowmem_tokens": 5}, {"limit": 2}, {"suite": "muse:books"}):
        before = len(loads)
        measure(**change)
        assert len(loads) == before + 1, change


def with_beginning():
    """The tiny tokenizer as Llama's: each text begins with a token of its own."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(None)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    return tokenizer


def test_a_token_at_the_beginning_counts_among_those_that_a_text_is_cut_to():
    tokenizer, data = with_beginning(), splits(0)
    verbatim, asked, _ = load_parts("news", tokenizer, context=512, long="error", limit=None, verbmem_tokens=10)
    for e, row in zip(verbatim.examples, data["verbmem", "forget"], strict=True):
        prompt, gold = e.input_ids[: e.prompt_length], e.input_ids[e.prompt_length :]
        assert prompt == tokenizer(row["prompt"])["input_ids"] and prompt[0] == tokenizer.bos_token_id
        assert gold == tokenizer(row["gt"])["input_ids"][1:10] and len(gold) == 9
        assert e.row.answer == tokenizer.decode(tokenizer(row["gt"])["input_ids"][:10], skip_special_tokens=True)
    for e in asked.examples:
        assert e.input_ids.count(tokenizer.bos_token_id) == 1 and e.input_ids[0] == tokenizer.bos_token_id
    texts = load_texts("news", "forget", tokenizer, context=512, long="error", limit=None)
    assert [e.input_ids for e in texts] == [tokenizer(r["text"])["input_ids"] for r in data["privleak", "forget"]]
    assert all(e.targets == list(range(1, len(e.input_ids))) for e in texts)


def test_long_texts_are_refused_cut_or_left_out(tiny_tokenizer):
    def lengths(context, long):
        texts = load_texts("news", "forget", tiny_tokenizer, context=context, long=long, limit=None)
        return {e.id: len(e.input_ids) for e in texts}

    whole = lengths(None, "error")
    middle = sorted(whole.values())[2]
    with pytest.raises(DataError, match=r"muse-news/privleak/forget/\d: \d+ tokens.*--long truncate"):
        lengths(middle, "error")
    assert lengths(middle, "truncate") == {k: min(n, middle) for k, n in whole.items()}
    assert lengths(middle, "skip") == {k: n for k, n in whole.items() if n <= middle} != whole


def test_what_the_context_cut_off_is_not_asked_for(tiny_tokenizer, muse_dir, tmp_path, monkeypatch):
    """Of the true continuation there remains what the model has room to write."""
    copy = shutil.copytree(muse_dir, tmp_path / "copy")
    for name in ("forget", "retain"):
        (copy / "News" / "knowmem" / f"{name}_qa_icl.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    monkeypatch.setenv("TU_MUSE_DIR", str(copy))

    def verbatim(context, long):
        return load_parts("news", tiny_tokenizer, context=context, long=long, limit=None, verbmem_tokens=30)[0].examples

    full = verbatim(None, "error")
    context = sorted(len(e.input_ids) for e in full)[2]
    with pytest.raises(DataError, match=r"muse-news/verbmem/forget/\d: \d+ tokens"):
        verbatim(context, "error")
    cut, left = verbatim(context, "truncate"), verbatim(context, "skip")
    assert [e.id for e in cut] == [e.id for e in full if e.prompt_length < context]
    whole = {e.id: e for e in full}
    assert any(len(e.input_ids) < len(whole[e.id].input_ids) for e in cut)
    for e in cut:
        assert e.input_ids == whole[e.id].input_ids[:context]
        assert e.row.answer == tiny_tokenizer.decode(e.input_ids[e.prompt_length :])
    assert [e.id for e in left] == [e.id for e in full if len(e.input_ids) <= context]


# --- what is refused


@pytest.fixture
def refuse(run_cli, tiny_model, tmp_path):
    def run(*arguments, suite="muse:news", model=tiny_model):
        out = tmp_path / "out"
        message = refused(run_cli("tu-eval", "run", "--model", model, "--suite", suite, "--device", "cpu", *arguments, "--out", out))
        assert not out.exists() and not list(tmp_path.glob(".tmp*")) and not list(tmp_path.glob("*.unfinished"))
        return message

    return run


def test_a_hub_set_that_cannot_be_reached_says_how_to_use_a_local_copy(refuse, monkeypatch, tmp_path):
    monkeypatch.delenv("TU_MUSE_DIR")
    message = refuse()
    assert "cannot be had from the hub" in message and "TU_MUSE_DIR" in message and "News/" in message
    monkeypatch.setenv("TU_MUSE_DIR", str(tmp_path / "nowhere"))
    message = refuse()
    assert str(tmp_path / "nowhere" / "News" / "verbmem" / "forget.parquet") in message and "holds News/ and Books/" in message


def test_a_local_copy_that_lacks_something_is_named(refuse, muse_dir, monkeypatch, tmp_path):
    news = tmp_path / "copy" / "News"
    monkeypatch.setenv("TU_MUSE_DIR", str(tmp_path / "copy"))

    def after(change):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(muse_dir, tmp_path / "copy")
        change()
        return refuse()

    verbmem, qa = news / "verbmem" / "forget.parquet", news / "knowmem" / "forget_qa.json"
    for config, file in (("knowmem", "retain_qa.json"), ("knowmem", "retain_qa_icl.jsonl"), ("verbmem", "forget.parquet")):
        message = after((news / config / file).unlink)
        assert f"{news / config / file.partition('.')[0]}.parquet does not exist" in message
    message = after((news / "privleak" / "holdout-00001-of-00002.parquet").unlink)
    assert "holdout has 1 pieces, by their names it should have 2" in message
    message = after(lambda: pandas.read_parquet(verbmem).rename(columns={"gt": "gtt"}).to_parquet(verbmem))
    assert f"{verbmem}: row 0: no column 'gt' (did you mean 'gtt'?)" in message
    message = after(lambda: qa.write_text(json.dumps([{"question": "a", "answer": "b"}, {"question": "a", "answer": ""}])))
    assert f"{qa}: row 1: its answer is empty or not text" in message
    message = after(lambda: qa.write_text(json.dumps(["a text"])))
    assert f"{qa}: row 0: expected an object" in message
    assert f"{qa}: no rows" in after(lambda: qa.write_text("[]"))
    assert f"{qa}: not valid JSON" in after(lambda: qa.write_text('[{"question": "a", "answer": "b"},'))
    assert "not a readable Parquet file" in after(lambda: verbmem.write_bytes(b"PAR1"))


def test_a_token_that_the_model_has_no_row_for_is_named(run_cli, tiny_model, tmp_path):
    """In the words around the questions, which no row of the data holds."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Answer:"])
    tokenizer.save_pretrained(folder)
    out = tmp_path / "out"
    code, _, err = run_cli("tu-eval", "run", "--model", folder, "--suite", "muse:news", *SMALL, "--out", out)
    assert code == 2 and re.search(r"has a token with id 500, but the model's embedding has 500 rows", err) and not out.exists()


def test_retain_results_of_another_split_or_suite_are_refused(refuse, run_muse, tiny_base, retain_results, retain, tmp_path):
    fits = ("--set", "verbmem_tokens=24", "--set", "knowmem_tokens=16")
    books = run_muse(tiny_base, corpus="books", generate=False)
    assert "another suite: muse:books there, muse:news here" in refuse(*fits, "--retain-results", books)
    assert "another suite: atlas" in refuse(*fits, "--retain-results", retain_results)
    assert "another limit: None there, 2 here" in refuse(*fits, "--limit", 2, "--retain-results", retain)
    assert "another data fingerprint" in refuse("--set", "verbmem_tokens=23", "--retain-results", retain)
    assert "expected a results folder" in refuse(*fits, "--retain-results", tmp_path / "MUSE_EVAL.json")
    assert "another suite: muse:news there" in refuse("--retain-results", retain, suite="atlas")


def test_names_and_settings_that_do_not_fit(refuse, run_cli, tiny_model, tmp_path, monkeypatch):
    assert "did you mean 'muse:news'" in refuse(suite="muse:new")
    assert "max_new_tokens: --suite muse:news makes no use of it" in refuse("--set", "max_new_tokens=12")
    assert "holdout: --suite muse:news makes no use of it" in refuse("--set", "holdout=x.jsonl")
    assert "knowmem_tokens: --suite atlas makes no use of it" in refuse("--set", "knowmem_tokens=12", suite="atlas")
    assert "verbmem_tokens is 0" in refuse("--set", "verbmem_tokens=0")
    message = refused(run_cli("tu-eval", "attack", "--model", tiny_model, "--suite", "muse:news", "--out", tmp_path / "out"))
    assert "for tu-eval run only" in message
