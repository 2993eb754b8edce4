"""`tu-eval attack` as a command: what it writes, that a killed run goes on, and each kind of bad input as one line,
exit code 2."""

import json
import shutil
import tomllib

import pandas
import pytest

from shared.data.datasets import load_rows
from tests.conftest import build_tokenizer
from tests.tu_eval.conftest import SUITE
from tests.tu_eval.test_commands import refused
from tu_eval.attacks import sample
from tu_eval.attacks.config import AttackConfig
from tu_eval.attacks.run import ATTACK_FOLDER, print_attacks, schema
from tu_eval.metrics.rouge import rouge_l_recall
from tu_eval.results.folder import ROWS, write_folder

SMALL = (
    *("--suite", SUITE, "--limit", 4, "--device", "cpu", "--set", "samples=5", "--set", "max_new_tokens=6"),
    *("--set", "relearn_steps=3", "--set", "relearn_rows=2", "--set", "relearn_batch=2", "--set", "learning_rate=1e-3"),
)


@pytest.fixture(scope="module")
def attacked(tiny_model, tiny_base, make_tiny, tmp_path_factory):
    """A finished folder: all attacks on three models."""
    from tu_eval.attacks.run import attack

    out = tmp_path_factory.mktemp("attacks") / "deep" / "run"
    models = {"model": str(tiny_model), "before": str(make_tiny("Llama", seed=2)), "retain": str(tiny_base)}
    small = {"samples": 5, "max_new_tokens": 6, "relearn_steps": 3, "relearn_rows": 2, "relearn_batch": 2, "learning_rate": 1e-3}
    attack(AttackConfig(**models, suite=SUITE, out=str(out), limit=4, device="cpu", **small))
    return out


def numbers(folder):
    about = json.loads((folder / "attack.json").read_text())
    return {(n["attack"], n["setting"], n["measure"]): n for n in about["numbers"]}


def test_every_attack_gives_a_number_for_each_model(attacked):
    assert sorted(p.name for p in attacked.iterdir()) == ["_config.toml", "attack.json", "rows.parquet"]
    assert not attacked.with_name("run.unfinished").exists()
    found = numbers(attacked)
    assert {key[0] for key in found} == {"paraphrase", "sample", "quantise", "nf4", "relearn"}
    frame = pandas.read_parquet(attacked / "rows.parquet")
    assert set(frame["model"]) == {"model", "before", "retain"}
    for key, number in found.items():
        for role in ("model", "before", "retain"):
            assert number[role] is not None or key[2] == "steps_to_half", key
    # the models differ, and every one is the unattacked model again when the next attack begins
    for role in ("model", "before", "retain"):
        starts = [found["quantise", "as it is", "probability"][role], found["paraphrase", "plain", "probability"][role]]
        steps = frame[(frame["model"] == role) & (frame["step"] == 0)]["probability"].mean()
        assert starts[0] == pytest.approx(starts[1], rel=1e-6) and steps == pytest.approx(starts[0], rel=1e-6)
    plain = found["paraphrase", "plain", "probability"]
    assert len({plain[role] for role in ("model", "before", "retain")}) == 3
    assert found["relearn", "all steps", "steps_to_half"]["before"] == 0


def test_unattacked_numbers_are_those_of_an_evaluation(attacked, target_results):
    rows = pandas.read_parquet(target_results / "rows.parquet").query("set == 'forget'").set_index("example_id")
    frame = pandas.read_parquet(attacked / "rows.parquet").query("model == 'model' and setting == 'plain'").set_index("example_id")
    assert len(frame) == 4
    for column in ("probability", "fact_probability"):
        assert frame[column].tolist() == pytest.approx(rows.loc[frame.index, column].tolist(), rel=1e-6)


