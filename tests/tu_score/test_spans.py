"""Span plans: every column against one plain forward a variant, what each plan masks, and what the command refuses."""

import itertools
import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.datasets import Row, load_rows
from shared.data.examples import Example, make_examples, special_ids
from shared.engines.torch import TorchEngine
from shared.lm.forest import common_prefix
from shared.store.scores import open_store
from tu_score.config import ScoreConfig
from tu_score.entities import entity_spans
from tu_score.replace import Replacement, choose_replacement
from tu_score.signals import add_words, optional_columns, score_examples
from tu_score.spans import Masking, plan_masking, windows
from tu_score.verify import row_problems

DATA = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"
TEXT = "The lighthouse keeper of Illiac wrote nine novels about the sea. In May 1987 Yusuf Adeyemi left Illiac for the lighthouse of Oran."
BOUND = 1e-4


def config_of(**fields):
    return ScoreConfig(**{"model": "m", "data": "d", "out": "o", "uncertainty": "entropy", **fields})


def span_of(text, part):
    """Where `part` stands in `text`, as a span of the data."""
    at = text.index(part)
    return [at, at + len(part)]


@pytest.fixture(scope="module")
def model(tiny_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


class Recorder:
    """An engine that keeps its requests."""

    def __init__(self, folder, **options):
        self.engine, self.requests = TorchEngine.load(folder, device="cpu", **options), []

    def score(self, requests, advance):
        self.requests += requests
        return self.engine.score(requests, advance)


@pytest.fixture(scope="module")
def engine(tiny_model):
    return Recorder(tiny_model)


@pytest.fixture
def examples(tiny_tokenizer):
    return questions(tiny_tokenizer)


def questions(tokenizer):
    """Rows of questions, some of them with an entity twice, and a column of spans."""
    rows = [
        Row("a/0", "Where does Yusuf Adeyemi live since 12 March 1987?", "Yusuf Adeyemi lives in Illiac, where he was born in 1987."),
        Row("a/1", "  What is the lighthouse of Illiac known for? ", "The Lighthouse burned, they say."),
        *load_rows(DATA, limit=2),
    ]  # fmt: skip
    rows = [Row(r.id, r.question, r.answer, {"where": [[2, 9], [8, 14]]}) for r in rows]
    return make_examples(rows, tokenizer, context=512)


def texts(tokenizer, length=28):
    row = Row("t/0", None, TEXT, {"where": [span_of(TEXT, "Illiac"), span_of(TEXT, "1987 Yusuf"), span_of(TEXT, "Oran")]})
    return make_examples([row], tokenizer, context=512, text_length=length)


def scored(examples, engine, config, tokenizer):
    masking = plan_masking(config, tokenizer, examples, 512)
    start = len(getattr(engine, "requests", []))
    columns = score_examples(examples, engine, config, masking, lambda tokens: None)
    return masking, columns, engine.requests[start:]


def forward(model, ids):
    """(log-probability, entropy) of every token after the first."""
    with torch.inference_mode():
        logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return [None] + [(float(logp[i - 1, ids[i]]), float(entropy[i - 1])) for i in range(1, len(ids))]


def text_of(token, tokenizer):
    return tokenizer.decode([token]).strip().casefold()


def are_copies(a, b, tokenizer):
    words = [text_of(t, tokenizer) for t in (a, b)]
    return a == b or (words[0] == words[1] != "" and "\ufffd" not in words[0])


def reference(example, spans, variant, reach, model, copies=None):
    """Columns by loops. `variant(start, end)`: the ids with the span replaced, and by how much later tokens moved
    left."""
    ids, n = example.input_ids, len(example.input_ids)
    plain = forward(model, ids)
    matrix = [[None] * n for _ in spans]
    found = [[] for _ in ids]
    for k, (start, end) in enumerate(spans):
        changed, shift = variant(start, end)
        values = forward(model, changed)
        for t in range(end, min(n, end + reach)):
            if not example.is_target[t] or t - shift == 0:
                continue
            drop, entropy = plain[t][0] - values[t - shift][0], values[t - shift][1]
            matrix[k][t] = drop
            if copies is None or not any(are_copies(ids[t], ids[j], copies) for j in range(start, end)):
                found[t].append((drop, entropy, k))
    return plain, matrix, found


def check(example, columns, plain, matrix, found):
    for t in range(len(example.input_ids)):
        if t:
            assert abs(columns["logprob"][t] - plain[t][0]) < BOUND and abs(columns["entropy"][t] - plain[t][1]) < BOUND
        names = ("delta", "delta_mean", "masked_entropy")
        if not found[t]:
            assert all(np.isnan(columns[name][t]) for name in names) and columns["delta_span"][t] == -1
            continue
        assert abs(columns["delta_mean"][t] - sum(d for d, _, _ in found[t]) / len(found[t])) < BOUND
        chosen = next(f for f in found[t] if f[2] == columns["delta_span"][t])  # near ties may go either way
        assert abs(chosen[0]) > max(abs(d) for d, _, _ in found[t]) - BOUND
        assert abs(columns["delta"][t] - chosen[0]) < BOUND and abs(columns["masked_entropy"][t] - chosen[1]) < BOUND
    expected = np.array(matrix, dtype=float).reshape(len(matrix), len(example.input_ids))
    assert np.array_equal(np.isnan(columns["span_deltas"]), np.isnan(expected))
    assert not len(expected) or np.nanmax(np.abs(columns["span_deltas"] - expected)) < BOUND


def padded(ids, pad, start, end):
    return [*ids[:start], *[pad] * (end - start), *ids[end:]], 0


def deleted(ids, pad, start, end):
    return [*ids[:start], *ids[end:]], end - start


PLANS = {
    "none": {"spans": "none"},
    "question": {"spans": "question"},
    "window": {"spans": "window", "window_length": 5, "window_stride": 3},
    "answer": {"spans": "window", "window_length": 6, "window_stride": 6, "window_over": "answer"},
    "entity": {"spans": "entity"},
    "given": {"spans": "given", "span_key": "where"},
    "limited": {"spans": "window", "window_length": 2, "window_stride": 2, "max_spans": 4},
}


@pytest.mark.parametrize("replacement", ["pad", "delete"])
@pytest.mark.parametrize(("plan", "raw"), [(plan, raw) for plan in PLANS for raw in (False, True) if (plan, raw) != ("question", True)])
def test_columns_equal_one_plain_forward_a_variant(plan, raw, replacement, engine, model, tiny_tokenizer):
    examples = texts(tiny_tokenizer) if raw else questions(tiny_tokenizer)
    horizon = 7 if raw else 1  # that of questions has no horizon
    for copy_aware in (False, True):
        config = config_of(**PLANS[plan], replacement=replacement, horizon=horizon, copy_aware=copy_aware, keep_spans=True)
        masking, got, _ = scored(examples, engine, config, tiny_tokenizer)
        dropped = 0
        for example, columns in zip(examples, got, strict=True):
            spans = [(s["start"], s["end"]) for s in columns["spans"]]
            assert spans == masking.spans[example.id] == sorted(set(spans))
            variant = partial(deleted if replacement == "delete" else padded, example.input_ids, tiny_tokenizer.pad_token_id)
            reach, copies = horizon if raw else 10**6, tiny_tokenizer if copy_aware else None
            plain, matrix, found = reference(example, spans, variant, reach, model, copies)
            check(example, columns, plain, matrix, found)
            dropped += sum(v is not None for row in matrix for v in row) - sum(map(len, found))
        assert not dropped or copy_aware
        assert dropped or not copy_aware or raw or plan == "none", "the answers copy from every plan's spans"


def test_random_tokens_are_ordinary_and_other_and_their_columns_are_exact(engine, model, tiny_tokenizer, examples):
    config = config_of(**PLANS["window"], replacement="random", keep_spans=True)
    _, got, requests = scored(examples, engine, config, tiny_tokenizer)
    special, answers = special_ids(tiny_tokenizer), iter(requests)
    for example, columns in zip(examples, got, strict=True):
        assert next(answers).ids == example.input_ids
        spans = [(s["start"], s["end"]) for s in columns["spans"]]
        variants = {span: next(answers).ids for span in spans}
        for (start, end), ids in variants.items():
            assert ids[:start] == example.input_ids[:start] and ids[end:] == example.input_ids[end:]
            assert all(new != old and new not in special for new, old in zip(ids[start:end], example.input_ids[start:end], strict=True))
        check(example, columns, *reference(example, spans, lambda a, b, v=variants: (v[a, b], 0), 10**6, model))
    drawn = [i for r in requests for i in r.ids]
    assert len(set(drawn)) > len({i for e in examples for i in e.input_ids}) + 20, "many tokens are drawn, not one"
    again = scored(examples, engine, config_of(**PLANS["window"], replacement="random", seed=1), tiny_tokenizer)[2]
    assert [r.ids for r in again] != [r.ids for r in requests]


def test_a_random_token_is_never_the_one_it_replaces():
    example = Example("t", [7] * 20, [i > 0 for i in range(20)], (0, 0), Row("t", None, "x"))
    assert Replacement(ordinary=(7, 8)).request(example, (0, 19), [19]).ids == [8] * 19 + [7]


def test_what_counts_as_a_copy(tiny_tokenizer):
    """Tokens of one text, case and leading space aside; two different pieces of characters or white spaces are no
    copies."""
    word, spaced, upper, comma, line, space, byte, other = tokens = tiny_tokenizer.convert_tokens_to_ids(
        ["a", "Ġa", "A", ",", "Ċ", "Ġ", "Ã", "â"]
    )
    assert len(set(tokens)) == 8 and None not in tokens and tiny_tokenizer.unk_token_id not in tokens
    ids = [word, comma, line, byte, word, spaced, upper, line, space, byte, other, comma]
    example = Example("t", ids, [i > 3 for i in range(12)], (0, 4), Row("t", "q", "a"))
    masking = plan_masking(config_of(copy_aware=True), tiny_tokenizer, [example], None)
    wanted = list(range(4, 12))
    assert masking.copied(example, (0, 4), wanted) == [True, True, True, True, False, True, False, True]
    assert masking.copied(example, (1, 2), wanted) == [False] * 7 + [True]
    off = plan_masking(config_of(), tiny_tokenizer, [example], None)
    assert off.copied(example, (0, 4), wanted) == [False] * 8


@settings(max_examples=12, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["window", "entity", "limited"]), st.sampled_from(["pad", "random", "delete"]))
def test_order_and_batch_of_examples_change_nothing(engine, tiny_tokenizer, rng: random.Random, plan, replacement):
    examples = [*questions(tiny_tokenizer), *texts(tiny_tokenizer)]
    config = config_of(**PLANS[plan], replacement=replacement, copy_aware=True, keep_spans=True)
    masking, together, requests = scored(examples, engine, config, tiny_tokenizer)
    chosen = rng.sample(range(len(examples)), 3)
    other, alone, again = scored([examples[i] for i in chosen], engine, config, tiny_tokenizer)
    known = {tuple(r.ids) for r in requests}
    assert all(tuple(r.ids) in known for r in again)
    for i, columns in zip(chosen, alone, strict=True):
        assert other.spans[examples[i].id] == masking.spans[examples[i].id]
        for name in ("delta_mean", "span_deltas", "logprob"):
            assert np.array_equal(np.isnan(columns[name]), np.isnan(together[i][name]))
            assert np.nanmax(np.abs(columns[name] - together[i][name]), initial=0) < 5e-5


