"""Models by their name on the hub, through the real commands and the real huggingface_hub, from a hub on loopback."""

import json
import re
import shutil
import threading

import pytest
from safetensors.torch import load_file, save_file

from shared.lm.models import model_fingerprint
from shared.store.scores import open_store
from tests.conftest import _save_tiny, build_sentencepiece, build_tokenizer
from tests.hub import run, start

ROWS = [
    {"question": "¿Dónde vive Orla Venn?", "answer": "En Puerto Arena, señor."},
    {"question": "你叫什么名字？", "answer": "我叫小明，住在北京。"},
    {"question": "أين تعيش أورلا؟", "answer": "في بورت ساند."},
]
COMMIT = "0" * 40


@pytest.fixture
def place(tmp_path):
    """Where commands run: with the folder of the hub's cache, and rows in three languages."""
    (tmp_path / "home").mkdir()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return tmp_path


def score(place, model, out="scores", *more):
    return ["tu-score", "run", "--model", model, "--data", place / "rows.jsonl", "--out", place / out, "--device", "cpu", *more]


def refusal(hub, place, model, **environment):
    """The line with which one command ends; nothing is at its --out."""
    return refusals(hub, place, [model], **environment)[0]


def refusals(hub, place, models, **environment):
    answers = run(hub, place / "home", *(score(place, model) for model in models), **environment)
    assert not (place / "scores").exists()
    return [answer.refused().removeprefix(f"model {model}: ") for answer, model in zip(answers, models, strict=True)]


def unreachable(said):
    return rf"neither a local folder nor to be had from the hub: {said}"


# --- what comes


@pytest.fixture(params=["byte level", "sentencepiece"])
def versions(request, tmp_path):
    """Two revisions of a model: other weights, the same tokenizer."""
    folders = [tmp_path / "v1", tmp_path / "v2"]
    for seed, folder in enumerate(folders):
        _save_tiny(folder, build_tokenizer() if request.param == "byte level" else build_sentencepiece(), "Llama", seed, {})
    return folders


def test_a_model_is_scored_at_the_revision_that_is_named(hub, place, versions, run_cli):
    code = {"modeling_x.py": b"raise SystemExit('code of the hub ran')", "pytorch_model.bin": b"no", "README.md": b"# card"}
    for version, folder in zip(("v1", "v2"), versions, strict=True):
        files = {p.name: p.read_bytes() for p in folder.iterdir()}
        first = hub.add("models/org/tiny", files | code, "main", version)
        hub.repos["models/org/tiny"].refs["refs/pr/1"] = hub.repos["models/org/tiny"].refs["v1"]
    commit = hub.repos["models/org/tiny"].refs["v1"]
    assert first != commit
    names = {"org/tiny@v1": 0, f"org/tiny@{commit}": 0, "org/tiny@refs/pr/1": 0, "org/tiny": 1}
    answers = run(hub, place / "home", *(score(place, name, f"out{i}") for i, name in enumerate(names)))
    assert [answer.code for answer in answers] == [0] * 4, answers
    assert not {"modeling_x.py", "pytorch_model.bin", "README.md"} & set(hub.fetched())
    assert hub.fetched().count("model.safetensors") == 2, "once a commit"
    for i, (name, which) in enumerate(names.items()):
        found = open_store(place / f"out{i}").manifest["fingerprints"]["model"]
        assert found == model_fingerprint(versions[which]), name
    assert run_cli(*score(place, versions[0], "local"))[0] == 0
    assert [(place / out / "part-00000.parquet").read_bytes() for out in ("out0", "out1", "out2")] == [
        (place / "local" / "part-00000.parquet").read_bytes()
    ] * 3
    assert (place / "out3" / "part-00000.parquet").read_bytes() != (place / "local" / "part-00000.parquet").read_bytes()


def test_offline_the_cache_is_read_at_the_revisions_that_are_in_it(hub, place, make_tiny):
    hub.add("models/org/tiny", make_tiny("Llama", seed=0), "main", "v1")
    commit = hub.repos["models/org/tiny"].refs["v1"]
    assert run(hub, place / "home", score(place, "org/tiny@v1", "x", "--dry-run"))[0].code == 0
    before = list(hub.asked)
    names = ["org/tiny@v1", f"org/tiny@{commit}", "org/tiny", "org/none", "org/tiny@v2"]
    answers = run(hub, place / "home", *(score(place, name, "x", "--dry-run") for name in names), HF_HUB_OFFLINE="1")
    assert [answer.code for answer in answers] == [0, 0, 2, 2, 2] and hub.asked == before
    for name, answer in zip(names[2:], answers[2:], strict=True):
        assert answer.refused() == (
            f"model {name}: neither a local folder nor to be had from the hub (HF_HUB_OFFLINE is set): the hub is not asked, "
            "and no copy is in its cache; name a local folder"
        )


# --- what breaks off


