"""Data sets by their name on the hub, through the real commands and the real datasets library, from a hub on
loopback."""

import io
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from shared.data.data_files import SUFFIXES
from shared.store.scores import open_store
from tests.hub import run

SPANISH = [{"question": f"¿Dónde vive Orla {i}?", "answer": f"En Puerto Arena {i}, señor."} for i in range(3)]
CHINESE = [{"question": "你叫什么名字？", "answer": "我叫小明，住在北京。"}, {"question": "海多深？", "answer": "三百米。"}]
CARD = b"""---
configs:
- config_name: es
  data_files:
  - {split: train, path: es/train-*.parquet}
- config_name: zh
  data_files:
  - {split: train, path: zh/train-*.parquet}
---
"""
LOCAL = f"; a local copy does as well: name its {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file as data"
NOTHING = "0" * 40


def parquet(rows):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def languages(spanish=SPANISH):
    return {"README.md": CARD, "zh/train-0.parquet": parquet(CHINESE),
            "es/train-0.parquet": parquet(spanish[:2]), "es/train-1.parquet": parquet(spanish[2:])}  # fmt: skip


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def score(model, spec, out, *more):
    return ["tu-score", "run", "--model", model, "--data", spec, "--out", out, "--device", "cpu", *more]


def read(spec):
    """Rows of a data spec as JSON, or what is said of it."""
    code = f"""import json
from shared.data.datasets import load_rows
from shared.errors import DataError
try:
    rows = load_rows({spec!r})
    print(json.dumps([[row.id, row.question, row.answer] for row in rows]))
except DataError as error:
    print(json.dumps(str(error)))
"""
    return ["python", code]


def rows_of(hub, home, *specs, **environment):
    return [json.loads(answer.out) for answer in run(hub, home, *(read(spec) for spec in specs), **environment)]


def plain(rows, name):
    return [[f"{name}/{i}", row["question"], row["answer"]] for i, row in enumerate(rows)]


def refused(spec, said):
    return f"data {spec}: cannot be had from the hub: {said}{LOCAL}"


def test_configurations_and_revisions_are_read_as_they_are(hub, home):
    hub.add("datasets/org/qa", languages(), "main", "v1", "refs/convert/odd")
    commit = hub.repos["datasets/org/qa"].refs["v1"]
    hub.add("datasets/org/qa", languages(SPANISH[::-1]), "main")
    hub.add("datasets/org/bare", {"train.parquet": parquet(CHINESE), "test.parquet": parquet(SPANISH)})
    found = rows_of(hub, home, "hub:org/qa:zh:train", "hub:org/qa:es:train", "hub:org/qa@v1:es:train", f"hub:org/qa@{commit}:es:train",
                    "hub:org/qa@refs/convert/odd:zh:train", "hub:org/bare::test")  # fmt: skip
    name = "org--qa/train"
    assert found == [plain(CHINESE, name), plain(SPANISH[::-1], name), *[plain(SPANISH, name)] * 2, plain(CHINESE, name),
                     plain(SPANISH, "org--bare/test")]  # fmt: skip
    assert hub.fetched().count("train-0.parquet") == 3, "each file once a commit: zh, then es of two commits"


def test_a_set_of_the_hub_is_scored_like_its_file(hub, home, tiny_model, tmp_path, run_cli):
    hub.add("datasets/org/qa", languages(), "main", "v1")
    (tmp_path / "qa.parquet").write_bytes(parquet(CHINESE))
    (answer,) = run(hub, home, score(tiny_model, "hub:org/qa@v1:zh:train", tmp_path / "ours"))
    assert answer.code == 0, answer.err
    assert run_cli(*score(tiny_model, tmp_path / "qa.parquet", tmp_path / "local"))[0] == 0
    ours, local = (open_store(tmp_path / name) for name in ("ours", "local"))
    assert ours.manifest["options"]["data"] == "hub:org/qa@v1:zh:train"
    rows, same = ours.table(0).to_pylist(), local.table(0).to_pylist()
    assert [row["example_id"] for row in rows] == ["org--qa/train/0", "org--qa/train/1"]
    assert [{**row, "example_id": ""} for row in rows] == [{**row, "example_id": ""} for row in same]


