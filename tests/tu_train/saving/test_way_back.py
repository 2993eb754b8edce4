"""What --resume says to type where a setting differs gives the old value: of every setting, through the command."""

import json
import shlex
import tomllib

import pytest

import tu_train.interface
from shared.config import as_dict, as_toml
from shared.errors import ConfigError
from shared.settings import settings_of
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.saving.record import recorded_settings
from tu_train.saving.same import check_same

LOOP = {
    "model": "a 'model'", "question_key": "q", "answer_key": "1e5", "text_key": '"text"', "messages_key": "true", "limit": 7,
    "template": "x = 1",
    "system": "Два\nслова; \"и\" ещё, or start anew", "template_date": "2024-05-01",
    "template_options": {"thinking": False, "a b": {"c": [1, "ж"]}},
    "beginning_token": "add", "device": "cpu", "learning_rate": 1e-05, "schedule": "cosine", "warmup": 0.25, "order": "file",
    "weight_decay": 0.0, "clip": 0.5, "batch_size": 3, "accumulate": 2, "batch_tokens": 99, "checkpointing": False, "save_every": 3,
    "keep_checkpoints": 4, "exact": True, "trackers": ("wandb", "trackio"), "seed": 5, "save_dtype": "bfloat16", "long": "skip",
    "turns": "all", "text_length": 600, "text_overlap": 3, "text_pieces": "first",
}  # fmt: skip
UNLEARN = {
    **LOOP, "retain": " retain.jsonl", "method": "undial", "options": {"beta": 3.0}, "gamma": 0.5, "alpha": 2.0, "eval_every": 2,
    "eval_rows": 4, "eval_key": "facts", "paraphrase_key": "other", "eval_suite": "[1]", "keep_best": "forget_quality",
    "eval_options": {"generate": True, "limit": 2, "holdout": "hold out.jsonl", "metrics": ["a", "b"]},
    "stop_when": "forget_probability<0.05", "land": True, "retain_term": "kl", "refusals": "no\tway.txt", "alternate_key": "x",
}  # fmt: skip
CONFIGS = [
    UnlearnConfig(**UNLEARN, out="o", scores="s", steps=9, lora=4, lora_alpha=3.0, lora_targets=("q", "k proj's"), tokens="hard", keep=0.5,
                  whole_words=False, forget_data="d", allow_other_model=True, weights="nf4", dtype="bfloat16", moments="8bit",
                  moments_on="cpu"),
    UnlearnConfig(**UNLEARN, out="o", forget="f", epochs=2, max_steps=3, train_only=("*.0.*", "b"), tokens="given", blocklist="words",
                  weights="bfloat16", dtype="bfloat16", rounding="nearest"),
    UnlearnConfig(model="m", out="o", scores=("a", "b"), retain_scores=("c", "d"), retain_term="kl", method="npo", tokens="soft",
                  options={"beta": (1.0, 0.5)}, gamma=(1.0, 2.0), soft="softmax", temperature=2.0, optimizer="adamw8bit"),
    UnlearnConfig(model="m", out="o", scores="s", retain="r", tokens="given", secrets="column:x", mean_over=None, given_key="y"),
    UnlearnConfig(model="m", out="o", scores="s", retain="none", tokens="hard", top=3, method="ga", alternates="generate"),
    UnlearnConfig(model="m", out="o", scores="s", retain="r", tokens="hard", threshold=0.125),
    UnlearnConfig(model="m", out="o", forget="f", retain="r", tokens="all", method="rmu", mean_over="padded"),
    UnlearnConfig(model="m", out="o", scores="s", retain="r", keep="auto", optimizer="adamw_transformers"),
    FinetuneConfig(**LOOP, out="o", data="atlas:retain:people=4,facts_per_person=3", epochs=1),
]  # fmt: skip


OTHER = "something else"


def ways_back(settings):
    """What is typed for each of them, where the setting is another now."""
    found = []
    for name, before in settings.items():
        for entry in before if isinstance(before, dict) else (None,):
            inner = before[entry] if isinstance(before, dict) else None
            changed = dict.fromkeys(inner, OTHER) if isinstance(inner, dict) else OTHER
            other = changed if entry is None else {**before, entry: changed}
            with pytest.raises(ConfigError) as raised:
                check_same({"settings": settings}, {"settings": {**settings, name: other}}, ())
            found.append(str(raised.value).removesuffix(", or start anew with another --out").rpartition("; --")[2])
    return [f"--{way}" for way in dict.fromkeys(found)]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_ways_back_of_all_settings_are_the_command_that_was_given(config, run_cli, monkeypatch, tmp_path):
    asked = []
    verb = "run" if isinstance(config, UnlearnConfig) else "finetune"
    monkeypatch.setattr(tu_train.interface, "unlearn" if verb == "run" else "finetune", lambda config: asked.append(config) or tmp_path)
    settings = json.loads(json.dumps(recorded_settings(config)))
    settings.pop("resume")
    words = shlex.split(" ".join(ways_back(settings)))
    code, _, err = run_cli("tu-train", verb, *words)
    assert code == 0, err
    assert {**as_dict(asked[0]), "resume": None} == {**settings, "resume": None}
    assert tomllib.loads(as_toml(config)) == {**settings, "resume": False}


def test_no_setting_was_left_out():
    for kind in (UnlearnConfig, FinetuneConfig):
        given = {name for config in CONFIGS if isinstance(config, kind) for name in as_dict(config)}
        ours = {"resume"} if kind is UnlearnConfig else {s.name for s in settings_of(LoopConfig)}  # which UnlearnConfig has too
        assert {s.name for s in settings_of(kind)} <= given | ours


@pytest.mark.parametrize(("then", "now", "said"), [
    ({}, {"eval_options": {"limit": 2}}, "leave out eval_options"),
    ({"eval_options": {"generate": True}}, {"eval_options": {"generate": True, "limit": 2}}, "leave out limit of eval_options"),
    ({"eval_options": {"limit": 2, "generate": True}}, {}, "--set 'eval_options={\"limit\" = 2, \"generate\" = true}'"),
    ({"options": {}}, {"options": {"beta": 0.1}}, "leave out --option beta"),
    ({"options": {"step": [0.5, 0.1]}}, {"options": {"step": 0.5}}, "--option 'step=[0.5, 0.1]'"),
    ({}, {"seed": 1}, "leave out seed"),
])  # fmt: skip
def test_what_was_not_there_is_left_out_and_tables_are_given_whole(then, now, said):
    with pytest.raises(ConfigError) as raised:
        check_same({"settings": {"clip": 1.0, **then}}, {"settings": {"clip": 1.0, **now}}, ())
    assert str(raised.value).endswith(f"; {said}, or start anew with another --out")
