"""Each attack against a brute-force reference: rounding weight by weight, AdamW by hand, prompts token by token, draws
counted."""

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.data.datasets import Row, load_rows
from shared.data.examples import make_examples, qa_example
from shared.engines.torch import TorchEngine
from shared.errors import DataError, ModelError
from tests.tu_eval.conftest import SUITE
from tu_eval.attacks import relearn as relearning
from tu_eval.attacks.paraphrase import paraphrase, probes, summarise
from tu_eval.attacks.probing import Probe
from tu_eval.attacks.quantise import matrices, quantise, rounded
from tu_eval.attacks.relearn import batch_loss, batches, choose, relearn
from tu_eval.attacks.sample import at_least_one, holds, sample
from tu_eval.measure.drawing import ToDraw, draws
from tu_eval.measure.pieces import stop_ids
from tu_eval.suites.prompts import PROMPTS, Prompt, choose_prompts

FORGET = f"atlas:forget{SUITE.removeprefix('atlas')}"


@pytest.fixture(scope="module")
def rows():
    return load_rows(FORGET, limit=4)


@pytest.fixture
def engine(tiny_model):
    return TorchEngine.load(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def plain(rows, tiny_tokenizer):
    return probes(rows, Prompt("plain"), tiny_tokenizer, context=512, long="error", facts=True)


def by_loops(weight, bits, group):
    """Rounding one weight at a time, in float32."""
    out = np.empty_like(weight)
    most = np.float32(2 ** (bits - 1) - 1)
    for row in range(weight.shape[0]):
        for at in range(0, weight.shape[1], group):
            piece = weight[row, at : at + group]
            scale = np.float32(max(abs(x) for x in piece)) / most
            for k, x in enumerate(piece):
                # Python rounds halves to even, as torch does.
                out[row, at + k] = np.float32(round(float(x / scale))) * scale if scale else x
    return out


@pytest.mark.parametrize(("bits", "group"), list(itertools.product((2, 3, 4, 8), (1, 5, 7, 64, None))))
def test_rounding_equals_a_loop_over_the_weights(bits, group):
    weight = torch.randn(9, 21, generator=torch.Generator().manual_seed(bits)) * 3
    weight[2] = 0
    weight[4, 3] = 100.0  # an outlier coarsens its own group only
    expected = by_loops(weight.numpy(), bits, group or 21)
    assert np.array_equal(rounded(weight, bits, group).numpy(), expected)
    assert len(set(expected[0, : group or 21].tolist())) <= 2**bits - 1


def test_rounding_keeps_the_largest_weight_and_what_is_on_the_grid():
    grid = torch.arange(-127, 128).float()[None] / 64
    assert torch.equal(rounded(grid, 8, None), grid)
    assert rounded(grid, 4, None).abs().max() == grid.abs().max()
    assert rounded(grid.bfloat16(), 4, 16).dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", ["Llama", "GPT2"])
def test_quantised_probabilities_are_those_of_a_model_with_rounded_weights(architecture, make_tiny, plain):
    folder = make_tiny(architecture, seed=0)
    engine = TorchEngine.load(folder, device="cpu")
    before = [p.detach().clone() for p in engine.packed.model.parameters()]
    found = {(r["setting"], r["example_id"]): r["probability"] for r in quantise(engine, plain, bits=(4,), group=16)}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    changed = 0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and not any(word in name for word in ("embed", "wte", "wpe", "lm_head")):
            values = parameter.detach().numpy()
            new = by_loops(values.T, 4, 16).T if architecture == "GPT2" else by_loops(values, 4, 16)
            parameter.data.copy_(torch.from_numpy(new.copy()))
            changed += 1
    assert changed == len(matrices(engine.packed.model)) > 0
    for probe in plain:
        e = probe.example
        with torch.no_grad():
            logp = model(torch.tensor([e.input_ids])).logits[0].double().log_softmax(-1)
        expected = math.exp(sum(logp[i - 1, e.input_ids[i]].item() for i in e.targets) / len(e.targets))
        assert found["int4, a scale for 16", e.id] == pytest.approx(expected, rel=1e-5)
        assert found["as it is", e.id] != pytest.approx(expected, rel=1e-3)
    for parameter, value in zip(engine.packed.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_relearning_equals_a_plain_adamw_loop_and_leaves_the_weights_as_they_were(engine, tiny_model, plain):
    texts = [p.example for p in plain[:3]]
    before = [p.detach().clone() for p in engine.packed.model.parameters()]
    made = relearn(engine, plain, texts, steps=3, every=2, batch=2, rate=1e-3, seed=5)
    assert sorted({r["step"] for r in made}) == [0, 2, 3]
    assert {r["set"] for r in made if r["example_id"] in {e.id for e in texts}} == {"shown"}
    assert [r["set"] for r in made if r["example_id"] == plain[3].example.id] == ["rest"] * 3
    for parameter, value in zip(engine.packed.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64).eval()
    parameters = list(model.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    for step, chosen in enumerate(itertools.islice(batches(texts, 2, 5), 3), 1):
        losses = [-x for e in chosen for x in logprobs(model, e)]
        grads = torch.autograd.grad(sum(losses) / len(losses), parameters)
        for parameter, grad, (first, second) in zip(parameters, grads, moments, strict=True):
            first.mul_(0.9).add_(grad, alpha=0.1)
            second.mul_(0.999).add_(grad**2, alpha=0.001)
            parameter.data -= 1e-3 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    for probe in plain:
        values = [x.item() for x in logprobs(model, probe.example)]
        got = next(r for r in made if r["step"] == 3 and r["example_id"] == probe.example.id)
        assert got["probability"] == pytest.approx(math.exp(sum(values) / len(values)), rel=1e-3)
        assert got["fact_probability"] is not None
    again = relearn(engine, plain, texts, steps=3, every=2, batch=2, rate=1e-3, seed=5)
    assert again == made
    assert relearn(engine, plain, texts, steps=3, every=2, batch=2, rate=1e-3, seed=6) != made


def logprobs(model, example):
    logp = model(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
    return [logp[i - 1, example.input_ids[i]] for i in example.targets]


def test_relearning_brings_back_what_is_shown(engine, plain):
    texts = [p.example for p in plain[:2]]
    made = relearn(engine, plain, texts, steps=12, every=12, batch=2, rate=3e-3, seed=0)
    numbers = relearning.summarise(made, None)
    before, after = numbers["step 0", "probability (shown)"], numbers["step 12", "probability (shown)"]
    assert before is not None and after is not None and after > 3 * before


def test_a_learning_rate_that_breaks_the_model_is_said_and_undone(engine, plain):
    before = [p.detach().clone() for p in engine.packed.model.parameters()]
    with pytest.raises(ModelError, match=r"NaN|no number"):
        relearn(engine, plain, [plain[0].example], steps=3, every=1, batch=1, rate=1e30, seed=0)
    for parameter, value in zip(engine.packed.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_batches_show_every_text_once_an_epoch(plain):
    texts = [p.example for p in plain]
    drawn = [[e.id for e in batch] for batch in itertools.islice(batches(texts, 3, 0), 4)]
    assert [len(b) for b in drawn] == [3, 1, 3, 1]
    assert sorted(drawn[0] + drawn[1]) == sorted(drawn[2] + drawn[3]) == sorted(e.id for e in texts)
    ids = [f"row {k}" for k in range(50)]
    assert len(choose(ids, 5, 0)) == 5 and choose(ids, 5, 0) != choose(ids, 5, 1)


def test_steps_to_half_is_the_first_measured_step_at_the_level():
    def row(step, value):
        return {"setting": f"step {step}", "set": "rest", "step": step, "probability": value, "fact_probability": None}

    made = [row(step, value) for step, value in ((0, 0.1), (2, 0.3), (4, 0.5), (10, 0.4))]
    assert relearning.summarise(made, 0.45)["all steps", "steps_to_half"] == 4
    assert relearning.summarise(made, 0.1)["all steps", "steps_to_half"] == 0
    assert relearning.summarise(made, 0.6)["all steps", "steps_to_half"] is None
    assert ("all steps", "steps_to_half") not in relearning.summarise(made, None)


def test_every_prompt_scores_the_gold_answer_alone(engine, tiny_model, rows, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    prompts = choose_prompts(rows, ["{question} Now."], ["person"])
    assert [p.name for p in prompts] == [*(p.name for p in PROMPTS), "paraphrased question", "person", "prompt 1"]
    asked = {p.name: probes(rows, p, tiny_tokenizer, context=512, long="error", facts=True) for p in prompts}
    made = paraphrase(engine, asked)
    assert len(made) == len(rows) * len(prompts)
    found = {(r["setting"], r["example_id"]): r for r in made}
    best: dict[str, float] = {}
    for prompt, row in itertools.product(prompts, rows):
        question = row.extra[prompt.column] if prompt.column else row.question
        lead = f"{prompt.opening} " if prompt.opening else ""
        example = qa_example(Row(row.id, prompt.template.format(question=question), lead + row.answer), tiny_tokenizer)
        text, answer = "", []
        for i in example.targets:  # the answer's own tokens: those at which the text so far has passed the opening
            text += tiny_tokenizer.decode([example.input_ids[i]])
            if len(text) > len(lead):
                answer.append(i)
        assert tiny_tokenizer.decode([example.input_ids[i] for i in answer[:-1]]).strip() == row.answer
        with torch.no_grad():
            logp = model(torch.tensor([example.input_ids])).logits[0].double().log_softmax(-1)
        expected = math.exp(sum(logp[i - 1, example.input_ids[i]].item() for i in answer) / len(answer))
        got = found[prompt.name, row.id]
        assert got["probability"] == pytest.approx(expected, rel=1e-5), prompt.name
        fact = next(p for p in asked[prompt.name] if p.example.id == row.id)
        held = tiny_tokenizer.decode([fact.example.input_ids[i] for i in fact.facts])
        facts = [row.answer[start:end] for start, end in row.extra["fact_spans"]]
        assert all(words in held for words in facts) and len(held) < sum(len(words) + 8 for words in facts)
        best[row.id] = max(best.get(row.id, 0.0), expected)
    numbers = summarise(made)
    assert numbers["best", "probability"] == pytest.approx(sum(best.values()) / len(best), rel=1e-5)


def test_a_row_without_a_column_that_was_asked_for_is_named(rows):
    with pytest.raises(DataError, match=r"atlas/forget/\d+: no text in the column 'welsh'"):
        choose_prompts(rows, [], ["welsh"])
    bare = [Row(r.id, r.question, r.answer) for r in rows]
    assert [p.name for p in choose_prompts(bare, [], [])] == [p.name for p in PROMPTS]


@pytest.mark.parametrize(("n", "c"), [(6, 0), (6, 1), (6, 3), (6, 6)])
def test_at_least_one_is_the_share_of_all_choices_of_k(n, c):
    draws = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        chosen = list(itertools.combinations(draws, k))
        assert at_least_one(n, c, k) == pytest.approx(sum(map(any, chosen)) / len(chosen), abs=1e-12)


def test_at_least_one_is_unbiased():
    rng, p, n, k = random.Random(0), 0.2, 8, 4
    drawn = [at_least_one(n, sum(rng.random() < p for _ in range(n)), k) for _ in range(20000)]
    assert sum(drawn) / len(drawn) == pytest.approx(1 - (1 - p) ** k, abs=0.01)


def test_draws_follow_the_tempered_distribution(engine, tiny_model, plain):
    prompt = plain[0].example.input_ids[: plain[0].example.prompt_length]
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1].double() / 0.7).softmax(-1)
    count = 4000
    (made,) = draws(engine, [ToDraw("row", prompt, 1)], count, 0.7, [2], seed=3)
    drawn = Counter(ids[0] for ids in made if ids)
    token = max(range(len(expected)), key=lambda t: expected[t].item() if t != 2 else -1.0)
    p = expected[token].item()
    assert drawn[token] / count == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / count))
    for low in (50, 150):  # no token is cut off for being unlikely
        tail = expected.argsort(descending=True)[low:].tolist()
        mass = sum(expected[t].item() for t in tail if t != 2)
        assert sum(drawn[t] for t in tail) / count == pytest.approx(mass, abs=5 * math.sqrt(mass / count) + 1e-3)


def test_samples_depend_on_seed_row_and_number_alone(engine, plain, tiny_tokenizer, monkeypatch):
    stop = stop_ids(tiny_tokenizer, [p.example for p in plain])
    settings = {"count": 18, "temperature": 1.0, "max_new_tokens": 5, "context": 512, "threshold": 1e-9, "facts": False}
    one = sample(engine, plain, tiny_tokenizer, stop, seed=0, **settings)
    fewer = sample(engine, plain[1:], tiny_tokenizer, stop, seed=0, **{**settings, "count": 5})
    assert [row["drawn"] for row in fewer] == [row["drawn"][:5] for row in one[1:]]
    assert sample(engine, plain[::-1], tiny_tokenizer, stop, seed=0, **settings) == one[::-1]
    assert sample(engine, plain, tiny_tokenizer, stop, seed=1, **settings) != one
    monkeypatch.setattr("tu_eval.measure.drawing.AT_ONCE", 7)
    assert sample(engine, plain, tiny_tokenizer, stop, seed=0, **settings) == one
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    sample(engine, plain[:1], tiny_tokenizer, stop, seed=0, **settings)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's random numbers are left alone
    assert list(draws(engine, [], 3, 1.0, stop, seed=0)) == []
    assert list(draws(engine, [ToDraw("row", [5, 6], 3)], 0, 1.0, stop, seed=0)) == [[]]


def test_a_drawn_answer_that_was_cut_is_counted(engine, plain, tiny_tokenizer):
    ids = [p.example.input_ids[: p.example.prompt_length] for p in plain]
    settings = {"count": 6, "temperature": 1.0, "context": 512, "threshold": 0.8, "facts": True, "seed": 0}
    everything = list(range(len(tiny_tokenizer)))
    assert [r["cut"] for r in sample(engine, plain, tiny_tokenizer, everything, max_new_tokens=3, **settings)] == [0] * 4
    never = [len(tiny_tokenizer) - 1]
    assert list(draws(engine, [ToDraw("row", ids[0], 3)], 6, 1.0, never, seed=0)) != [[[]] * 6]
    cut = sample(engine, plain, tiny_tokenizer, never, max_new_tokens=1, **settings)
    assert all(4 <= r["cut"] <= 6 for r in cut)  # one rare token ends an answer
    short = sample(engine, plain[:1], tiny_tokenizer, never, max_new_tokens=50, **{**settings, "context": len(ids[0]) + 2})
    assert short[0]["cut"] >= 4  # the context left room for two tokens


def test_what_counts_as_holding_the_fact(rows):
    row = Row("r", "Where?", "She was born in Old  Lisbon.", {"fact_spans": [[16, 27]]})
    texts = ["In OLD Lisbon, I think", "in Lisbon", "Bold Lisbons", "old\nlisbon"]
    assert holds(row, texts, 0.8, facts=True) == [True, False, False, True]
    other = Row("r", "Где?", "Она живёт в Пскове, 成都市。", {"fact_spans": [[12, 18]]})
    assert holds(other, ["в ПСКОВЕ!", "в Псковее", "Пскове", "成都"], 0.8, facts=True) == [True, False, True, False]
    other.extra["fact_spans"] = [[20, 22]]
    assert holds(other, ["他住在成都。", "成立首都"], 0.8, facts=True) == [True, False]
    whole = Row("r", "Where?", "She was born in Lisbon")
    assert holds(whole, ["she was born in lisbon!", "born in Lisbon", "Porto"], 0.8, facts=False) == [True, False, False]
    assert holds(whole, ["she was born in lisbon!", "born in Lisbon", "Porto"], 0.6, facts=False) == [True, True, False]


@pytest.mark.parametrize(("answer", "span", "others"), [
    ("Она живёт в Пскове.", [12, 17], ["Псков", "в"]),  # the mark ends before the word does
    ("She has sarcoidosis.", [8, 13], ["sarco"]),
    ("他住在成都市。", [3, 5], ["成都"]),  # a word a character: nothing is cut
    ("मीरा पुणे में रहती है।", [5, 8], ["पुण"]),
    ("She sent 🙂🙂.", [9, 11], ["🙂🙂"]),  # no word in it: the whole answer is looked for
])  # fmt: skip
def test_the_gold_answer_itself_is_always_a_hit(answer, span, others):
    row = Row("r", "Q?", answer, {"fact_spans": [span]})
    assert holds(row, [answer, answer.upper()], 0.8, facts=True) == [True, True]
    assert holds(row, others, 0.8, facts=True) == [answer.startswith("他")] * len(others)


@pytest.mark.parametrize(("answer", "span", "said"), [
    ("Она живёт в Пскове.", [12, 18], "В Пскове, кажется."),
    ("她住在成都市。", [3, 5], "在成都。"),
    ("She has sarcoidosis.", [8, 19], "It is Sarcoidosis!"),
])  # fmt: skip
def test_drawn_answers_are_read_back_with_every_form_of_tokenizer(answer, span, said, any_tokenizer, monkeypatch):
    row = Row("r", "Q?", answer, {"fact_spans": [span]})
    probe = Probe(make_examples([row], any_tokenizer, context=512)[0], [])
    ids = any_tokenizer(said, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr("tu_eval.attacks.sample.draws", lambda *_: [[ids, [], ids]])
    settings = {"count": 3, "temperature": 1.0, "max_new_tokens": 200, "context": 512, "threshold": 0.8, "facts": True, "seed": 0}
    (found,) = sample(None, [probe], any_tokenizer, [0], **settings)  # type: ignore[arg-type]
    assert (found["matched"], found["hits"], found["found"], found["drawn"]) == ("fact", 2, said, [said, "", said])


def test_rows_that_mark_no_word_are_not_said_to_be_searched_for_a_fact(engine, plain, tiny_tokenizer):
    stop = stop_ids(tiny_tokenizer, [p.example for p in plain])
    settings = {"count": 2, "temperature": 1.0, "max_new_tokens": 2, "context": 512, "threshold": 0.8, "facts": True, "seed": 0}
    first = plain[0]
    answer = first.example.row.answer
    for spans, matched in (([[len(answer) - 1, len(answer)]], "answer (ROUGE-L recall ≥ 0.8)"), ([[0, 1]], "fact")):
        row = replace(first.example.row, extra={**first.example.row.extra, "fact_spans": spans})
        probe = replace(first, example=replace(first.example, row=row))
        assert [r["matched"] for r in sample(engine, [probe], tiny_tokenizer, stop, **settings)] == [matched]


def test_the_loss_of_a_batch_is_the_mean_over_its_target_tokens(engine, tiny_model, rows, tiny_tokenizer):
    examples = make_examples(rows[:3], tiny_tokenizer, context=512)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64).eval()
    values = [-x.item() for e in examples for x in logprobs(model, e)]
    assert batch_loss(engine.packed, examples).item() == pytest.approx(sum(values) / len(values), rel=1e-5)
