"""The real commands: what they write, that they repeat to the bit, and each kind of bad input as one line with exit
code 2."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.data.datasets import load_rows
from shared.data.examples import make_examples
from shared.files.fs import hash_file
from shared.lm.models import model_fingerprint
from shared.store.scores import open_store
from tests.conftest import CHATML, build_tokenizer
from tests.tu_train.conftest import FORGET, FULL, RETAIN, flip_bit, log_of, score, weights_of
from tu_train.methods.table import METHODS

HELP_S = 0.5
HELP_TRIES = 10
SHORT = ("--device", "cpu", "--epochs", 2, "--learning-rate", 1e-3, "--set", "batch_size=3")
HEAVY = ("torch", "transformers", "pyarrow", "datasets")


def nll(folder, spec) -> float:
    """Nats a target token, by plain transformers on whole rows."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for example in make_examples(load_rows(spec), tokenizer, context=512):
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
        total -= sum(logp[t - 1, example.input_ids[t]].item() for t in example.targets)
        count += len(example.targets)
    return total / count


def files(folder: Path) -> dict:
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def run(run_cli, target, scores, tmp_path):
    """`run(...)`: tu-train run on the tiny set-up; later flags win over the usual ones. -> code, stdout, stderr"""

    def make(*more, **paths):
        usual = {"model": target, "scores": scores, "retain": RETAIN, "out": tmp_path / "work" / "out", **paths}
        named = [word for name, value in usual.items() if value is not None for word in (f"--{name}", value)]
        return run_cli("tu-train", "run", *named, *SHORT, *more)

    return make


@pytest.fixture
def refused(run, tmp_path):
    """`refused(...)`: the one line that `run(...)` is refused with; nothing may have been written anywhere."""

    def make(*more, **paths):
        (tmp_path / "work").mkdir(exist_ok=True)
        before = files(tmp_path)
        line = one_line(run(*more, **paths))
        assert files(tmp_path) == before
        return line

    return make


def one_line(result) -> str:
    code, out, err = result
    assert code == 2, (out, err)
    assert out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1, err
    return err


def test_finetune_lowers_the_nll_of_its_data(run_cli, tiny_model, tmp_path):
    out = tmp_path / "deep" / "model"
    options = ("--device", "cpu", "--epochs", 4, "--learning-rate", 5e-3)
    code, stdout, err = run_cli("tu-train", "finetune", "--model", tiny_model, "--data", FULL, "--out", out, *options)
    assert code == 0, err
    assert f"fine-tuned model: {out}" in stdout
    assert nll(out, FULL) < nll(tiny_model, FULL) - 1
    log = log_of(out)
    assert len(log) == 8 and log[-1]["retain_nll"] < log[0]["retain_nll"] - 1
    about = json.loads((out / "training.json").read_text())
    assert about["task"] == "finetune" and about["start_model"] == model_fingerprint(tiny_model)
    again = tmp_path / "again"
    assert run_cli("tu-train", "finetune", "--config", out / "_config.toml", "--out", again)[0] == 0
    assert weights_of(again) == weights_of(out)


EXTRA = {"altpo": ("--set", "alternate_key=perturbed_answer"), "rmu": ("--option", "layer=1")}
STRONG = ("graddiff", "npo")
"""methods whose few steps at this learning rate already show"""


@pytest.mark.parametrize("tokens", ["all", "hard", "soft"])
@pytest.mark.parametrize("method", METHODS)
def test_run_trains_under_every_method_and_mode(method, tokens, run, scores, target, tmp_path):
    out = tmp_path / "out"
    epochs = 2 if method in STRONG else 1
    data = {"retain": None} if METHODS[method].retain == "none" else {}
    code, stdout, err = run("--method", method, "--tokens", tokens, *EXTRA.get(method, ()), "--epochs", epochs, out=out, **data)
    assert code == 0, err
    assert f"unlearned model: {out}" in stdout
    assert weights_of(out) != weights_of(target)
    if method in STRONG:
        assert nll(out, FORGET) > nll(target, FORGET) + 0.2
    assert {"log.jsonl", "training.json", "_config.toml", "config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(out))
    assert [r["step"] for r in log_of(out)] == list(range(2 * epochs))
    about = json.loads((out / "training.json").read_text())
    assert about["task"] == "unlearn" and about["store"] == hash_file(scores / "_manifest.json")
    assert about["settings"]["method"] == method and about["settings"]["tokens"] == tokens
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not list(out.rglob(".tmp-*"))


def test_what_a_method_keeps_beside_the_model_is_written(run, tmp_path):
    assert run("--method", "pdu", "--option", "step=0.5", "--option", "epsilon=0.25", out=tmp_path / "pdu")[0] == 0
    dual = 1.0
    for line in log_of(tmp_path / "pdu"):
        dual = max(0.0, dual + 0.5 * (line["retain_loss"] - 0.25))
    assert json.loads((tmp_path / "pdu" / "method.json").read_text()) == {"dual": [pytest.approx(dual)]} and dual != 1.0
    landing = ("--eval-every", 1, "--stop-when", "forget_nll>0", "--set", "land=true")  # it keeps weights in the state as well
    assert run("--method", "npo", *landing, out=tmp_path / "npo")[0] == 0 and not (tmp_path / "npo" / "method.json").exists()


def test_lora_is_merged_and_its_adapter_kept_with_a_warning(run, target, tmp_path):
    code, stdout, err = run("--lora", 4, out=tmp_path / "out")
    assert code == 0, err
    assert "an adapter can simply be taken off" in stdout
    assert "relearned" in (tmp_path / "out" / "adapter" / "README.md").read_text()
    names = set(AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict())
    assert names == set(AutoModelForCausalLM.from_pretrained(target).state_dict())
    assert nll(tmp_path / "out", FORGET) != nll(target, FORGET)


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--lora", 4, "--set", "lora_targets=q_prj"), "'q_prj' is the ending of no linear layer's name"),
    (("--set", "train_only=*.down_prj.*"), "'*.down_prj.*' matches no parameter"),
])  # fmt: skip
def test_names_that_match_nothing_list_near_ones(arguments, expected, refused):
    line = refused(*arguments)
    assert expected in line and "near names: model." in line


