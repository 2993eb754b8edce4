"""Every signal column against plain transformers forwards, one for each masked variant in full."""

import numpy as np
import pytest
import torch

from shared.data.examples import make_examples
from shared.store.scores import open_store
from tu_score.config import ScoreConfig
from tu_score.replace import choose_replacement
from tu_score.run import run_score
from tu_score.spans import plan_masking

DATA = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"
BOUND = 5e-5


def plain_forward(folder, ids):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    after = -(logp.exp() * logp).sum(-1)
    return [None] + [(float(logp[i - 1, ids[i]]), float(after[i - 1])) for i in range(1, len(ids))]


def reference(row, folder, base, mask_id, reach):
    """Columns by loops: for every span one full forward with the span replaced."""
    ids, n = row["input_ids"], len(row["input_ids"])
    plain, under_base = plain_forward(folder, ids), plain_forward(base, ids)
    out = {name: [None] * n for name in ("logprob", "entropy", "base_logprob", "base_entropy", "delta", "delta_mean", "masked_entropy")}
    drops = [[] for _ in ids]
    for k, span in enumerate(row["spans"]):
        masked = [mask_id if span["start"] <= i < span["end"] else t for i, t in enumerate(ids)]
        values = plain_forward(folder, masked)
        for t in range(span["end"], min(n, span["end"] + reach)):
            if row["is_target"][t]:
                drops[t].append((plain[t][0] - values[t][0], values[t][1], k))
    for t in range(1, n):
        out["logprob"][t], out["entropy"][t] = plain[t]
        out["base_logprob"][t], out["base_entropy"][t] = under_base[t]
        if drops[t]:
            best = max(drops[t], key=lambda d: (abs(d[0]), -d[2]))
            out["delta"][t], out["masked_entropy"][t] = best[:2]
            out["delta_mean"][t] = sum(d[0] for d in drops[t]) / len(drops[t])
    return out, drops


@pytest.mark.parametrize("plan", ["question", "window", "text"])
def test_every_column_equals_plain_forwards(plan, tmp_path, tiny_model, tiny_base, tiny_tokenizer):
    more = {"spans": plan, "data": DATA, "limit": 2}
    if plan == "text":
        path = tmp_path / "text.jsonl"
        path.write_text('{"text": "The lighthouse keeper of Illiac wrote nine novels about the sea and its weather."}\n')
        more = {"spans": "window", "data": str(path), "text_key": "text", "text_length": 24, "horizon": 6}
    config = ScoreConfig(
        model=str(tiny_model), base_model=str(tiny_base), out=str(tmp_path / "out"), window_length=5, window_stride=3, **more
    )
    rows = list(open_store(run_score(config)).rows())
    mask_id = choose_replacement("auto", tiny_tokenizer, seed=0).token
    for row in rows[:2]:
        expected, drops = reference(row, tiny_model, tiny_base, mask_id, config.horizon if plan == "text" else 10**6)
        for name, values in expected.items():
            got = row[name]
            assert [v is None for v in got] == [v is None for v in values], name
            assert max(abs(a - b) for a, b in zip(got, values, strict=True) if a is not None) < BOUND, name
        for t, k in enumerate(row["delta_span"]):
            assert (k is None) == (not drops[t])
            if k is not None:  # near ties may go either way
                assert abs(next(d[0] for d in drops[t] if d[2] == k)) > max(abs(d[0]) for d in drops[t]) - BOUND


def test_span_plans_stay_inside_the_question(tiny_tokenizer):
    from shared.data.datasets import Row

    (example,) = make_examples([Row("a", "Where does Yusuf live now?", "In Illiac.")], tiny_tokenizer, context=512)
    start, end = example.prompt_span
    assert tiny_tokenizer.decode(example.input_ids[start:end]).strip() == "Where does Yusuf live now?"
    config = ScoreConfig(model="m", data="d", out="o", spans="window", window_length=4, window_stride=2)
    spans = plan_masking(config, tiny_tokenizer, [example], 512).spans[example.id]
    assert spans[0][0] == start and max(b for _, b in spans) == end
    assert {i for a, b in spans for i in range(a, b)} == set(range(start, end))


@pytest.mark.parametrize("budget", [64, 8192])
def test_batch_size_does_not_change_values(budget, tmp_path, tiny_model):
    def rows(name, batch_tokens):
        return list(open_store(run_score(ScoreConfig(
            model=str(tiny_model), data=DATA, out=str(tmp_path / name), batch_tokens=batch_tokens, limit=4, spans="question",
        ))).rows())  # fmt: skip

    for a, b in zip(rows("a", 700), rows("b", budget), strict=True):
        for name in ("logprob", "entropy", "delta_mean"):
            gap = np.abs(np.array(a[name], dtype=float) - np.array(b[name], dtype=float))
            assert np.nanmax(gap) < BOUND, name