def test_a_cut_download_is_one_line_and_the_same_command_finishes_it(hub, place, tiny_model):
    hub.add("models/org/tiny", tiny_model)
    hub.cut["model.safetensors"] = 100_000
    said = refusal(hub, place, "org/tiny")
    assert re.match(unreachable(r"the connection broke off \(peer closed .*\); give the same command again, files that came whole"), said)
    assert not list((place / "home").rglob("*.incomplete")), "what came in part is not kept"
    del hub.cut["model.safetensors"]
    before = len(hub.asked)
    assert re.search(
        r"the hub is not asked, and the copy in its cache is not complete", refusal(hub, place, "org/tiny", HF_HUB_OFFLINE="1")
    )
    assert len(hub.asked) == before
    hub.asked.clear()
    hub.once["model.safetensors"] = 100_000  # and the rest is asked for in the same command
    answer = run(hub, place / "home", score(place, "org/tiny"))[0]
    assert answer.code == 0, answer.err
    assert [line.rpartition("/")[2] for line in hub.asked if line.startswith("GET ") and "/resolve/" in line] == [
        "model.safetensors", "model.safetensors bytes=100000-"
    ], "files that came whole are not fetched again"  # fmt: skip
    assert open_store(place / "scores").manifest["fingerprints"]["model"] == model_fingerprint(tiny_model)


def test_a_download_that_was_killed_is_finished_by_the_same_command(hub, place, tiny_model):
    hub.add("models/org/tiny", tiny_model)
    half = hub.stalled["model.safetensors"] = threading.Event()
    child = start(hub, place / "home", score(place, "org/tiny"))
    assert half.wait(timeout=240)
    child.kill()
    child.communicate()
    hub.stalled.clear()
    answer = run(hub, place / "home", score(place, "org/tiny"))[0]
    assert answer.code == 0, answer.err
    assert open_store(place / "scores").manifest["fingerprints"]["model"] == model_fingerprint(tiny_model)


# --- what the hub refuses


def test_each_refusal_says_what_to_do(hub, place, tiny_model):
    hub.add("models/org/tiny", tiny_model)
    hub.add("models/org/gated", tiny_model, gated=True)
    hub.add("models/org/private", tiny_model, private=True)
    none = "the hub has no such model, or it is private; check the name, or log in with hf auth login, or set HF_TOKEN"
    revision = "the hub has the model, but not the revision {!r}; check the name of the branch, tag or commit"
    wanted = {
        "org/none": none, "org/none@v1": none, "org/private": none,
        "org/tiny@v9": revision.format("v9"), f"org/tiny@{COMMIT}": revision.format(COMMIT),
        "org/gated": f"it is gated; accept its conditions on {hub.url}/org/gated, then log in with hf auth login, or set HF_TOKEN",
        "org/a name": "no model of the hub can have this name; a model is a local folder, org/name[@revision], or smollm2",
    }  # fmt: skip
    for said, (name, line) in zip(refusals(hub, place, list(wanted)), wanted.items(), strict=True):
        assert said == f"neither a local folder nor to be had from the hub: {line}", name
    assert not list((place / "home").rglob("*.safetensors"))


def test_a_token_opens_what_its_account_may_read(hub, place, tiny_model):
    hub.add("models/org/gated", tiny_model, gated=True)
    line = f"it is gated, and your account has no access yet; accept its conditions on {hub.url}/org/gated (some owners agree by hand: wait"
    assert line in refusal(hub, place, "org/gated", HF_TOKEN="hf_stranger")
    answer = run(hub, place / "home", score(place, "org/gated", "scores", "--dry-run"), HF_TOKEN="hf_owner")[0]
    assert answer.code == 0, answer.err


def test_a_token_that_the_hub_does_not_know_is_named_as_the_reason(hub, place, tiny_model):
    hub.add("models/org/tiny", tiny_model)
    said = refusal(hub, place, "org/tiny", HF_TOKEN="hf_wrong")
    assert said.endswith("the hub does not know the token; log in again with hf auth login, or set another HF_TOKEN")
    assert "hf_wrong" not in said


def test_a_hub_that_is_out_of_order_or_away_is_told_apart(hub, place, tiny_model):
    hub.add("models/org/tiny", tiny_model)
    hub.broken = 503
    assert refusal(hub, place, "org/tiny").endswith("from the hub: the hub answered 503; try again later")
    said = refusal(hub, place, "org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert said.endswith("from the hub: the hub cannot be reached, and no copy is in its cache; name a local folder")


def test_a_file_that_came_damaged_is_told_before_anything_is_made(hub, place, tiny_model):
    cut = place / "cut"
    shutil.copytree(tiny_model, cut)
    save_file({"other.weight": next(iter(load_file(cut / "model.safetensors").values()))}, cut / "model.safetensors")
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[:-8])
    hub.add("models/org/cut", cut)
    assert "model.safetensors is cut" in refusal(hub, place, "org/cut")