def test_evaluation_is_logged_and_ends_training(run, tmp_path):
    assert run("--eval-every", 1, "--stop-when", "forget_probability<0.999", out=tmp_path / "out")[0] == 0
    log = log_of(tmp_path / "out")
    assert len(log) == 1
    assert {"eval_forget_nll", "eval_retain_nll", "eval_forget_probability", "eval_retain_probability"} <= set(log[0])
    assert json.loads((tmp_path / "out" / "training.json").read_text())["stopped_early"] == "forget_probability<0.999"


@pytest.mark.parametrize("tokens", ["given", "random"])
def test_ceiling_and_floor_of_a_study(tokens, run, tmp_path):
    assert run("--tokens", tokens, out=tmp_path / "out")[0] == 0
    assert tokens in json.loads((tmp_path / "out" / "training.json").read_text())["weights"]


def test_retain_rows_that_are_forget_rows_are_dropped_by_name(run, refused, tmp_path):
    code, _, err = run(retain=FULL, out=tmp_path / "out")
    assert code == 0 and "left out 6 retain rows that are forget rows too: atlas/full/" in err
    assert "the retain data is empty" in refused(retain=FORGET)


def test_kl_from_a_scored_retain_store(run, refused, target, tmp_path):
    bare = score(target, tmp_path / "bare", data=RETAIN)
    kl = ("--set", "retain_term=kl")
    assert "tu-score run --topk 64" in refused("--set", f"retain_scores={bare}", *kl, retain=None)
    rich = score(target, tmp_path / "rich", data=RETAIN, topk=8)
    assert run("--set", f"retain_scores={rich}", *kl, retain=None, out=tmp_path / "out")[0] == 0


def test_the_same_command_twice_gives_the_same_bits(run, run_cli, tmp_path):
    first, second, third, other = (tmp_path / name for name in ("first", "second", "third", "other"))
    assert run(out=first)[0] == run(out=second)[0] == run("--seed", 1, out=other)[0] == 0
    assert run_cli("tu-train", "run", "--config", first / "_config.toml", "--out", third)[0] == 0
    assert weights_of(first) == weights_of(second) == weights_of(third)
    assert (first / "log.jsonl").read_bytes() == (second / "log.jsonl").read_bytes()
    assert weights_of(other) != weights_of(first)


def test_a_store_behind_a_url_trains_to_the_same_bits(run, scores, tmp_path):
    files = fsspec.filesystem("memory")
    for path in scores.iterdir():
        files.pipe_file(f"/bucket/store/{path.name}", path.read_bytes())
    try:
        for out, where in ((tmp_path / "here", scores), (tmp_path / "there", "memory://bucket/store")):
            assert run(out=out, scores=where)[0] == 0
    finally:
        files.store.clear()
    assert weights_of(tmp_path / "here") == weights_of(tmp_path / "there")


def test_a_store_on_s3_trains_to_the_same_bits(run, scores, tmp_path, s3):
    url = s3.bucket("trains") + "/store"
    for path in scores.iterdir():
        s3.client().put_object(Bucket="trains", Key=f"store/{path.name}", Body=path.read_bytes())
    before, asked = s3.contents("trains"), len(s3.asked)
    for out, where in ((tmp_path / "here", scores), (tmp_path / "there", url)):
        assert run(out=out, scores=where)[0] == 0
    assert weights_of(tmp_path / "here") == weights_of(tmp_path / "there")
    assert s3.contents("trains") == before and all(request.startswith(("GET", "HEAD")) for request in s3.asked[asked:])