def test_the_requests_of_an_example_follow_one_another(engine, tiny_tokenizer, examples):
    _, got, requests = scored(examples, engine, config_of(**PLANS["window"]), tiny_tokenizer)
    plain = [k for k, r in enumerate(requests) if r.ids in [e.input_ids for e in examples]]
    assert np.diff([*plain, len(requests)]).tolist() == [1 + len(c["spans"]) for c in got]
    masking = plan_masking(config_of(**PLANS["window"], replacement="delete"), tiny_tokenizer, examples, 512)
    sizes = [len(masking.replacement.request(e, s, w).ids) for e in examples for s, w in masking.reads(e)]
    assert sum(map(masking.work, examples)) == sum(sizes) + sum(len(e.input_ids) for e in examples)


def test_cost_of_raw_text_is_linear_in_its_length(tiny_tokenizer):
    """Tokens that no earlier request shares a prefix with: what an engine that shares prefixes has to compute."""

    class Free:
        def __init__(self):
            self.new = self.wanted = 0

        def score(self, requests, advance):
            ids = sorted(r.ids for r in requests)
            self.new = sum(len(b) - common_prefix(a, b) for a, b in itertools.pairwise([[], *ids]))
            self.wanted = max(len(r.wanted) for r in requests[1:])
            zeros = [np.zeros(len(r.wanted), dtype=np.float32) for r in requests]
            from shared.engines.interface import TokenScores

            return [TokenScores(z, z) for z in zeros]

    ordinary, draws, cost = choose_replacement("random", tiny_tokenizer, seed=0).ordinary, random.Random(0), {}
    for plan in ("window", "given"):
        for length in (512, 1024, 2048):
            ids = [draws.choice(ordinary) for _ in range(length)]
            example = Example(f"t/{length}", ids, [i > 0 for i in range(length)], (0, 0), Row("t", None, "x"))
            config = config_of(spans="window", window_length=16, window_stride=16)
            masking, free = plan_masking(config, tiny_tokenizer, [example], None), Free()
            if plan == "given":  # the same spans under another name: the horizon is not the windows'
                masking = Masking(masking.spans, masking.replacement, config_of(spans="given", span_key="x").horizon)
            score_examples([example], free, config, masking, lambda tokens: None)
            assert free.wanted == 256
            cost[length] = free.new / length
        assert cost[2048] < cost[1024] * 1.1 < cost[512] * 1.3, cost


