"""The pages on scoring and training, and the README behind its first story: their commands run, in order, on tiny
models."""

import json
from pathlib import Path

from docs.shown import shown
from shared.store.scores import open_store
from tests.pages.conftest import ROOT, SHORT
from tests.shared.lm.test_gguf import write_gguf

SCORE = "tu-score run --model models/target --data forget.jsonl --limit 3 --out scores"


def test_readme_behind_its_story(walk):
    Path("study.toml").write_text('model = "org/my-model"\nscores = "scores"\nretain = "retain.jsonl"\nepochs = 1\nlimit = 2\n')
    said = walk("README.md", behind="\n## Score on one box", more=SHORT)
    assert len(said) > 15 and Path("runs/tofu10/page.html").is_file()


def test_index(walk):
    walk("docs/index.md")
    assert "<html" in Path("heatmap.html").read_text(encoding="utf-8")


def test_recipes(walk):
    lines = (ROOT / "docs/recipes.md").read_text(encoding="utf-8").split("```\nimport pyarrow")[1].split("```")[0]

    def own_importance() -> None:
        rows = list(open_store("scores").rows(("example_id", "input_ids")))
        given = {"ids": [row["example_id"] for row in rows], "lists": [[0.5] * len(row["input_ids"]) for row in rows]}
        exec(f"import pyarrow{lines}", given)  # noqa: S102 (the lines of the page)

    walk("docs/recipes.md", first={"tu-score recipe scores --importance": own_importance})


def test_methods(walk):
    walk("docs/methods.md")
    record = json.loads(Path("models/unlearned/training.json").read_text())
    assert "store" not in record and record["settings"]["method"] == "graddiff"


def test_on_the_way(walk, give):
    give(SCORE)
    give("tu-eval run --model models/retain --suite tofu:forget01 --out results/retain")
    walk("docs/on_the_way.md", more={"tu-train run": "--eval-every 1"})
    assert Path("models/unlearned/best/training.json").is_file()


def test_diagnose(walk, give):
    give("tu-score run --model models/target --data atlas:forget --limit 3 --out scores")
    walk("docs/diagnose.md")


def test_parallel(walk, give):
    give(SCORE)
    walk("docs/parallel.md")


def test_gguf(walk, place, monkeypatch):
    monkeypatch.setenv("TU_CACHE_DIR", str(place / "cache"))
    write_gguf(place / "Qwen2.5-0.5B-Q8_0.gguf", quantised=True)
    walk("docs/gguf.md")


def test_storage(walk, s3):
    s3.bucket("bucket")
    walk("docs/storage.md")


def test_scale(walk, give, monkeypatch):
    """The walk is the last of four jobs."""
    job = shown((ROOT / "docs/scale.md").read_text(encoding="utf-8"))[0]
    for number in (2, 3, 4, 1):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(number))
        if number > 1:
            give(job)
    walk("docs/scale.md", more={"tu-score run": ""})
    assert sum(1 for _ in open_store("scores").rows(("example_id",))) == 8
