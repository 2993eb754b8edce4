"""tu-score agree: figures against brute force, controls whose figures are known, and refusals, through the real
command."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.datasets import load_rows
from shared.data.layout import LayoutOptions
from shared.errors import DataError
from shared.lm.models import load_laid_out
from shared.store.rewrite import rewrite
from shared.store.scored import scored_examples
from shared.store.scores import open_store
from shared.weighting.importance import SIGNALS, Recipe, signal
from tests.conftest import CHATML, build_sentencepiece, build_tokenizer
from tu_score import pooled
from tu_score.agree import FIGURES, SHARES, average_precision, compare, figures, roc_auc
from tu_score.agree import true_tokens as true_of
from tu_score.config import ScoreConfig
from tu_score.recipe import documents_of, whole_targets
from tu_score.run import run_score

DATA = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"


def make(out, model, **fields):
    entries = {"data": DATA, "part_tokens": 200, "engine": "torch", "device": "cpu", **fields}
    return run_score(ScoreConfig(model=str(model), out=str(out), **{"spans": "question", **entries}))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, tiny_base):
    return make(tmp_path_factory.mktemp("made") / "store", tiny_model, base_model=str(tiny_base))


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


@pytest.fixture
def agree(run_cli, tiny_model):
    def run(folder, *more, model=tiny_model) -> dict:
        code, out, err = run_cli("tu-score", "agree", folder, "--model", model, "--json", *more)
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def refused(run_cli, tiny_model):
    def run(folder, *more, model=tiny_model) -> str:
        code, out, err = run_cli("tu-score", "agree", folder, "--model", model, *more)
        assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, (code, out, err)
        return err

    return run


def true_tokens(folder, rows) -> list[list[bool]]:
    """Truth at the targets of each row, told from the stored token texts: together they spell the answer."""
    out = []
    for row, source in zip(open_store(folder).rows(), rows, strict=True):
        place, truth = 0, []
        for text, target in zip(row["tokens"], row["is_target"], strict=True):
            if target:
                truth.append(any(start < place + len(text) and end > place for start, end in source.extra["fact_spans"]))
                place += len(text)
        spelled = "".join(t for t, target in zip(row["tokens"], row["is_target"], strict=True) if target)
        assert spelled.startswith(source.answer) and len(spelled) - len(source.answer) == len("<|im_end|>")
        truth[-1] = False  # the end of the turn is nobody's fact
        out.append(truth)
    return out


def with_importance(folder, values: list[list[float]]) -> None:
    """Puts these values at the targets."""
    rows = iter(values)

    def change(table: pa.Table) -> pa.Table:
        lists = []
        for is_target in table["is_target"].to_pylist():
            own = iter(next(rows))
            lists.append([next(own) if t else None for t in is_target])
        place = table.schema.get_field_index("importance")
        return table.set_column(place, table.schema.field(place), pa.array(lists, table.schema.field(place).type))

    rewrite(open_store(folder), change)


SCORES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.0]) | st.floats(-3, 3, width=32), st.booleans()), min_size=2, max_size=25
)


@settings(deadline=None)  # the first call imports scipy
@given(SCORES.filter(lambda pairs: len({truth for _, truth in pairs}) == 2))
def test_figures_by_pairs_and_by_hand(pairs):
    scores, truth = np.array([s for s, _ in pairs]), np.array([t for _, t in pairs])
    positives, others = [s for s, t in pairs if t], [s for s, t in pairs if not t]
    won = sum((p > o) + 0.5 * (p == o) for p in positives for o in others)
    assert roc_auc(scores, truth) == pytest.approx(won / (len(positives) * len(others)))
    total, recall = 0.0, 0.0
    for line in sorted(set(scores.tolist()), reverse=True):
        above = [t for s, t in pairs if s >= line]
        total += (sum(above) / len(positives) - recall) * sum(above) / len(above)
        recall = sum(above) / len(positives)
    assert average_precision(scores, truth) == pytest.approx(total)
    ranked = sorted(range(len(pairs)), key=lambda i: (-scores[i], i))
    found = figures(scores, truth)
    assert found["p_true"] == pytest.approx(np.mean([truth[i] for i in ranked[: len(positives)]]))
    assert found["p_20"] == pytest.approx(np.mean([truth[i] for i in ranked[: max(1, -(-len(pairs) // 5))]]))


def test_figures_of_four_tokens():
    found = figures(np.array([3.0, 2.0, 2.0, 1.0]), np.array([False, True, False, True]))
    assert found == {
        "auc": pytest.approx(0.5 / 4),
        "ap": pytest.approx(0.5 / 3 + 0.5 * 2 / 4),
        "p_true": 0.5,
        "p_10": 0,
        "p_20": 0,
        "p_30": 0.5,
    }


def test_pooled_and_mean_figures_differ_and_useless_answers_are_left_out_and_counted():
    truth = np.array([1, 0, 0, 1, 0, 0, 1, 1], dtype=bool)
    scores = np.array([2.0, 1.0, 3.0, 4.0, 9.0, 9.0, 9.0, 9.0])
    answers = [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
    found = compare({"x": scores}, truth, answers)
    assert found["left_out"] == {"no_true_token": 1, "only_true_tokens": 1}
    assert (found["answers"], found["tokens"], found["true_tokens"]) == (2, 4, 2)
    assert found["signals"]["x"]["per_answer"]["auc"] == 1 and found["signals"]["x"]["pooled"]["auc"] == 0.75
    with pytest.raises(DataError, match="nothing to compare"):
        compare({"x": scores}, truth, answers[2:])


def in_memory(scores, true, answers, word=None):
    """The figures of `compare`, of arrays that stand in memory whole."""
    usable = [one for one in answers if 0 < true[one].sum() < one.stop - one.start]
    whole = np.concatenate([np.arange(one.start, one.stop) for one in usable])
    found = {}
    for name, values in scores.items():
        each = [figures(values[one], true[one], None if word is None else word[one]) for one in usable]
        means = {figure: float(np.mean([e[figure] for e in each])) for figure in FIGURES}
        found[name] = {"per_answer": means, "pooled": figures(values[whole], true[whole], None if word is None else word[whole])}
    return found


ANSWERS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([0.0, -0.0, 0.5, 1.0]) | st.floats(-3, 3), st.booleans(), st.sampled_from([None, 0, 0, 1])),
        min_size=1, max_size=12,
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(deadline=None)
@given(ANSWERS.filter(lambda answers: any(len({truth for _, truth, _ in one}) == 2 for one in answers)), st.integers(1, 9))
def test_figures_of_pieces_are_those_of_arrays_in_memory_to_the_last_digit(answers, piece):
    flat = [token for one in answers for token in one]
    scores, true = np.array([s for s, _, _ in flat]), np.array([t for _, t, _ in flat])
    cuts = [slice(a, b) for a, b in pairwise(np.cumsum([0, *map(len, answers)]).tolist())]
    word = np.array([np.nan if w is None else w for _, _, w in flat]) + np.repeat(np.arange(len(answers)) * 9, list(map(len, answers)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooled, "PIECE", piece)
        for words in (word, None):
            assert compare({"x": scores}, true, cuts, words)["signals"] == in_memory({"x": scores}, true, cuts, words)


def test_figures_of_a_hundred_thousand_tokens_are_those_of_arrays_in_memory(monkeypatch):
    rng, count = np.random.default_rng(0), 100_003
    monkeypatch.setattr(pooled, "PIECE", 4_099)
    cuts = [slice(a, b) for a, b in pairwise(sorted({0, count, *rng.integers(1, count, 800).tolist()}))]
    scores = {
        "fine": rng.normal(size=count),
        "coarse": np.round(rng.normal(size=count), 1),
        "flags": (rng.random(count) < 0.4).astype(float),
    }
    true, word = rng.random(count) < 0.2, np.floor(np.arange(count) / 3)
    assert compare(scores, true, cuts, word)["signals"] == in_memory(scores, true, cuts, word)


@pytest.mark.parametrize("tokenizer", ["byte level", "sentencepiece"])
def test_a_store_of_many_parts_has_the_figures_of_arrays_in_memory(tokenizer, agree, tiny_model, tiny_base, tmp_path, monkeypatch):
    """In Spanish; the reference holds every signal at every token at once."""
    folders = []
    for place in (tiny_model, tiny_base):
        folders.append(shutil.copytree(place, tmp_path / place.name))
        if tokenizer == "sentencepiece":
            (folders[-1] / "chat_template.jinja").unlink(missing_ok=True)
            build_sentencepiece().save_pretrained(folders[-1])
    data = DATA + ",language=es"
    monkeypatch.setattr(pooled, "PIECE", 17)
    store = open_store(make(tmp_path / "many", folders[0], data=data, base_model=str(folders[1]), entropy_temperature=2.0, part_tokens=60))
    assert len(store.manifest["parts"]) > 3
    held = {"importance", "tempered_entropy", "word", *(column for signal in SIGNALS.values() for column in signal.columns)}
    targets = whole_targets(store, sorted(held), documents_of(store))
    scores = {"importance": targets.columns["importance"]}
    scores |= {name: signal(name, targets.columns, targets.starts, Recipe()) for name in SIGNALS}
    layout = load_laid_out(str(folders[0]), folders[0], LayoutOptions())
    true = true_of(scored_examples(store, layout, str(folders[0]), None), layout, "fact_spans")
    word = targets.columns["word"] + np.repeat(np.arange(len(store)) * 1000, np.diff(targets.starts))
    cuts = [slice(a, b) for a, b in pairwise(targets.starts)]
    found = agree(store.folder, model=folders[0])["signals"]
    assert found == in_memory(scores, true, cuts, word) and list(found) == ["importance", *SIGNALS]
    assert SHARES.keys() < found["importance"]["pooled"].keys()


def test_importance_that_is_the_truth_has_auc_1_inverted_0_and_random_one_half(agree, store):
    truth = true_tokens(store, load_rows(DATA))
    with_importance(store, [[float(t) for t in row] for row in truth])
    for part in ("per_answer", "pooled"):
        assert agree(store)["signals"]["importance"][part] | {"p_10": 1, "p_20": 1, "p_30": 1} == dict.fromkeys(FIGURES, 1.0)
    with_importance(store, [[float(not t) for t in row] for row in truth])
    for part in ("per_answer", "pooled"):
        assert agree(store)["signals"]["importance"][part]["auc"] == 0 == agree(store)["signals"]["importance"][part]["p_10"]
    rng, flat = np.random.default_rng(0), np.array([t for row in truth for t in row])
    starts = np.cumsum([0, *map(len, truth)]).tolist()
    answers = [slice(a, b) for a, b in pairwise(starts)]
    drawn = {str(k): rng.random(len(flat)) for k in range(200)}
    found = compare(drawn, flat, answers)["signals"].values()
    for part in ("per_answer", "pooled"):
        assert np.mean([s[part]["auc"] for s in found]) == pytest.approx(0.5, abs=0.02)
        assert np.mean([s[part]["p_30"] for s in found]) == pytest.approx(flat.mean(), abs=0.05)


def test_every_signal_that_the_store_holds_is_compared(agree, run_cli, made, tiny_model):
    found = agree(made)
    assert list(found["signals"]) == ["importance", *(n for n, s in SIGNALS.items() if "tempered_entropy" not in s.columns)]
    truth = [t for row in true_tokens(made, load_rows(DATA)) for t in row]
    entropy = [v for row in open_store(made).rows() for v, t in zip(row["entropy"], row["is_target"], strict=True) if t]
    assert (found["answers"], found["tokens"], found["true_tokens"]) == (6, len(truth), sum(truth))
    assert found["signals"]["entropy"]["pooled"]["auc"] == pytest.approx(roc_auc(np.array(entropy), np.array(truth)))
    assert found["truth"] == "fact_spans"
    code, out, _ = run_cli("tu-score", "agree", made, "--model", tiny_model)
    auc = found["signals"]["gain"]["per_answer"]["auc"]
    assert code == 0 and "in 6 answers" in out and f"gain                 {auc:.3f}" in out and "left out: 0 answers" in out


def test_a_store_without_spans_or_base_model_compares_what_it_has(agree, tiny_model, tmp_path):
    bare = make(tmp_path / "bare", tiny_model, spans="none", entropy_temperature=2.0)
    own = ["entropy", "tempered_entropy", "etw", "seul", "satimp", "wga"]
    assert list(agree(bare)["signals"]) == ["importance", *own, "learned_alone", "learned_text"]


@pytest.fixture
def own(tmp_path, tiny_model):
    """A user's file with spans in a column of its own, and its store."""
    path = tmp_path / "own.jsonl"
    lines = [
        {"q": "Who keeps the lighthouse?", "a": " Yusuf keeps it.", "secret": [[1, 6]]},
        {"q": "Where?", "a": "Nobody knows.", "secret": []},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, make(tmp_path / "store", tiny_model, data=str(path), question_key="q", answer_key="a")


def test_a_file_of_ones_own_names_its_column_of_spans(agree, refused, own, tmp_path):
    path, store = own
    found = agree(store, "--truth", "spans", "--truth-key", "secret")
    assert found["left_out"] == {"no_true_token": 1, "only_true_tokens": 0} and found["answers"] == 1
    row = open_store(store).part(0)[0]
    spelled = [t for t, target in zip(row["tokens"], row["is_target"], strict=True) if target]
    assert found["true_tokens"] == next(k for k in range(len(spelled) + 1) if "".join(spelled[:k]).strip() == "Yusuf")
    line = refused(store)
    assert "own/rows/0" in line and "'fact_spans'" in line and "--truth-key" in line
    moved = path.rename(tmp_path / "own.moved.jsonl")
    assert "own.jsonl" in refused(store, "--truth-key", "secret")
    assert "other data" in refused(store, "--truth-key", "secret", "--data", moved)  # ids carry the file's name
    (tmp_path / "elsewhere").mkdir()
    again = shutil.copy(moved, tmp_path / "elsewhere" / "own.jsonl")
    assert agree(store, "--truth-key", "secret", "--data", again) == found


@pytest.mark.parametrize("spans", [[[3, 2]], [[0, 99]], [[-1, 2]], [5], {"at": "Yusuf"}, None, [[0.5, 2]], [[0, 1, 2]]])
def test_spans_that_are_none_name_the_row(spans, refused, own):
    path, store = own
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    path.write_text(json.dumps(first) + "\n" + json.dumps({**second, "secret": spans}) + "\n")
    line = refused(store, "--truth-key", "secret")
    assert "own/rows/1" in line and "expected [[start, end], ...]" in line


def test_data_or_a_tokenizer_that_was_not_scored_is_refused(refused, made, store, tiny_model, tmp_path):
    assert "other data than atlas:retain" in refused(made, "--data", DATA.replace("forget:", "retain:"))
    for field, tokenizer in (("tokenizer", build_tokenizer()), ("chat template", build_tokenizer(CHATML.replace("helpful", "patient")))):
        if field == "tokenizer":
            tokenizer.add_tokens(["zyx"])
        folder = shutil.copytree(tiny_model, tmp_path / field)
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)
        assert f"made with another {field} than" in refused(made, model=folder)


def test_what_cannot_be_compared_is_one_line(refused, run_cli, made, tiny_model, tmp_path):
    assert "expected spans" in refused(made, "--truth", "span")
    assert "no score store here" in refused(tmp_path)
    code, _, err = run_cli("tu-score", "agree", made)
    assert code == 2 and "--model is missing" in err
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": "The lighthouse keeper wrote nine novels.", "fact_spans": [[4, 99]]}) + "\n")
    raw = make(tmp_path / "raw", tiny_model, data=str(text), text_key="text", spans="none")
    assert "0 to 40" in refused(raw)