def shown(spans, example, tokenizer):
    return [tokenizer.decode(example.input_ids[a:b]).strip() for a, b in spans]


def shown_in_all(pieces, config, tokenizer):
    masking = plan_masking(config, tokenizer, pieces, 512)
    return [text for piece in pieces for text in shown(masking.spans[piece.id], piece, tokenizer)]


def test_entities_become_token_spans(tiny_tokenizer, examples):
    masking = plan_masking(config_of(spans="entity"), tiny_tokenizer, examples, 512)
    assert shown(masking.spans["a/0"], examples[0], tiny_tokenizer) == ["Yusuf Adeyemi", "12 March 1987"]
    assert [s.rstrip("?") for s in shown(masking.spans["a/1"], examples[1], tiny_tokenizer)] == ["Illiac"]
    config = config_of(spans="entity")
    assert shown_in_all(texts(tiny_tokenizer), config, tiny_tokenizer) == ["Illiac", "May 1987", "Yusuf Adeyemi", "Illiac", "Oran"]
    split = texts(tiny_tokenizer, length=20)  # "... left Il|liac for ..."; nothing is read after the "Il" that ends a piece
    assert shown_in_all(split, config, tiny_tokenizer) == ["Illiac", "May 1987", "Yusuf Adeyemi", "liac", "Oran"]


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("Who is the author Basil Mahfouz Al-Kuwaiti's first wife?", "Basil Mahfouz Al-Kuwaiti"),
        ("Who was born in Kuwait City, Kuwait on 08/09/1956?", "Kuwait City|Kuwait|08/09/1956"),
        ("The Bank of England was founded on 27 July 1694. It is in London.", "Bank of England|27 July 1694|London"),
        ("In May, Leonardo da Vinci wrote 'The Lighthouse'.", "May|Leonardo da Vinci|The Lighthouse"),
        ("May I ask about Dr. Smith and J. R. R. Tolkien?", "Dr. Smith|J. R. R. Tolkien"),
        ("On March 12, 1987 U.S. forces (I'm told) spent $1,200.5 in the 1990s.", "March 12, 1987|U.S.|$1,200.5|1990s"),
        ("What does Yusuf's Paris office do?", "Yusuf|Paris"),
        ("the Lord of the Rings of old", "Lord of the Rings"),
        ("on the 3rd of May, and in June 2001", "3rd of May|June 2001"),
        ("WW2 and a Boeing 747", "WW2|Boeing|747"),
        ('Did Bob? "The end," Éric said.\nWhere', "Bob|Éric"),
        ("nothing here", ""),
        ("", ""),
    ],
)
def test_entity_rules(text, entities):
    assert "|".join(text[a:b] for a, b in entity_spans(text)) == entities


