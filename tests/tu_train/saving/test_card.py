import json

import pytest
from huggingface_hub import ModelCard

from tu_train.methods.table import METHODS
from tu_train.saving.card import model_card

ABOUT = {"store": "5" * 64, "forget_data": "f" * 64, "start_model": "a" * 64, "weights": "hard, keep 0.3"}
SETTINGS = {"model": "org/name@main", "method": "npo", "options": {"beta": 0.1}, "seed": 3, "retain": None}


def card(method: str | None = "npo", **settings):
    counts = {"forget_rows": 40, "retain_rows": 400, "steps": 25}
    entry = None if method is None else METHODS[method]
    return model_card(name="out", method=entry, about=ABOUT, counts=counts, settings={**SETTINGS, **settings})


def test_it_says_what_how_with_what_and_what_not():
    text = card()
    wanted = [ABOUT["store"], ABOUT["forget_data"], ABOUT["start_model"], "| forget rows | 40 |", "hard, keep 0.3", METHODS["npo"].paper,
              "from_pretrained",
              METHODS["npo"].formula, json.dumps({"beta": 0.1}), "| torch |", "cannot be claimed", "vllm serve"]  # fmt: skip
    assert [w for w in wanted if w not in text] == []
    assert "retain |" not in text, "settings that are not set are left out"


@pytest.mark.parametrize(
    ("model", "base"), [("org/name@main", "org/name"), ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"), ("/home/me/model", None)]
)
def test_the_hub_reads_its_metadata_and_no_local_path_becomes_a_base_model(model, base):
    data = ModelCard(card(model=model)).data.to_dict()
    assert data.get("base_model") == base and data["library_name"] == "transformers" and data["pipeline_tag"] == "text-generation"
    assert data["tags"] == ["token-unlearn", "machine-unlearning", "npo"]


def test_fine_tuning_claims_no_unlearning():
    text = card(None)
    assert "unlearned" not in text and "fine-tuned" in text and ABOUT["forget_data"] in text