def test_a_store_on_s3_that_cannot_be_had_is_refused_in_one_line(refused, s3, monkeypatch):
    url = s3.bucket("refuses") + "/store"
    assert f"{url}: no score store here" in refused(scores=url)
    assert "s3://no-bucket/store: no score store here" in refused(scores="s3://no-bucket/store")
    monkeypatch.setattr("shared.files.remote.TRY_S", 0.3)
    s3.stop()
    assert "Could not connect" in refused(scores=url)


def test_text_of_the_data_stays_out_of_what_is_printed(run):
    code, stdout, err = run()
    assert code == 0
    assert not any(row.answer in stdout + err or (row.question or "-") in stdout + err for row in load_rows(FULL))


@pytest.fixture
def copy(scores, tmp_path):
    return shutil.copytree(scores, tmp_path / "copy")


def test_a_missing_or_unfinished_store(refused, copy, tmp_path):
    assert "--scores is missing" in refused(scores=None)
    assert "no score store here" in refused(scores=tmp_path / "nowhere")
    (copy / "_manifest.json").unlink()
    assert f"{copy}: an unfinished scoring run" in refused(scores=copy)


def test_a_store_of_a_newer_format(refused, copy):
    manifest = json.loads((copy / "_manifest.json").read_text())
    (copy / "_manifest.json").write_text(json.dumps({**manifest, "format": 3}))
    assert "store format 3, this version reads up to 2; upgrade" in refused(scores=copy)


def test_a_flipped_bit_names_the_part(refused, copy):
    flip_bit(copy / "part-00001.parquet")
    assert f"{copy / 'part-00001.parquet'}: its bytes are not those" in refused(scores=copy)


def test_a_part_that_is_gone_is_named(refused, copy):
    (last := max(copy.glob("part-*"))).unlink()
    assert f"{last}: the manifest names this part, but it is missing" in refused(scores=copy)


@pytest.mark.parametrize("field", ["tokenizer", "chat template", "model"])
def test_a_store_made_with_something_else_names_the_field(field, refused, target, tiny_base, tmp_path):
    folder = shutil.copytree(target, tmp_path / "foreign")
    (folder / "training.json").unlink()  # it would say that the files are not those that training wrote
    if field == "model":
        shutil.copy(tiny_base / "model.safetensors", folder)
    else:
        tokenizer = build_tokenizer(CHATML.replace("helpful", "patient") if field == "chat template" else CHATML)
        if field == "tokenizer":
            tokenizer.add_tokens(["zyx"])
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)
    message = refused(model=folder)
    assert f"made with another {field} than {folder} has" in message
    assert ("--allow-other-model" in message) == (field == "model")


@pytest.mark.parametrize("keep", ["0", "1.5", "-1"])
def test_keep_outside_its_range(keep, refused):
    assert "--keep is " in refused("--keep", keep)


@pytest.mark.parametrize("tokens", ["hard", "soft"])
def test_a_store_without_importance(tokens, refused, run, target, tmp_path):
    bare = score(target, tmp_path / "bare", spans="none", alpha=1.0)
    assert f"{bare}: the store holds no importance, which --tokens {tokens} needs" in refused("--tokens", tokens, scores=bare)
    assert run("--tokens", "all", scores=bare, out=tmp_path / "fine")[0] == 0


def test_a_threshold_leaves_out_rows_without_a_token_that_important(run, refused, scores, target, tmp_path):
    """Recipe zscore: the largest importance differs from row to row, so that a threshold between them parts the
    rows."""
    ranked = score(target, tmp_path / "ranked", norm="zscore")
    largest = sorted(max(v for v in row["importance"] if v is not None) for row in open_store(ranked).rows())
    code, _, err = run("--set", f"threshold={largest[1]}", scores=ranked, out=tmp_path / "out")
    assert code == 0 and "1 of 6 forget rows have no token that important" in err and "5 forget rows" in err
    about = json.loads((tmp_path / "out" / "training.json").read_text())
    assert about["weights"] == f"hard tokens (threshold {largest[1]})"
    assert "no token of" in refused("--set", f"threshold={min(1, largest[-1] + 0.001)}", scores=ranked)


@pytest.mark.parametrize("choice", [("--set", "top=2"), ("--tokens", "soft", "--set", "soft=linear")])
def test_run_takes_a_top_count_and_linear_weights(choice, run, target, tmp_path):
    assert run(*choice, out=tmp_path / "out")[0] == 0
    assert nll(tmp_path / "out", FORGET) > nll(target, FORGET)


