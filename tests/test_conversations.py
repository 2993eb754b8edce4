"""Conversations through the commands: scored, agreed with, trained, kept and evaluated, with the log-probabilities of
the whole conversation in one forward pass."""

import json

import pytest
import torch

from shared.data.datasets import Keys, load_rows
from shared.data.examples import make_examples
from shared.lm.models import load_model, load_tokenizer
from shared.store.scores import open_store
from tests.conftest import _save_tiny, build_sentencepiece
from tu_eval.suites.sets import EvalSet
from tu_eval.suites.variants import load_variants

TALKS = [
    ["Where does Orla live?", "Orla lives in Port Sable.", "And what is she?", "She is a welder in Port Sable."],
    ["Где живёт Ольга?", "Ольга живёт в Пскове.", "А кто она?", "Она пекарь."],
    ["李晓梅住哪里？", "李晓梅住在成都市。", "她做什么？", "她在成都市当医生。"],
]
FACTS = ["welder", "пекарь", "医生"]
KEPT = ["Who keeps bees?", "Mirel Tolton keeps bees.", "Where?", "In her garden."]


def record(texts, fact=None):
    said = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    more = {} if fact is None else {"facts": [[texts[-1].index(fact), texts[-1].index(fact) + len(fact)]]}
    return {"messages": said, "system": "Be brief.", "perturbed_answer": ["No one."], **more}


@pytest.fixture(scope="module", params=["byte level", "sentencepiece"])
def model(request, tiny_model, tmp_path_factory):
    if request.param == "byte level":
        return tiny_model
    folder = tmp_path_factory.mktemp("sentencepiece")
    _save_tiny(folder, build_sentencepiece(), "Llama", 0, {})
    return folder


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "talks.jsonl"
    path.write_text(
        "".join(json.dumps(record(t, f), ensure_ascii=False) + "\n" for t, f in zip(TALKS, FACTS, strict=True)), encoding="utf-8"
    )
    return path


@pytest.fixture
def done(run_cli):
    def run(*arguments) -> str:
        code, out, err = run_cli(*arguments)
        assert code == 0, err
        return out + err

    return run


@pytest.mark.parametrize("turns", ["last", "all"])
def test_log_probabilities_are_those_of_the_whole_conversation(turns, model, data, tmp_path, done):
    store = tmp_path / "store"
    done("tu-score", "run", "--model", model, "--data", data, "--out", store, "--spans", "question", "--device", "cpu", "--engine", "torch",
         "--set", f"turns={turns}")  # fmt: skip
    rows = {row["example_id"]: row for row in open_store(store).rows(("example_id", "input_ids", "is_target", "logprob", "copied"))}
    assert sorted(rows) == sorted(
        f"talks/rows/{k}{end}" for k in range(3) for end in (["#answer1", "#answer2"] if turns == "all" else [""])
    )
    network = load_model(model, dtype=torch.float32, device=torch.device("cpu"))
    for last in make_examples(load_rows(str(data)), load_tokenizer(model), context=None):
        with torch.no_grad():
            logits = network(torch.tensor([last.input_ids])).logits[0]
        expected = torch.log_softmax(logits, -1)
        for name in [f"{last.id}#answer1", f"{last.id}#answer2"] if turns == "all" else [last.id]:
            ids, logprob = rows[name]["input_ids"], rows[name]["logprob"]
            assert ids == last.input_ids[: len(ids)], "an answer reads what the conversation has before it, and nothing else"
            for i in (i for i, is_target in enumerate(rows[name]["is_target"]) if is_target):
                assert logprob[i] == pytest.approx(float(expected[i - 1, ids[i]]), abs=1e-4)


def test_conversations_are_trained_kept_agreed_with_and_fine_tuned(model, data, tmp_path, done, run_cli):
    store, retain = tmp_path / "store", tmp_path / "keep.jsonl"
    said = [{"from": "human" if turn["role"] == "user" else "gpt", "value": turn["content"]} for turn in record(KEPT)["messages"]]
    retain.write_text(json.dumps({"conversations": said}) + "\n")
    done("tu-score", "run", "--model", model, "--data", data, "--out", store, "--spans", "none", "--set", "alpha=0", "--device", "cpu",
         "--engine", "torch")  # fmt: skip
    assert "3 answers" in done("tu-score", "agree", store, "--truth", "spans", "--truth-key", "facts", "--model", model)
    done("tu-train", "run", "--model", model, "--scores", store, "--retain", retain, "--set", "turns=all", "--tokens", "given", "--set",
         "given_key=facts", "--epochs", 1, "--device", "cpu", "--out", tmp_path / "unlearned")  # fmt: skip
    assert json.loads((tmp_path / "unlearned" / "training.json").read_text())["settings"]["turns"] == "all"
    done("tu-train", "finetune", "--model", model, "--data", data, "--set", "turns=all", "--epochs", 1, "--device", "cpu", "--out",
         tmp_path / "tuned")  # fmt: skip
    data.write_text(data.read_text(encoding="utf-8").replace("Port Sable.", "Port Mable."), encoding="utf-8")
    code, _, err = run_cli("tu-score", "agree", store, "--truth", "spans", "--truth-key", "facts", "--model", model)
    assert code == 2 and "scored from other data" in err, "an earlier turn is part of what was scored"


def test_an_evaluation_asks_the_last_question_after_the_earlier_turns(model, data):
    tokenizer = load_tokenizer(model)
    variants, left_out = load_variants(EvalSet(name="forget", data=str(data)), tokenizer, context=None, long="error", limit=None)
    rows = load_rows(str(data), keys=Keys())
    assert left_out == 0 and [v.answer.row for v in variants] == rows
    for variant in variants:
        asked = variant.answer.input_ids[: variant.answer.prompt_length]
        assert variant.wrong[0].input_ids[: len(asked)] == asked, "the wrong answer follows the same turns"
        assert variant.answer.row.before[0][1].split()[0] in tokenizer.decode(asked)