def test_the_command_prints_a_table_and_its_settings_give_the_same_numbers_again(run_cli, tiny_model, tmp_path):
    out, again = tmp_path / "one", tmp_path / "two"
    code, stdout, err = run_cli("tu-eval", "attack", "--model", tiny_model, *SMALL, "--out", out)
    assert code == 0, err
    assert "fact in 5" in stdout and "step 3" in stdout and "step 2" not in stdout and str(out) in stdout
    frame = pandas.read_parquet(out / "rows.parquet")
    assert set(frame["model"]) == {"model"}
    assert not any(found in err for found in frame["found"].dropna() if len(found) > 5)  # text of the data stays out of the log
    assert tomllib.loads((out / "_config.toml").read_text())["relearn_steps"] == 3
    assert run_cli("tu-eval", "attack", "--config", out / "_config.toml", "--out", again)[0] == 0
    assert (again / "rows.parquet").read_bytes() == (out / "rows.parquet").read_bytes()
    assert json.loads((again / "attack.json").read_text()) == json.loads((out / "attack.json").read_text())


def test_a_killed_run_goes_on_at_the_attack_it_was_at(run_cli, tiny_model, tmp_path, monkeypatch):
    from tu_eval.attacks import paraphrase, relearn

    out, whole = tmp_path / "one", tmp_path / "two"
    arguments = ("tu-eval", "attack", "--model", tiny_model, *SMALL, "--attack", "paraphrase", "--attack", "relearn", "--out")
    assert run_cli(*arguments, whole)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(relearn, "relearn", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            from tu_eval.attacks.run import attack

            attack(AttackConfig(**tomllib.loads((whole / "_config.toml").read_text()) | {"out": str(out)}))
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(paraphrase, "paraphrase", lambda *_: pytest.fail("measured again"))
        code, _, err = run_cli(*arguments, out)
    assert code == 0, err
    assert "paraphrase: already measured" in err
    assert (out / "rows.parquet").read_bytes() == (whole / "rows.parquet").read_bytes()


def test_other_weights_or_settings_under_the_same_path_are_attacked_anew(run_cli, make_tiny, tmp_path):
    model, store = tmp_path / "model", tmp_path / "store"
    shutil.copytree(make_tiny("Llama", seed=0), model)
    arguments = ("tu-eval", "attack", "--model", model, *SMALL, "--attack", "quantise", "--store", store, "--out")
    assert "already measured" not in run_cli(*arguments, tmp_path / "one")[2]
    assert "already measured" in run_cli(*arguments, tmp_path / "two")[2]
    assert "already measured" not in run_cli(*arguments, tmp_path / "three", "--set", "group=16")[2]
    shutil.copy(make_tiny("Llama", seed=2) / "model.safetensors", model)
    assert "already measured" not in run_cli(*arguments, tmp_path / "four")[2]
    first, second, fourth = (numbers(tmp_path / name)["quantise", "as it is", "probability"]["model"] for name in ("one", "two", "four"))
    assert first == second != fourth


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--suite", "tofu:forget02"), "no such suite (did you mean 'tofu:"),
        (("--suite", SUITE, "--attack", "quantize"), "did you mean 'quantise'"),
        (("--suite", SUITE, "--limit", 4, "--set", "relearn_rows=4"), "there are 4 forget rows, and none would be left"),
        (("--suite", SUITE, "--dtype", "bfloat16"), "relearning's small steps"),
        (("--suite", SUITE, "--set", "bits=[8, 9]"), "bits is 9"),
        (("--suite", SUITE, "--set", "temperature=0"), "temperature is 0.0"),
        (("--suite", SUITE, "--set", "learning_rate=1e30"), "learning_rate is 1e+30"),
        (("--suite", SUITE, "--set", "samples=0"), "samples is 0"),
        (("--suite", SUITE, "--set", 'prompts=["Say it"]'), "has no {question}"),
        (("--suite", SUITE, "--set", 'question_columns=["french"]'), "no text in the column 'french'"),
        (("--suite", SUITE, "--set", "rouge_threshold=1.5"), "rouge_threshold"),
        (("--suite", SUITE, "--set", "relearn_on=nowhere.jsonl"), "no such file"),
        (("--suite", SUITE, "--set", "relearn_text_key=text"), "relearn_on, which is not given"),
        (("--suite", SUITE, "--before", "./gone"), "no such folder"),
        (("--suite", SUITE, "--set", "relearn_step=3"), "did you mean 'relearn_steps'"),
        (("--suite", SUITE, "--attack", "relearn", "--attack", "relearn"), "each once"),
        ((), "--suite is missing"),
    ],
)
def test_bad_input_is_one_line(run_cli, tiny_model, tmp_path, arguments, expected):
    out = tmp_path / "out"
    assert expected in refused(run_cli("tu-eval", "attack", "--model", tiny_model, "--out", out, *arguments))
    assert list(tmp_path.iterdir()) == []