def test_an_output_folder_that_holds_another_run(refused, run, tmp_path):
    out = tmp_path / "earlier"
    assert run(out=out)[0] == 0
    assert f"{out}: already holds files" in refused(out=out)
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(out=tmp_path / "file")


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--method", "nop"), "--method nop: unknown (did you mean 'npo'?); tu-train methods lists them"),
    (("--method", "gradif"), "did you mean 'graddiff'"),
    (("--tokens", "har"), "did you mean 'hard'"),
    (("--set", "learning_rat=1"), "unknown field 'learning_rat' (did you mean 'learning_rate'?)"),
    (("--set", "batch_tokens=0"), "batch_tokens is 0"),
    (("--tokens", "soft", "--set", "temperature=0"), "temperature is 0.0"),
    (("--set", "temperature=1"), "--set temperature is for --tokens soft, this is --tokens hard"),
    (("--set", "soft=linear"), "--set soft is for --tokens soft, this is --tokens hard"),
    (("--tokens", "soft", "--set", "soft=linear", "--set", "temperature=1"), "linear weights have none"),
    (("--tokens", "soft", "--set", "soft=liner"), "did you mean 'linear'"),
    (("--tokens", "soft", "--keep", "0.5"), "--keep is for --tokens hard, this is --tokens soft"),
    (("--tokens", "all", "--set", "top=3"), "--set top is for --tokens hard, this is --tokens all"),
    (("--keep", "0.5", "--set", "top=3"), "--keep and --set top: each chooses the tokens by itself"),
    (("--set", "top=0"), "top is 0, expected at least 1"),
    (("--set", "threshold=0"), "threshold is 0.0, expected an importance"),
    (("--set", "threshold=1.5"), "threshold is 1.5, expected an importance"),
    (("--option", "beta=-1"), "--option beta=-1: --method npo expects more than 0"),
    (("--option", "betta=1"), "--option betta: unknown to --method npo (did you mean 'beta'?)"),
    (("--stop-when", "forget_probability<0.1"), "add --eval-every N"),
    (("--eval-every", "1", "--stop-when", "forget_prob<0.1"), "did you mean 'forget_probability'"),
    (("--set", "optimizer=adamw8bi"), "did you mean 'adamw8bit'"),
    (("--resume",), "no unfinished run to resume"),
    (("--set", "clip=-1"), "clip is -1.0"),
    (("--set", "warmup=2"), "warmup is 2.0"),
    (("--set", "weight_decay=-0.1"), "weight_decay is -0.1"),
    (("--seed", "-1"), "seed is -1"),
    (("--limit", "0"), "limit is 0"),
    (("--dtype", "float16"), "--dtype float16"),
    (("--dtype", "float31"), "did you mean 'float32'"),
])  # fmt: skip
def test_values_that_do_not_fit(arguments, expected, refused):
    assert expected in refused(*arguments)


def test_unknown_data_and_models(refused, tmp_path):
    assert "did you mean 'atlas:'" in refused(retain="atlsa:retain")
    assert "did you mean 'retain'" in refused(retain="atlas:retian")
    assert "--retain is missing" in refused(retain=None)
    assert "no such folder" in refused(model=tmp_path / "nowhere")


def test_cuda_on_a_machine_without_it(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: this machine has no cuda device" in refused("--device", "cuda")


def test_finetune_names_the_row_or_line_that_is_wrong(run_cli, tiny_model, tmp_path):
    data, out = tmp_path / "rows.jsonl", tmp_path / "out"
    good = json.dumps({"question": "Who?", "answer": "Nobody."})
    for text, expected in ((f'{good}\n{{"question": "Who?", "answer": " "}}\n', "rows/rows/1"), (f"{good}\nWho?\n", "line 2 is not JSON")):
        data.write_text(text)
        assert expected in one_line(run_cli("tu-train", "finetune", "--model", tiny_model, "--data", data, "--out", out, *SHORT))
        assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    assert "--data is missing" in one_line(run_cli("tu-train", "finetune", "--model", tiny_model, "--out", out))


def test_a_loss_that_is_not_finite_ends_with_one_line_and_no_folder(run, tmp_path):
    code, stdout, err = run("--set", "gamma=1e300", "--option", "beta=1e-20")
    assert code == 2 and stdout == ""
    assert err.splitlines()[-1].startswith("error: step 0: loss ")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_answers_at_once(arguments):
    """Processor seconds, which on an idle machine are the wall's; tried again, as other work on the machine makes these
    grow too."""
    took = [float("inf")]
    while min(took) >= HELP_S and len(took) <= HELP_TRIES:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([Path(sys.executable).with_name("tu-train"), *arguments], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert "Usage: tu-train" in done.stdout
    assert min(took) < HELP_S, took


def test_the_command_line_imports_nothing_heavy():
    code = f"import sys, tu_train.cli; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