def test_each_refusal_is_one_line_that_says_what_to_do(hub, home, tiny_model, tmp_path):
    hub.add("datasets/org/qa", languages())
    hub.add("datasets/org/gated", {"train.parquet": parquet(SPANISH)}, gated=True)
    hub.add("datasets/org/private", {"train.parquet": parquet(SPANISH)}, private=True)
    hub.add("datasets/org/none-of-ours", {"notes.xyz": b"?"})
    hub.add("datasets/org/junk", {"train.parquet": b"PAR1 junk PAR1"})
    none = "the hub has no such data set, or it is private; check the name, or log in with hf auth login, or set HF_TOKEN"
    revision = "the hub has the data set, but not the revision {!r}; check the name of the branch, tag or commit"
    wanted = {
        "hub:org/nothing::train": none, "hub:org/nothing@v1::train": none, "hub:org/private::train": none,
        "hub:org/qa@v9:es:train": revision.format("v9"), f"hub:org/qa@{NOTHING}:es:train": revision.format(NOTHING),
        "hub:org/gated::train": f"it is gated; accept its conditions on {hub.url}/datasets/org/gated, then log in with hf auth login, "
                                "or set HF_TOKEN",
        "hub:org/qa:fr:train": "BuilderConfig 'fr' not found. Available: ['es', 'zh']",
        "hub:org/qa:es:test": "Unknown split \"test\". Should be one of ['train']",
        "hub:org/qa::train": "Config name is missing. Please pick one among the available configs: ['es', 'zh']",
        "hub:org/a name::train": "no data set of the hub can have this name",
        "hub:org/none-of-ours::train": "No (supported) data files found in org/none-of-ours",
        "hub:org/junk::train": None,
    }  # fmt: skip
    out = tmp_path / "scores"
    for answer, (spec, said) in zip(run(hub, home, *(score(tiny_model, spec, out) for spec in wanted)), wanted.items(), strict=True):
        line = answer.refused()
        assert line == refused(spec, said) if said else line.startswith(f"data {spec}: cannot be had from the hub: Parquet"), line
    assert not out.exists()


def test_a_token_opens_what_its_account_may_read(hub, home):
    hub.add("datasets/org/gated", {"train.parquet": parquet(CHINESE)}, gated=True)
    spec = "hub:org/gated::train"
    line = f"it is gated, and your account has no access yet; accept its conditions on {hub.url}/datasets/org/gated (some owners agree by"
    assert line in rows_of(hub, home, spec, HF_TOKEN="hf_stranger")[0]
    said = "the hub does not know the token; log in again with hf auth login, or set another HF_TOKEN"
    assert rows_of(hub, home, spec, HF_TOKEN="hf_wrong") == [refused(spec, said)]
    assert (
        rows_of(hub, home, spec, f"hub:org/gated@{hub.repos['datasets/org/gated'].refs['main']}::train", HF_TOKEN="hf_owner")
        == [plain(CHINESE, "org--gated/train")] * 2
    )


def test_a_cut_download_is_one_line_and_the_same_command_finishes_it(hub, home):
    hub.add("datasets/org/qa", languages())
    hub.cut["es/train-1.parquet"] = 300
    said = rows_of(hub, home, "hub:org/qa:es:train")[0]
    assert re.match(
        r"data hub:org/qa:es:train: cannot be had from the hub: the connection broke off \(peer closed .*\); give the same", said
    )
    hub.cut.clear()
    hub.asked.clear()
    hub.once["es/train-1.parquet"] = 300  # and the rest is asked for in the same command
    assert rows_of(hub, home, "hub:org/qa:es:train") == [plain(SPANISH, "org--qa/train")]
    assert [line for line in hub.fetched() if line.startswith("train")] == ["train-1.parquet", "train-1.parquet bytes=300-"]


def test_a_hub_that_is_out_of_order_or_away_is_told_apart(hub, home):
    hub.broken = 503
    spec = "hub:org/qa:es:train"
    assert rows_of(hub, home, spec) == [refused(spec, "the hub answered 503; try again later")]
    away = "the hub cannot be reached, and no copy is in its cache"
    assert rows_of(hub, home, spec, HF_ENDPOINT="http://127.0.0.1:9") == [refused(spec, away)]


def test_offline_a_copy_of_another_commit_is_not_taken_for_the_one_that_is_named(hub, home):
    old = hub.add("datasets/org/qa", languages(), "main", "v1")
    new = hub.add("datasets/org/qa", languages(SPANISH[::-1]), "main")
    assert rows_of(hub, home, f"hub:org/qa@{new}:es:train") == [plain(SPANISH[::-1], "org--qa/train")]
    before = list(hub.asked)
    pinned, other, tag, never = f"hub:org/qa@{new}:es:train", f"hub:org/qa@{old}:es:train", "hub:org/qa@v1:es:train", "hub:org/no::train"
    found = rows_of(hub, home, "hub:org/qa:es:train", pinned, other, tag, never, HF_HUB_OFFLINE="1")
    assert hub.asked == before
    assert found == [
        *[plain(SPANISH[::-1], "org--qa/train")] * 2,
        refused(other, f"it cannot be reached, and the copy in its cache is of another commit than {old}"),
        f"data {tag}: the hub is not asked (HF_HUB_OFFLINE is set), so nobody knows which commit 'v1' is; name the commit itself{LOCAL}",
        refused(never, "the hub is not asked, and no copy is in its cache"),
    ]