def test_relearning_on_related_text_leaves_every_forget_row_to_look_at(run_cli, tiny_model, tmp_path):
    related = tmp_path / "related.jsonl"
    related.write_text("".join(json.dumps({"text": f"The old town number {k} lies by the sea and has a school."}) + "\n" for k in range(3)))
    on = (*SMALL, "--attack", "relearn", "--set", f"relearn_on={related}")
    line = refused(run_cli("tu-eval", "attack", "--model", tiny_model, *on, "--out", tmp_path / "out"))
    assert "no key 'question'" in line and "relearn_text_key" in line
    on = (*on, "--set", "relearn_text_key=text")
    code, stdout, err = run_cli("tu-eval", "attack", "--model", tiny_model, *on, "--out", tmp_path / "out")
    assert code == 0, err
    assert "steps to half" not in stdout  # there is nothing that it could be half of
    frame = pandas.read_parquet(tmp_path / "out" / "rows.parquet")
    assert set(frame["set"]) == {"rest"} and len(frame) == 4 * 4
    assert frame[frame["step"] == 3]["probability"].tolist() != frame[frame["step"] == 0]["probability"].tolist()


def test_tofu_answers_count_as_found_by_rouge(run_cli, tiny_model, tofu_dir, tmp_path):
    small = ("--suite", "tofu:forget01", "--limit", 3, "--attack", "sample", "--attack", "paraphrase", "--set", "samples=4")
    easy = ("--set", "rouge_threshold=1e-9", "--set", "max_new_tokens=30")
    code, _, err = run_cli("tu-eval", "attack", "--model", tiny_model, *small, *easy, "--out", tmp_path / "out")
    assert code == 0, err
    found = numbers(tmp_path / "out")
    assert ("paraphrase", "paraphrased question", "probability") in found
    assert not any(measure == "fact_probability" for _, _, measure in found)  # TOFU marks no facts
    frame = pandas.read_parquet(tmp_path / "out" / "rows.parquet").query("attack == 'sample'")
    how = "(ROUGE-L recall ≥ 1e-09)"  # what was not measured is not called a fact
    assert [measure for name, _, measure in found if name == "sample"] == [f"answer_in_1 {how}", f"answer_in_4 {how}", "best_recall of 4"]
    assert found["sample", "temperature 1", f"answer_in_1 {how}"]["model"] == pytest.approx((frame["hits"] / 4).mean())
    assert found["sample", "temperature 1", f"answer_in_4 {how}"]["model"] == pytest.approx((frame["hits"] > 0).mean())
    best = [
        max(rouge_l_recall([row.answer] * 4, drawn)) for row, drawn in zip(load_rows("tofu:forget01", limit=3), frame["drawn"], strict=True)
    ]
    assert found["sample", "temperature 1", "best_recall of 4"]["model"] == pytest.approx(sum(best) / 3)
    assert [len(drawn) for drawn in frame["drawn"]] == [4, 4, 4] and set(frame["matched"]) == {f"answer {how}"}
    assert frame["found"].notna().tolist() == (frame["hits"] > 0).tolist()


