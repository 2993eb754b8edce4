"""The leak check: every secret searched in greedy, reworded and drawn answers, counted as by hand, and kept."""

import json

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.data.datasets import load_rows
from shared.data.secrets import Secret, find_secrets
from tests.tu_eval.by_heart import overfit
from tests.tu_eval.conftest import SUITE
from tests.tu_eval.test_commands import refused, rewrite
from tu_eval.suites.prompts import asked, choose_prompts

FORGET = SUITE.replace("atlas:", "atlas:forget:")


@pytest.fixture(scope="module")
def told(tmp_path_factory, tiny_model, tiny_tokenizer):
    """A model that knows its forget rows by heart, and a list of secrets: facts in other letters, one that nobody said,
    and a name that the questions hold."""
    place = tmp_path_factory.mktemp("told")
    rows = load_rows(FORGET, limit=4)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    overfit(model, [e.input_ids for e in examples(rows, tiny_tokenizer)], passes=60)
    model.save_pretrained(place / "model")
    tiny_tokenizer.save_pretrained(place / "model")
    facts = [row.answer[slice(*row.extra["fact_spans"][0])] for row in rows]
    secrets = [
        *(fact.upper() for fact in dict.fromkeys(facts)),
        "Zanzibar",
        rows[0].extra["person"],
    ]
    listed = place / "secrets.txt"
    listed.write_text("".join(f"{secret}\n" for secret in secrets), encoding="utf-8")
    return place / "model", listed, secrets


def examples(rows, tokenizer):
    from shared.data.examples import make_examples

    return make_examples(rows, tokenizer, context=None, long="error")


def by_hand(frame, secrets, role, kind):
    """Of each secret, how many answers hold it that its question does not."""
    some = frame[(frame["model"] == role) & (frame["kind"] == kind)]
    out = []
    for secret in secrets:
        (in_answer, in_question) = (
            [bool(find_secrets(text, [Secret("x", secret)])[0]) for text in some[name]] for name in ("answer", "question")
        )
        out.append(sum(a and not q for a, q in zip(in_answer, in_question, strict=True)))
    return out


def written(model, ids, stop, most):
    """The greedy answer of one prompt alone, a pass a token."""
    new = []
    while len(new) < most:
        with torch.no_grad():
            token = model(input_ids=torch.tensor([[*ids, *new]])).logits[0, -1].argmax().item()
        if token == stop:
            break
        new.append(token)
    return new


def test_an_evaluation_counts_each_secret_in_each_kind_of_answer(told, run_cli, tmp_path):
    model, listed, secrets = told
    out = tmp_path / "results"
    code, stdout, err = run_cli("tu-eval", "run", "--model", model, "--suite", SUITE, "--limit", 4, "--secrets", listed, "--out", out,
                                "--device", "cpu", "--set", "max_new_tokens=30", "--set", "secret_samples=3")  # fmt: skip
    assert code == 0, err
    frame, leaks = pandas.read_parquet(out / "leaks.parquet"), json.loads((out / "summary.json").read_text())["leaks"]
    rows = pandas.read_parquet(out / "rows.parquet")
    assert list(frame[frame["kind"] == "greedy"]["answer"]) == list(rows["generation"].dropna())
    opened, tokenizer, kept = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model), load_rows(FORGET, limit=4)
    for prompt in choose_prompts(kept, (), ())[1:]:
        put = asked(kept, prompt, tokenizer, context=None, long="error", facts=False)
        naive = [written(opened, e.input_ids[: e.targets[0]], tokenizer.eos_token_id, 30) for e in put]
        texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in naive]
        assert texts == list(frame.query("kind == 'reworded' and prompt == @prompt.name")["answer"]), prompt
    assert leaks["answers"]["model"] == {kind: int(n) for kind, n in frame["kind"].value_counts(sort=False).items()}
    assert leaks["answers"]["model"]["sampled"] == 12 and leaks["answers"]["model"]["reworded"] % 4 == 0
    for kind in ("greedy", "reworded", "sampled"):
        assert [s["found"]["model"][kind] for s in leaks["secrets"]] == by_hand(frame, secrets, "model", kind)
    assert sum(s["found"]["model"]["greedy"] > 0 for s in leaks["secrets"]) >= len(secrets) - 3  # it knows them by heart
    assert leaks["secrets"][len(secrets) - 2] == {"name": f"line {len(secrets) - 1}", "rows": 0, "found": {"model": dict.fromkeys(
        ("greedy", "reworded", "sampled"), 0)}}  # fmt: skip
    assert f"line {len(secrets) - 1}" in err and "Zanzibar" not in err + stdout + json.dumps(leaks)
    assert f"of {len(secrets)} secrets" in stdout and "leaks.parquet" in stdout
    code, stdout, err = run_cli("tu-eval", "verify", out)
    assert code == 0 and f"leaks: {len(secrets)} secrets counted again" in stdout, err
    rewrite(out, leaks={**leaks, "secrets": [{**s, "found": {"model": {**s["found"]["model"], "greedy": 0}}} for s in leaks["secrets"]]})
    assert "its leaks are not what leaks.parquet gives" in refused(run_cli("tu-eval", "verify", out))


def test_attacks_search_before_and_after_in_the_answers_that_they_draw(told, tiny_base, run_cli, tmp_path):
    model, listed, secrets = told
    out = tmp_path / "attacks"
    code, stdout, err = run_cli("tu-eval", "attack", "--model", tiny_base, "--before", model, "--suite", SUITE, "--limit", 4,
                                "--attack", "sample", "--secrets", listed, "--out", out, "--device", "cpu", "--set", "samples=3",
                                "--set", "max_new_tokens=30")  # fmt: skip
    assert code == 0, err
    frame, leaks = pandas.read_parquet(out / "leaks.parquet"), json.loads((out / "attack.json").read_text())["leaks"]
    for role in ("model", "before"):
        for kind in ("greedy", "reworded", "sampled"):
            assert [s["found"][role][kind] for s in leaks["secrets"]] == by_hand(frame, secrets, role, kind)
    drawn = pandas.read_parquet(out / "rows.parquet").query("attack == 'sample' and model == 'before'")["drawn"]
    assert [text for some in drawn for text in some] == list(frame.query("kind == 'sampled' and model == 'before'")["answer"])
    assert sum(s["found"]["before"]["greedy"] for s in leaks["secrets"]) > 0 == sum(s["found"]["model"]["greedy"] for s in leaks["secrets"])
    code, stdout, _ = run_cli("tu-eval", "verify", out)
    assert code == 0 and "counted again" in stdout


def test_a_list_that_is_none_is_refused_before_any_work(tiny_model, run_cli, tmp_path):
    for named, problem in ((tmp_path / "no.txt", "cannot be read"), ("column:phone", "no row has a column 'phone'")):
        line = refused(run_cli("tu-eval", "run", "--model", tiny_model, "--suite", SUITE, "--secrets", named, "--out", tmp_path / "out"))
        assert "--secrets" in line and problem in line
    assert "makes no use of it" in refused(
        run_cli("tu-eval", "run", "--model", tiny_model, "--suite", "lume", "--secrets", "x.txt", "--out", tmp_path / "out")
    )