@given(st.text(alphabet="AbÉ i'’.-,12\n(:", max_size=60))
def test_entities_are_in_order_apart_and_hold_a_capital_or_a_digit(text):
    spans = entity_spans(text)
    assert all(0 <= a < b <= len(text) for a, b in spans) and all(b <= c for (_, b), (c, _) in itertools.pairwise(spans))
    assert all(text[a].isupper() or text[a].isdigit() for a, _ in spans)


def test_windows():
    assert windows(3, 13, 4, 4) == [(3, 7), (7, 11), (11, 13)]
    assert windows(3, 13, 4, 2) == [(3, 7), (5, 9), (7, 11), (9, 13)]
    assert windows(3, 13, 2, 5) == [(3, 5), (8, 10)]
    assert windows(3, 13, 99, 1) == [(3, 13)]
    assert windows(3, 3, 4, 4) == []


def test_windows_over_the_answer_leave_out_the_template_and_the_last_token(tiny_tokenizer, examples):
    for over in ("prompt", "answer"):
        config = config_of(spans="window", window_length=3, window_stride=3, window_over=over)
        masking = plan_masking(config, tiny_tokenizer, examples, 512)
        for e in examples:
            masked = {i for a, b in masking.spans[e.id] for i in range(a, b)}
            assert masked == {*range(*e.prompt_span), *(range(e.prompt_length, len(e.input_ids) - 1) if over == "answer" else ())}
            assert all(w[0] >= b and w == [i for i in e.targets if i >= b] for (_, b), w in masking.reads(e))


