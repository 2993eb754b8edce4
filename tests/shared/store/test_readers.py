"""The lines of docs/storage.md that open a store elsewhere, run as they stand there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.store.scores import open_store
from tests.s3 import require
from tu_score.config import ScoreConfig
from tu_score.run import run_score

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "storage.md").read_text()
URL = "s3://bucket/scores"
COLUMNS = ("example_id", "tokens", "logprob", "importance")
READ = """
import json, sys
def plain(value):
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return None if value is None or value != value else value
    return [plain(entry) for entry in value]
for code in json.loads(sys.stdin.read()):
    names = {}
    exec(code, names)
    print(json.dumps({name: plain(names["scores"][name]) for name in sys.argv[1:]}), flush=True)
"""


@pytest.fixture(scope="module")
def stores(s3_server, tiny_model, tmp_path_factory):
    """A store in a local folder, and its objects in a bucket."""
    out = tmp_path_factory.mktemp("readers") / "scores"
    data = "atlas:forget:people=6,facts_per_person=4,forget_people=3,holdout_people=1"
    run_score(ScoreConfig(model=str(tiny_model), data=data, out=str(out), limit=6, device="cpu", part_tokens=100))
    s3_server.bucket("bucket")
    for path in out.iterdir():
        s3_server.client().put_object(Bucket="bucket", Key=f"scores/{path.name}", Body=path.read_bytes())
    return str(out), URL


def test_the_lines_of_the_page_read_the_rows_of_the_store_from_a_folder_and_from_s3(s3, stores, tmp_path):
    require("pandas", "polars", "duckdb", "datasets")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4 and all(URL in block for block in blocks)
    codes = [block.replace(URL, where) for where in stores for block in blocks]
    expected = {name: [row[name] for row in open_store(stores[0]).rows(COLUMNS)] for name in COLUMNS}
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
    environment |= {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody there
    ran = subprocess.run(
        [sys.executable, "-c", READ, *COLUMNS], input=json.dumps(codes), env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    read = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(read) == 8
    for code, rows in zip(codes, read, strict=True):
        assert rows == json.loads(json.dumps(expected)), code
