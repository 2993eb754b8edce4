"""Models by their name on the hub, through the real commands and the real huggingface_hub, from a hub on loopback."""

import json
import re
import threading
from pathlib import Path

import pytest

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


def refusals(hub, place, models, **environment):
    """The line with which each command ends; nothing is at its --out."""
    answers = run(hub, place / "home", *(score(place, model) for model in models), **environment)
    assert not (place / "scores").exists()
    return [answer.refused().removeprefix(f"model {model}: neither a local folder nor to be had from the hub")
            for answer, model in zip(answers, models, strict=True)]  # fmt: skip


def look_up(name):
    """A light process: where a model is found, or what is said of it."""
    code = f"""from shared.errors import ModelError
from shared.lm.locate import locate
try:
    print(locate({name!r}))
except ModelError as error:
    print(str(error).removeprefix({f"model {name}: neither a local folder nor to be had from the hub"!r}))
"""
    return ["python", code]


def found(hub, place, *names, **environment):
    return [answer.out.rstrip("\n") for answer in run(hub, place / "home", *map(look_up, names), **environment)]


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
    commit = hub.add("models/org/tiny", make_tiny("Llama", seed=0), "main", "v1")
    (online,) = found(hub, place, "org/tiny@v1")
    before = list(hub.asked)
    nothing = " (HF_HUB_OFFLINE is set): the hub is not asked, and no copy is in its cache; name a local folder"
    names = ("org/tiny@v1", f"org/tiny@{commit}", "org/tiny", "org/none", "org/tiny@v2")
    assert found(hub, place, *names, HF_HUB_OFFLINE="1") == [online, online, nothing, nothing, nothing]
    assert commit in online and hub.asked == before


# --- what breaks off


def test_a_cut_download_is_one_line_and_the_next_command_finishes_it(hub, place, tiny_model):
    hub.add("models/org/tiny", tiny_model)
    hub.cut["model.safetensors"] = 100_000
    (said,) = refusals(hub, place, ["org/tiny"])
    assert re.fullmatch(r": the connection broke off \(peer closed .*\); give the same command again, files that came whole are kept", said)
    assert not list((place / "home").rglob("*.incomplete")), "what came in part is not kept"
    del hub.cut["model.safetensors"]
    before = len(hub.asked)
    (said,) = found(hub, place, "org/tiny", HF_HUB_OFFLINE="1")
    assert "the hub is not asked, and the copy in its cache is not complete" in said and len(hub.asked) == before
    hub.asked.clear()
    hub.once["model.safetensors"] = 100_000  # and the rest is asked for in the same command
    (folder,) = found(hub, place, "org/tiny")
    assert hub.fetched() == ["model.safetensors", "model.safetensors bytes=100000-"], "files that came whole are not fetched again"
    assert model_fingerprint(Path(folder)) == model_fingerprint(tiny_model)


def test_a_download_that_was_killed_is_finished_by_the_next_command(hub, place, tiny_model):
    hub.add("models/org/tiny", tiny_model)
    half = hub.stalled["model.safetensors"] = threading.Event()
    child = start(hub, place / "home", look_up("org/tiny"))
    assert half.wait(timeout=240)
    child.kill()
    child.communicate()
    assert not list((place / "home").rglob("snapshots/*/model.safetensors"))
    hub.stalled.clear()
    (folder,) = found(hub, place, "org/tiny")
    assert model_fingerprint(Path(folder)) == model_fingerprint(tiny_model)


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
        assert said == f": {line}", name
    assert not list((place / "home").rglob("*.safetensors"))


def test_a_token_opens_what_its_account_may_read(hub, place, tiny_model):
    commit = hub.add("models/org/gated", tiny_model, gated=True)
    (said,) = found(hub, place, "org/gated", HF_TOKEN="hf_stranger")
    page = f"{hub.url}/org/gated"
    assert said == (
        f": it is gated, and your account has no access yet; accept its conditions on {page} (some owners agree by hand: wait for that)"
    )
    (said,) = found(hub, place, "org/gated", HF_TOKEN="hf_wrong")
    assert said == ": the hub does not know the token; log in again with hf auth login, or set another HF_TOKEN"
    (folder,) = found(hub, place, "org/gated", HF_TOKEN="hf_owner")
    assert Path(folder).name == commit


def test_a_hub_that_is_out_of_order_or_away_is_told_apart(hub, place, tiny_model):
    hub.add("models/org/tiny", tiny_model)
    hub.broken = 503
    assert found(hub, place, "org/tiny") == [": the hub answered 503; try again later"]
    away = ": the hub cannot be reached, and no copy is in its cache; name a local folder"
    assert found(hub, place, "org/tiny", HF_ENDPOINT="http://127.0.0.1:9") == [away]


def test_a_model_that_was_uploaded_damaged_is_told_before_anything_is_loaded(hub, place, tiny_model):
    files = {p.name: p.read_bytes() for p in tiny_model.iterdir()}
    hub.add("models/org/cut", files | {"model.safetensors": files["model.safetensors"][:-8]})
    assert "model org/cut: model.safetensors is cut" in found(hub, place, "org/cut")[0]