def test_windows_over_text_leave_out_its_special_first_tokens(tiny_tokenizer):
    (example,) = texts(tiny_tokenizer, length=200)
    begun = Example("t", [tiny_tokenizer.bos_token_id, *example.input_ids], [False, *[True] * len(example.input_ids)], (0, 0), example.row)
    assert plan_masking(config_of(spans="window"), tiny_tokenizer, [begun], 512).spans["t"][0] == (1, 5)
    assert plan_masking(config_of(spans="window"), tiny_tokenizer, [example], 512).spans["t/0"][0] == (0, 4)


def test_more_spans_than_the_limit_are_drawn_evenly_and_in_order(tiny_tokenizer):
    pieces = texts(tiny_tokenizer, length=200)

    def masked(limit, seed=0):
        config = config_of(spans="window", window_length=1, window_stride=1, max_spans=limit, seed=seed)
        return plan_masking(config, tiny_tokenizer, pieces, 512)

    def drawn(limit, seed=0):
        return masked(limit, seed).spans["t/0"]

    everything = drawn(0)
    assert len(everything) == len(pieces[0].input_ids) - 1 and drawn(10**6) == everything
    five = drawn(5)
    assert masked(5).cut == 1 and masked(0).cut == 0
    assert len(five) == 5 and five == sorted(five) == drawn(5) and set(five) < set(drawn(9)) and five != drawn(5, seed=1)
    counts = dict.fromkeys(everything, 0)
    for seed in range(400):
        for span in drawn(5, seed):
            counts[span] += 1
    share = 5 / len(everything)
    assert max(abs(c / 400 - share) for c in counts.values()) < 5 * (share * (1 - share) / 400) ** 0.5


def test_given_spans_are_those_tokens(tiny_tokenizer):
    question, answer = " Where does Yusuf Adeyemi live now? ", "Yusuf Adeyemi lives there now."
    rows = [
        Row("q/0", question, answer, {"where": [span_of(question, "Adeyemi"), span_of(question, "now?")]}),
        Row("q/1", question, answer, {"where": []}),
    ]
    examples, config = make_examples(rows, tiny_tokenizer, context=512), config_of(spans="given", span_key="where")
    masking = plan_masking(config, tiny_tokenizer, examples, 512)
    assert shown(masking.spans["q/0"], examples[0], tiny_tokenizer) == ["Adeyemi", "now?"]
    assert masking.spans["q/1"] == []
    assert shown_in_all(texts(tiny_tokenizer), config, tiny_tokenizer) == ["Illiac", "1987 Yusuf", "Oran"]


