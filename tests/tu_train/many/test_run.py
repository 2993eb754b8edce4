"""Many runs: the product and its order, what is left out and merged, what is skipped, and what happens after a failure
or a kill."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from shared.errors import ConfigError, ModelError
from shared.lm.finished import output_record
from tests.tu_train.conftest import RETAIN, score
from tu_train.many import run as many
from tu_train.many.content import columns_read
from tu_train.stopping.interrupts import EXIT_SAVED

TWO = 'method = ["graddiff", "npo"]\ntokens = "all"\n'


@pytest.fixture
def study(target, scores, tmp_path):
    """`study(text)` -> a study file on the tiny set-up."""

    def make(text: str) -> Path:
        path = tmp_path / "study.toml"
        usual = f'model = "{target}"\nscores = "{scores}"\nretain = "{RETAIN}"\ndevice = "cpu"\nepochs = 1\n'
        path.write_text(usual + text, encoding="utf-8")
        return path

    return make


def finish(folder: Path, model: Path) -> Path:
    """A folder as a finished run leaves it."""
    shutil.copytree(model, folder)
    (folder / "training.json").write_text(json.dumps({"format": 1, "settings": {}, "counts": {}, **output_record(folder)}))
    return folder


@pytest.fixture
def trained(monkeypatch, target):
    """Stands in for training: the configurations it was asked for; `trained.fault` maps a method to what its run
    raises."""

    class Calls(list):
        fault: dict[str, BaseException]

    calls = Calls()
    calls.fault = {}

    def train(config):
        calls.append(config)
        if config.method in calls.fault:
            raise calls.fault[config.method]
        finish(Path(config.out), target)

    monkeypatch.setattr(many, "run_unlearn", train)
    return calls


def names(runs) -> list[str]:
    return [run.name for run in runs]


def index(out: Path) -> list[dict]:
    found = json.loads((out / "index.json").read_text())
    assert found["format"] == 1
    return found["runs"]


# --- the product


def test_the_first_field_of_the_file_is_the_outermost_loop(study, tmp_path):
    found = many.plan(study('seed = [0, 1]\nmethod = ["npo", "graddiff"]\ntokens = "all"\n'), tmp_path / "out")
    assert names(found) == ["npo-all-seed0", "graddiff-all-seed0", "npo-all-seed1", "graddiff-all-seed1"]
    assert [r.config.seed for r in found] == [0, 0, 1, 1]


def test_what_a_token_mode_does_not_use_is_left_out_and_equal_combinations_are_one_run(study, tmp_path):
    found = many.plan(study('tokens = ["all", "hard", "soft"]\nkeep = [0.1, 0.3]\ntemperature = 0.5\n'), tmp_path / "out")
    wanted = [("all", None, None), ("hard", 0.1, None), ("hard", 0.3, None), ("soft", None, 0.5)]
    assert [(r.config.tokens, r.config.keep, r.config.temperature) for r in found] == wanted


def test_an_option_is_left_out_of_methods_that_do_not_have_it(study, tmp_path):
    found = many.plan(study('method = ["npo", "graddiff"]\n[options]\nbeta = [0.1, 0.2]\n'), tmp_path / "out")
    assert [(r.config.method, r.config.options) for r in found] == [("npo", {"beta": 0.1}), ("npo", {"beta": 0.2}), ("graddiff", {})]


def test_a_field_that_is_a_list_by_itself_varies_as_a_list_of_lists(study, tmp_path):
    assert [r.config.train_only for r in many.plan(study('train_only = ["a", "b"]\n'), tmp_path / "out")] == [("a", "b")]
    assert [r.config.train_only for r in many.plan(study('train_only = [["a"], ["a", "b"]]\n'), tmp_path / "out")] == [("a",), ("a", "b")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("epochz = 1\n", r"study\.toml: unknown field 'epochz' \(did you mean 'epochs'\?\)"),
        ("seed = []\n", "seed is an empty list"),
        ('seed = [0, "x"]\n', "seed: got 'x', expected int"),
        ('out = "x"\n', "out is not for a study"),
        ('tokens = "all"\nkeep = 0.3\n', "keep = 0.3: no combination of the study can use it: --keep is for --tokens hard"),
        ('tokens = ["hard", "all"]\nkeep = [0.3, 1.5]\n', "keep = 1.5: no combination"),
        ('tokens = "hard"\nkeep = 0.3\ntop = 2\n', "top = 2: no combination of the study can use it: --keep and --set top"),
        ('method = ["npo", "npoo"]\n', "npoo: unknown"),
        ('lora_alpha = 2.0\n', "lora_alpha = 2.0: no combination"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_run_is_refused_before_anything_is_written(study, tmp_path, trained, text, line):
    with pytest.raises(ConfigError, match=line):
        many.run_many(study(text), tmp_path / "out")
    assert not trained and not (tmp_path / "out").exists()


# --- running


def test_finished_runs_are_skipped_by_content_whatever_they_are_called(study, tmp_path, trained):
    out = tmp_path / "out"
    many.run_many(study(TWO), out)
    assert [c.method for c in trained] == ["graddiff", "npo"]
    assert [(r["name"], r["status"], r["error"]) for r in index(out)] == [("graddiff-all", "finished", None), ("npo-all", "finished", None)]
    assert all((out / r["folder"]).is_dir() for r in index(out))
    again = many.run_many(study(TWO + "seed = [0, 1]\n"), out)
    assert [(c.method, c.seed) for c in trained[2:]] == [("graddiff", 1), ("npo", 1)]
    assert [r.status for r in again] == ["finished"] * 4
    many.run_many(study(TWO + "weight_decay = 0.5\n"), out)
    assert [c.weight_decay for c in trained[4:]] == [0.5, 0.5], "the same names, other settings"


def test_a_failed_run_is_noted_and_the_next_one_begins(study, tmp_path, trained):
    trained.fault = {"graddiff": ModelError("step 3: not\nfinite")}
    runs = many.run_many(study(TWO), tmp_path / "out")
    assert [(r.status, r.error) for r in runs] == [("failed", "step 3: not finite"), ("finished", None)]
    assert [(r["status"], r["error"]) for r in index(tmp_path / "out")] == [(r.status, r.error) for r in runs]
    trained.fault = {}
    assert [r.status for r in many.run_many(study(TWO), tmp_path / "out")] == ["finished", "finished"]
    assert [c.method for c in trained] == ["graddiff", "npo", "graddiff"]


def test_after_a_kill_the_unfinished_run_is_resumed_and_a_half_written_folder_is_no_run(study, tmp_path, trained):
    out, trained.fault = tmp_path / "out", {"npo": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        many.run_many(study(TWO), out)
    assert [r["status"] for r in index(out)] == ["finished", "waiting"]
    killed = Path(trained[-1].out)
    killed.with_name(killed.name + ".unfinished").mkdir()
    killed.with_name(".tmp-" + killed.name).mkdir()
    trained.fault = {}
    many.run_many(study(TWO), out)
    assert [(c.out, c.resume) for c in trained[2:]] == [(str(killed), True)]
    assert [r["status"] for r in index(out)] == ["finished", "finished"]


def test_the_command_says_what_failed_with_exit_code_1(study, tmp_path, trained, run_cli):
    trained.fault = {"graddiff": ModelError("not finite")}
    code, out, _ = run_cli("tu-train", "many", study(TWO), "--out", tmp_path / "out")
    assert code == 1 and "graddiff-all: not finite" in out
    trained.fault = {}
    assert run_cli("tu-train", "many", study(TWO), "--out", tmp_path / "out")[0] == 0


# --- what a run is known by


def test_a_scored_retain_set_counts_by_its_content_wherever_it_lies(study, target, tmp_path):
    def content(folder) -> str:
        path = study(f'retain_term = "kl"\nretain_scores = "{folder}"\n')
        path.write_text(path.read_text().replace(f'retain = "{RETAIN}"\n', ""), encoding="utf-8")
        (run,) = many.plan(path, tmp_path / "out")
        return run.content

    one, two = (score(target, tmp_path / f"top{k}", data=RETAIN, topk=k) for k in (4, 8))
    assert content(one) == content(shutil.copytree(one, tmp_path / "moved")) != content(two)


def test_retain_none_is_a_run_of_its_own_and_trains(study, tmp_path):
    path = study('method = ["npo", "graddiff"]\ntokens = "all"\n')
    path.write_text(path.read_text().replace(f'"{RETAIN}"', f'["{RETAIN}", "none"]'), encoding="utf-8")
    runs = many.run_many(path, tmp_path / "out")
    assert [(r.config.retain, r.config.method) for r in runs] == [(k, m) for k in (RETAIN, "none") for m in ("npo", "graddiff")]
    assert len({r.content for r in runs}) == 4 and [r.status for r in runs] == ["finished"] * 4
    counts = [json.loads((Path(r.config.out) / "training.json").read_text())["counts"]["retain_rows"] for r in runs]
    assert counts == [6, 6, 0, 0]


# --- finished means complete


@pytest.mark.parametrize("there", ["an empty folder", "a file", "a dangling link", "a folder without a record", "only a record"])
def test_what_only_has_the_name_of_a_run_is_none(there, study, tmp_path, trained, target):
    out = tmp_path / "out"
    (run,) = many.plan(study('method = "graddiff"\ntokens = "all"\n'), out)
    folder = Path(run.config.out)
    out.mkdir()
    if there == "a file":
        folder.write_text("")
    elif there == "a dangling link":
        folder.symlink_to(tmp_path / "nowhere")
    else:
        folder.mkdir()
    if there == "a folder without a record":
        shutil.copytree(target, folder, dirs_exist_ok=True)
        (folder / "training.json").unlink()
    elif there == "only a record":
        (folder / "training.json").write_text('{"settings": {}}')
    (run,) = many.plan(study('method = "graddiff"\ntokens = "all"\n'), out)
    assert run.status == ("failed" if there == "only a record" else "waiting")


def test_a_finished_run_whose_weights_have_changed_fails_and_the_others_go_on(study, tmp_path, trained, run_cli):
    out = tmp_path / "out"
    runs = many.run_many(study(TWO), out)
    weights = Path(runs[0].config.out) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    (Path(runs[1].config.out) / "training.json").unlink()
    shutil.rmtree(runs[1].config.out)
    code, said, _ = run_cli("tu-train", "many", study(TWO), "--out", out)
    assert code == 1 and f"delete {runs[0].config.out} to train it again" in said
    assert [r["status"] for r in index(out)] == ["failed", "finished"]


def test_what_a_run_that_was_killed_after_its_end_left_is_removed(study, tmp_path, trained):
    out = tmp_path / "out"
    (run,) = many.run_many(study('method = "graddiff"\ntokens = "all"\n'), out)
    left = Path(run.config.out + ".unfinished")
    (left / "checkpoint-000001").mkdir(parents=True)
    assert [r.status for r in many.run_many(study('method = "graddiff"\ntokens = "all"\n'), out)] == ["finished"]
    assert not left.exists()


# --- what changes no result


EVALUATED = 'method = "graddiff"\ntokens = "all"\neval_every = 2\n'


@pytest.mark.parametrize(
    ("text", "more", "trains"),
    [
        (EVALUATED, 'trackers = ["tensorboard"]\n', False),
        (EVALUATED, "checkpointing = false\n", False),
        (EVALUATED, "batch_tokens = 4096\n", False),
        (EVALUATED.replace("2", "1"), "", False),
        (EVALUATED.replace("2", "1"), 'stop_when = "forget_nll>9"\n', True),
        (EVALUATED, "eval_rows = 3\n", True),
    ],
)
def test_a_finished_run_is_kept_when_what_changed_has_no_effect(text, more, trains, study, tmp_path, trained):
    (first,) = many.run_many(study(EVALUATED), tmp_path / "out")
    (again,) = many.run_many(study(text + more), tmp_path / "out")
    assert len(trained) == 1 + trains and (again.config.out == first.config.out) is not trains


def test_evaluations_that_may_end_a_run_are_a_part_of_it(study, tmp_path, trained):
    rule = 'stop_when = "forget_nll>9"\n'
    many.run_many(study(EVALUATED + rule), tmp_path / "out")
    many.run_many(study(EVALUATED.replace("2", "1") + rule), tmp_path / "out")
    assert len(trained) == 2


@pytest.mark.parametrize("ending", ["", ".unfinished"])
def test_folders_that_earlier_versions_named_are_found(ending, study, target, tmp_path, trained):
    out = tmp_path / "out"
    (run,) = many.plan(study(EVALUATED), out)
    out.mkdir()
    earlier = out / f"any name-{run.earlier}"
    if ending:
        earlier.with_name(earlier.name + ending).mkdir()
    else:
        finish(earlier, target)
    (found,) = many.run_many(study(EVALUATED), out)
    assert run.earlier != run.content and found.config.out == str(earlier) and found.status == "finished"
    assert [c.resume for c in trained] == ([True] if ending else [])


# --- columns that a run reads


@pytest.mark.parametrize(
    ("text", "column", "value"),
    [
        ('tokens = "given"\n', "fact_spans", [[1, 2]]),
        ('tokens = "all"\nmethod = "altpo"\nalternate_key = "other"\n', "other", "Another one."),
        ('tokens = "all"\neval_every = 1\neval_key = "spans"\n', "spans", [[1, 2]]),
        ('tokens = "all"\neval_every = 1\nparaphrase_key = "again"\n', "again", "Once more."),
    ],
)
def test_an_edited_column_makes_another_run(text, column, value, study, target, tmp_path, trained):
    rows = [{"question": f"Who is {n}?", "answer": f"{n} is a baker.", "fact_spans": [[0, 1]], "other": "B.", "spans": [[0, 1]],
             "again": "A baker."} for n in "ABCD"]  # fmt: skip
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    store = score(target, tmp_path / "store", data=str(data))
    path = study(text)
    path.write_text(
        path.read_text().replace(next(x for x in path.read_text().splitlines() if x.startswith("scores")), f'scores = "{store}"')
    )
    (first,) = many.run_many(path, tmp_path / "out")
    data.write_text("\n".join(json.dumps({**row, "unread": 1}) for row in rows))
    (same,) = many.run_many(path, tmp_path / "out")
    data.write_text("\n".join(json.dumps({**row, column: value}) for row in rows))
    (changed,) = many.run_many(path, tmp_path / "out")
    assert first.content == same.content != changed.content and len(trained) == 2


def test_an_edited_earlier_turn_of_a_conversation_makes_another_run(study, tmp_path, trained):
    data, path = tmp_path / "chats.jsonl", study('method = "graddiff"\ntokens = "all"\n')
    path.write_text(path.read_text().replace(f'"{RETAIN}"', f'"{data}"'))

    def content(earlier: str) -> str:
        turns = [("user", "Who is Ann?"), ("assistant", earlier), ("user", "And Bo?"), ("assistant", "Bo is a cook.")]
        data.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
        (run,) = many.plan(path, tmp_path / "out")
        return run.content

    assert content("Ann is a baker.") == content("Ann is a baker.") != content("Ann is a smith.")


def test_an_edited_system_prompt_of_a_retain_row_makes_another_run(study, tmp_path, trained):
    data, path = tmp_path / "retain.jsonl", study('method = "graddiff"\ntokens = "all"\n')
    path.write_text(path.read_text().replace(f'"{RETAIN}"', f'"{data}"'))

    def content(**more: object) -> str:
        data.write_text(json.dumps({"question": "Кто такая Аня?", "answer": "Она пекарь.", **more}))
        (run,) = many.plan(path, tmp_path / "out")
        return run.content

    assert content() == content(system=None) == content(system="  ") == content(other="x")
    assert len({content(), content(system="Отвечай кратко."), content(system="Отвечай подробно.")}) == 3


def test_columns_that_a_run_does_not_read_leave_the_names_of_earlier_versions(study, tmp_path):
    (run,) = many.plan(study('method = "graddiff"\ntokens = "all"\nforget_data = "atlas:forget"\n'), tmp_path / "out")
    assert not columns_read(run.config)


def test_credentials_stand_in_no_index(study, tmp_path, trained):
    trained.fault = {"graddiff": ModelError("data https://me:hunter2@host/x?token=abc: gone")}
    path = study('method = "graddiff"\ntokens = "all"\nrefusals = "https://me:hunter2@host/x"\n')
    path.write_text(path.read_text().replace('refusals = "https://me:hunter2@host/x"\n', ""))
    many.run_many(path, tmp_path / "out")
    assert "hunter2" not in (tmp_path / "out" / "index.json").read_text() and "abc" not in index(tmp_path / "out")[0]["error"]


# --- and through the real commands

READS = {
    "given_key": ('tokens = "given"\ngiven_key = "spans"\n', "spans", [[0, 3]]),
    "eval_key": ('tokens = "all"\neval_every = 1\neval_key = "spans"\n', "spans", [[0, 3]]),
    "paraphrase_key": ('tokens = "all"\neval_every = 1\nparaphrase_key = "again"\n', "again", "Once more."),
    "alternate_key": ('tokens = "all"\nmethod = "altpo"\nalternate_key = "again"\n', "again", "Once more."),
}


@pytest.fixture
def facts(target, tmp_path):
    """A file of rows with columns, and its store; `facts(column=value)` edits one column of every row."""
    rows = [{"question": f"Who is {n}?", "answer": f"{n} is a baker.", "spans": [[5, 15]], "again": "A baker."} for n in ("Ann", "Bob")]
    data = tmp_path / "rows.jsonl"

    def write(**columns):
        data.write_text("\n".join(json.dumps({**row, **columns}) for row in rows))

    write()
    write.store = score(target, tmp_path / "store", data=str(data))
    return write


@pytest.mark.parametrize("key", READS)
def test_a_sweep_trains_a_finished_run_again_when_the_column_that_it_reads_was_edited(key, study, facts, tmp_path, run_cli):
    text, column, value = READS[key]
    path = study(text)
    path.write_text(re.sub(r"(?m)^scores = .*$", lambda _: f'scores = "{facts.store}"', path.read_text()))
    steps = []
    for edit in ({}, {"unread": 1}, {column: value}):
        facts(**edit)
        code, _, err = run_cli("tu-train", "many", path, "--out", tmp_path / "out")
        assert code == 0, err
        steps.append(len([p for p in (tmp_path / "out").iterdir() if (p / "training.json").is_file()]))
    assert steps == [1, 1, 2]


@pytest.mark.parametrize("key", READS)
def test_resume_refuses_when_the_column_that_a_run_reads_was_edited(key, study, facts, tmp_path, run_cli, monkeypatch):
    from tu_train import loop

    text, column, value = READS[key]
    path, forward_pass = study(text), loop.forward_pass
    path.write_text(re.sub(r"(?m)^scores = .*$", lambda _: f'scores = "{facts.store}"', path.read_text()))

    def stopping(*given, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return forward_pass(*given, **more)

    command = ("tu-train", "run", "--config", path, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "forward_pass", stopping)
        assert run_cli(*command, "--set", "epochs=2")[0] == EXIT_SAVED
    facts(**{column: value})
    code, _, err = run_cli(*command, "--set", "epochs=2", "--resume")
    what = {"given_key": "given tokens", "eval_key": "eval tokens", "paraphrase_key": "paraphrases", "alternate_key": "other answers"}[key]
    assert code == 2 and f"--resume: the {what} is" in err
    facts()
    code, _, err = run_cli(*command, "--set", "epochs=2", "--resume")
    assert code == 0, err