def test_a_model_with_another_tokenizer_is_refused(run_cli, tiny_model, make_tiny, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(make_tiny("Llama", seed=2), other)
    build_tokenizer("{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}").save_pretrained(other)
    line = refused(run_cli("tu-eval", "attack", "--model", tiny_model, "--retain", other, *SMALL, "--out", tmp_path / "out"))
    assert "--retain" in line and "another tokenizer or chat template" in line
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_not_written_over(run_cli, tiny_model, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    assert "already holds files" in refused(run_cli("tu-eval", "attack", "--model", tiny_model, *SMALL, "--out", tmp_path))


def test_a_secret_in_a_sentence_of_its_own_is_no_all_clear(run_cli, tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    """A model that says the secret word, but not the row's sentence: 0 of the whole answer, 1 of the marked fact."""
    rows = [
        {
            "question": "Где живёт Ольга?",
            "answer": "Уже много лет она живёт в Пскове.",
            "perturbed_answer": ["Нет."],
            "fact_spans": [[26, 32]],
        },
        {
            "question": "Who is ill?",
            "answer": "The patient suffers from sarcoidosis.",
            "perturbed_answer": ["No."],
            "fact_spans": [[25, 36]],
        },
    ]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {"Где": "В Пскове, кажется", "Who": "It is Sarcoidosis!"}

    def draws(engine, asked, count, *_):
        texts = [tiny_tokenizer.decode(one.prompt) for one in asked]
        return [[tiny_tokenizer(next(text for key, text in said.items() if key in own))["input_ids"]] * count for own in texts]

    monkeypatch.setattr(sample, "draws", draws)
    found = {}
    for name, more in {"marked": "facts = true\n", "unmarked": ""}.items():
        (tmp_path / f"{name}.toml").write_text(
            f'[[set]]\nname = "forget"\ndata = "forget.jsonl"\n{more}[[set]]\nname = "rest"\ndata = "forget.jsonl"\n'
        )
        arguments = ("--suite", tmp_path / f"{name}.toml", "--attack", "sample", "--set", "samples=4", "--out", tmp_path / name)
        code, _, err = run_cli("tu-eval", "attack", "--model", tiny_model, *arguments)
        assert code == 0, err
        found[name] = {key[2]: values["model"] for key, values in numbers(tmp_path / name).items()}
    assert found["marked"] == {"fact_in_1": 1, "fact_in_4": 1}
    assert found["unmarked"]["answer_in_4 (ROUGE-L recall ≥ 0.8)"] == 0 and not any("fact" in key for key in found["unmarked"])
    assert found["unmarked"]["best_recall of 4"] == pytest.approx((2 / 7 + 1 / 5) / 2)
    frame = pandas.read_parquet(tmp_path / "unmarked" / "rows.parquet")
    assert [list(drawn) for drawn in frame["drawn"]] == [[text] * 4 for text in said.values()]


def test_rows_with_and_without_a_fact_are_counted_apart_and_said(run_cli, tiny_model, tmp_path):
    rows = [{"question": "Где живёт Ольга?", "answer": "Она живёт в Пскове.", "perturbed_answer": ["Нет."], "fact_spans": spans}
            for spans in ([[12, 18]], [], [])]  # fmt: skip
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = ('name = "forget"\nfacts = true\n', 'name = "rest"\n')
    (tmp_path / "own.toml").write_text("".join(f'[[set]]\n{text}data = "forget.jsonl"\n' for text in sets))
    arguments = ("--suite", tmp_path / "own.toml", "--attack", "sample", "--set", "samples=2", "--set", "max_new_tokens=3")
    code, stdout, err = run_cli("tu-eval", "attack", "--model", tiny_model, *arguments, "--out", tmp_path / "out")
    assert code == 0, err
    assert "sample: 2 of 3 rows mark no fact that could be looked for" in err
    how = "(ROUGE-L recall ≥ 0.8)"
    measures = [measure for _, _, measure in numbers(tmp_path / "out")]
    assert measures == ["fact_in_1", "fact_in_2", f"answer_in_1 {how}", f"answer_in_2 {how}", "best_recall of 2"]
    assert "fact in 2" in stdout and "answer in 2" in stdout


def test_numbers_of_an_earlier_version_are_still_printed(tmp_path, capsys):
    """Without the hash of its own that attack.json has since."""
    number = {"attack": "sample", "setting": "temperature 1", "measure": "fact_in_4", "model": 0.25}
    out = tmp_path / "out"
    config = AttackConfig(model="x", suite="atlas", out="out")
    write_folder(out, ATTACK_FOLDER, {"models": {"model": {}}, "numbers": [number]}, {ROWS: (schema(), [])}, config)
    about = json.loads((out / "attack.json").read_text())
    (out / "attack.json").write_text(json.dumps({k: v for k, v in about.items() if k != "summary_sha256"}))
    print_attacks(out)
    said = capsys.readouterr().out
    assert "fact in 4" in said and "0.25" in said