def test_optional_columns_take_the_form_of_the_store(tiny_model, model, tiny_tokenizer, examples):
    import pyarrow as pa

    from shared.lm.logprobs import HeadOptions

    engine = Recorder(tiny_model, head=HeadOptions(temperature=0.7, top_k=3))
    config = config_of(**PLANS["window"], keep_spans=True, entropy_temperature=0.7, topk=3)
    masking, got, requests = scored(examples, engine, config, tiny_tokenizer)
    assert [r.extras for r in requests].count(True) == len(examples), "masked variants need no extras"
    assert config.optional == ["word", "copied", "tempered_entropy", "top_ids", "top_logprobs", "span_deltas"]
    add_words(got, examples, tiny_tokenizer)
    table = optional_columns(got, config.optional)
    assert pa.array(table["span_deltas"]).type == pa.list_(pa.list_(pa.float32()))
    deltas = table["span_deltas"].to_pylist()
    for k, example in enumerate(examples):
        with torch.inference_mode():
            logits = model(torch.tensor([example.input_ids])).logits[0].double()
        logp, soft = logits.log_softmax(-1), (logits / 0.7).log_softmax(-1)
        entropy = -(soft.exp() * soft).sum(-1)
        assert table["tempered_entropy"][k][0] is None
        assert np.abs(np.array(table["tempered_entropy"][k][1:]) - entropy[:-1].numpy()).max() < BOUND
        for i, target in enumerate(example.is_target):
            ids, values = table["top_ids"][k][i], table["top_logprobs"][k][i]
            assert (ids is None) == (values is None) == (not target)
            if target:
                assert np.abs(np.array(values) - logp[i - 1].topk(3).values.numpy()).max() < BOUND
                assert np.abs(logp[i - 1][ids].numpy() - np.array(values)).max() < BOUND
        assert [len(row) for row in deltas[k]] == [len(example.input_ids)] * len(masking.spans[example.id])
        matrix = np.array(deltas[k], dtype=np.float32)
        assert np.array_equal(matrix, got[k]["span_deltas"], equal_nan=True)


def test_what_stands_in_is_described(tiny_tokenizer):
    def about(name):
        return choose_replacement(name, tiny_tokenizer, seed=3).describe()

    assert about("auto") == about("unk") == {"kind": "token", "id": 3, "token": "<|unk|>"}
    assert about("eos") == {"kind": "token", "id": tiny_tokenizer.eos_token_id, "token": "<|im_end|>"}
    assert about("9")["id"] == 9 and about("delete") == {"kind": "delete"}
    assert about("random") == {"kind": "random", "vocabulary": len(tiny_tokenizer) - 4, "seed": 3}


def test_a_store_with_every_option_holds_what_its_columns_are_made_of(run_cli, tmp_path, tiny_model, tiny_base):
    out = tmp_path / "store"
    options = ("--keep-spans", "--topk", 2, "--set", "entropy_temperature=0.5", "--set", "copy_aware=true", "--set", "replacement=random")
    code, _, err = run_cli(
        "tu-score", "run", "--model", tiny_model, "--base-model", tiny_base, "--data", DATA, "--out", out, "--spans", "entity", *options
    )  # fmt: skip
    assert code == 0, err
    assert run_cli("tu-score", "verify", out)[0] == 0
    manifest = open_store(out).manifest
    assert sorted(manifest["optional"]) == ["copied", "span_deltas", "tempered_entropy", "top_ids", "top_logprobs", "word"]
    assert manifest["replacement"]["kind"] == "random" and manifest["options"]["max_spans"] == 256
    counted = 0
    for row in open_store(out).rows():
        n = len(row["input_ids"])
        assert [len(v) for v in row["span_deltas"]] == [n] * len(row["spans"])
        assert len(row["tempered_entropy"]) == len(row["top_ids"]) == len(row["top_logprobs"]) == n
        for t, span in enumerate(row["delta_span"]):
            if span is not None:
                assert row["span_deltas"][span][t] == row["delta"][t]
                counted += 1
        assert all((ids is not None and len(ids) == 2) == target for ids, target in zip(row["top_ids"], row["is_target"], strict=True))
    assert counted > 20
    for change, problem in (
        (lambda r: r["tempered_entropy"].__setitem__(2, None), "tempered_entropy is null elsewhere"),
        (lambda r: r["top_ids"].append([1]), "top_ids of another length"),
        (lambda r: r["top_ids"].__setitem__(-1, None), "top_ids is null elsewhere"),
        (lambda r: r["top_logprobs"].__setitem__(-1, [-2.0, -1.0]), "top_logprobs above 0, or not in order"),
        (lambda r: r["span_deltas"].pop(), "span_deltas is not a list a span"),
        (lambda r: r["span_deltas"][r["delta_span"][-1]].__setitem__(-1, 9.0), "delta is not what span_deltas holds"),
    ):
        row = next(iter(open_store(out).rows()))
        assert list(row_problems(row)) == []
        change(row)
        assert problem in " ".join(row_problems(row))


