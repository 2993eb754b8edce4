"""The script behind docs/models.md on families of different kinds, and the committed page against its results."""

import json

import pytest
import torch

from benchmarks.families.checks import Refused, Tried, Wrong, check_full, check_lora, check_rmu, check_score, check_writes, command, prepare
from benchmarks.families.made import OTHERS, TEMPLATES, make_model, rows, tokenizer_of
from benchmarks.families.page import COLUMNS, KEPT, page
from benchmarks.families.zoo import BY_NAME, FAMILIES
from shared.data.datasets import Row
from shared.data.examples import qa_example
from shared.data.layout import LayoutOptions, lay_out
from shared.lm.models import load_model
from shared.lm.packed import PackedModel
from tests.test_docs import ROOT

KINDS = {"gemma2": "forest", "qwen3_moe": "forest", "gpt_neox": "forest", "falcon_h1": "padded"}
"""windows and caps, experts, a fused projection with dropout, recurrence"""
ADAPTED = {
    "gemma2": ["q_proj", "v_proj"], "qwen3_moe": ["k_proj", "o_proj", "q_proj", "v_proj"], "gpt_neox": ["query_key_value"],
    "falcon_h1": ["down_proj", "gate_proj", "in_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def tried(request, tmp_path_factory):
    made = Tried(BY_NAME[request.param], tmp_path_factory.mktemp(request.param))
    prepare(made)
    return made


def test_a_family_is_scored_trained_and_written_as_the_page_says(tried):
    facts = check_score(tried)
    assert facts["path"] == KINDS[tried.family.name]
    assert check_full(tried)["moved"] > 0
    lora = check_lora(tried)
    assert lora["layers"] == ADAPTED[tried.family.name] and lora["count"] >= len(lora["layers"])
    assert check_rmu(tried)["moved"] > 0
    assert check_writes(tried)["cached"] == (facts["path"] == "forest")


def test_a_check_tells_wrong_from_refused(tmp_path):
    with pytest.raises(Refused, match=r"^data nowhere.jsonl"):
        command("tu-score", "run", "--model", "smollm2", "--data", "nowhere.jsonl", "--out", tmp_path / "out")
    with pytest.raises(Wrong, match="tu-score ended with exit code 0"):
        command("tu-score", "--help", code=2)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_answers_in_every_language_are_the_targets_under_each_template(family):
    tokenizer = lay_out(tokenizer_of(family), LayoutOptions(), model=family.name)
    for question, answer, *_ in OTHERS:
        example = qa_example(Row("row", question, answer), tokenizer)
        targets = tokenizer.decode([example.input_ids[i] for i in example.targets])
        whole = tokenizer.decode(example.input_ids)
        assert targets.strip().startswith(answer) and len(targets.strip()) > len(answer), "the answer and its end of turn"
        assert whole.index(question) < whole.rindex(answer)
    assert family.template is None or len(example.input_ids) > len(tokenizer(question + answer, add_special_tokens=False).input_ids) + 2


def test_every_template_belongs_to_a_family():
    assert {p.stem for p in TEMPLATES.glob("*.jinja")} == {f.template for f in FAMILIES if f.template}


def test_rows_have_what_every_check_reads():
    for split in ("forget", "retain"):
        for row in rows(split):
            assert all(0 <= a < b <= len(row["answer"]) for a, b in row["fact_spans"])
            assert all(0 <= a < b <= len(row["question"]) for a, b in row["question_spans"])


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_the_balance_loss_and_the_noise_of_a_router_enter_nothing(name, tmp_path):
    model = load_model(make_model(BY_NAME[name], tmp_path / name), dtype=torch.float32, device=torch.device("cpu"))
    packed, gradients = PackedModel(model), []
    for told in (False, True):
        model.config.output_router_logits = told
        model.zero_grad()
        packed.hidden([[5, 6, 7, 8, 9], [5, 6, 7, 8, 1, 2]])[0].square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert gradients[0] and all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


# --- the page


def test_the_page_is_that_of_the_kept_results():
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == page(json.loads(KEPT.read_text(encoding="utf-8")))


def test_the_kept_results_are_of_every_family_and_none_is_wrong():
    found = json.loads(KEPT.read_text(encoding="utf-8"))["families"]
    assert set(found) == {f.name for f in FAMILIES} and len(found) >= 14
    missing = {(name, check) for name, checks in found.items() for check in COLUMNS if check not in checks and check != "vllm"}
    assert not missing, "vLLM is an extra; all else runs everywhere"
    wrong = {(name, check) for name, checks in found.items() for check, facts in checks.items() if "wrong" in facts}
    assert wrong <= {(f.name, "vllm") for f in FAMILIES if f.apart}