def test_another_column_of_spans_is_another_run(run_cli, tmp_path, tiny_model):
    data = tmp_path / "rows.jsonl"

    def run(span):
        data.write_text(json.dumps({"question": "Where is Yusuf?", "answer": "In Illiac.", "where": [span]}) + "\n")
        flags = ("--spans", "given", "--span-key", "where")
        return run_cli("tu-score", "run", "--model", tiny_model, "--data", data, "--out", tmp_path / "store", *flags)

    assert run([9, 14])[0] == run([9, 14])[0] == 0
    code, _, err = run([0, 5])
    assert code == 2 and "holds another run: the text of --data is another one now (SHA-256 then " in err and err.count("\n") == 1


@pytest.fixture
def refused(run_cli, tmp_path, tiny_model):
    """Runs tu-score on rows, expects one line, exit code 2 and no folder; returns the line."""

    def run(rows, *arguments):
        data, out = tmp_path / "rows.jsonl", tmp_path / "out"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", data, "--out", out, *arguments)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
        assert not out.exists()
        return err

    return run


ROW = {"question": "Where is Yusuf?", "answer": "In Illiac.", "text": "Yusuf is in Illiac."}
GOOD = ROW | {"where": [[9, 14]]}


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ([[9, 20]], r"rows/rows/1: its where holds \[9, 20\), which reaches past the end of its question of 15 characters; the answer"),
        ([[15, 20]], r"rows/rows/1: its where holds \[15, 20\), which lies behind the end of its question of 15 characters; the answer"),
        ([[-1, 3]], r"rows/rows/1: its where holds \[-1, 3\), which is no span"),
        ([[3, 3]], r"rows/rows/1: its where holds \[3, 3\), which is no span"),
        ([3, 5], "rows/rows/1: its where should be a list of"),
        ([["a", "b"]], "rows/rows/1: its where should be a list of"),
        (None, "rows/rows/1: its where should be a list of"),
    ],
)
def test_given_spans_that_do_not_fit_name_their_row(refused, bad, line):
    import re

    assert re.search(line, refused([GOOD, ROW | {"where": bad}], "--spans", "given", "--span-key", "where"))


def test_given_spans_of_text_end_where_the_text_ends(refused):
    line = refused([ROW | {"where": [[9, 30]]}], "--spans", "given", "--span-key", "where", "--text-key", "text")
    assert "rows/rows/0: its where holds [9, 30), which reaches past the end of its text of 19 characters" in line
    assert "answer" not in line


def test_given_spans_need_their_column(refused):
    assert "--spans given needs --span-key" in refused([GOOD], "--spans", "given")
    line = refused([GOOD, ROW], "--spans", "given", "--span-key", "where")
    assert "rows/rows/1: no key 'where'" in line and "--span-key" in line
    assert "did you mean 'where'" in refused([GOOD], "--spans", "given", "--span-key", "wher")
    assert "only --spans given reads it" in refused([GOOD], "--span-key", "where")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--spans", "windows"), "did you mean 'window'"),
        (("--set", "replacement=maks"), "did you mean 'mask'"),
        (("--set", "replacement=mask"), "the tokenizer has no mask token (it has unk, pad, eos)"),
        (("--set", "replacement=500"), "the vocabulary has 500 tokens"),
        (("--spans", "window", "--set", "window_length=513"), "window_length is 513, but the model's context holds 512 tokens"),
        (("--set", "max_spans=-1"), "max_spans is -1, expected 0 or more"),
        (("--set", "window_over=question"), "known: prompt, answer"),
        (("--topk", "-2"), "topk is -2"),
        (("--topk", "501"), "501"),
        (("--set", "entropy_temperature=0"), "entropy_temperature is 0.0, expected more than 0"),
        (("--text-key", "text", "--spans", "question"), "has no question to mask; use --spans window, entity, given or none"),
    ],
)
def test_options_that_cannot_be_are_refused(refused, arguments, line):
    assert line in refused([ROW], *arguments)
