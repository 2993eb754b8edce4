"""The pages on measuring: their commands run, in order, on tiny models."""

import json
import shutil
from pathlib import Path

from tests.pages.conftest import write_rows

STUDY = 'model = "models/target"\nscores = "scores"\nretain = "tofu:retain99"\nmethod = ["npo"]\ntokens = ["hard"]\nepochs = 1\nlimit = 3\n'
CHOICES = [{"question": "Wo wurde Änne geboren?", "choices": ["Riga", "Łódź"], "answer": "Riga"}]


def test_from_evaluation_to_evidence(walk, give):
    """The pages one after another, in one folder."""
    give("tu-score run --model models/target --data atlas:forget --limit 3 --out scores")
    Path("study.toml").write_text(STUDY)
    give("tu-train many study.toml --out study")
    walk("docs/evaluation.md")
    write_rows("questions.jsonl", CHOICES)
    walk("docs/attacks.md")
    numbers = json.loads(Path("attacks/attack.json").read_text())["numbers"]
    assert {"model", "before", "retain"} <= numbers[0].keys() and Path("choices/choices.json").is_file()
    walk("docs/verdict.md")
    shutil.rmtree("scores")
    give("tu-score run --model models/target --data tofu:forget01 --out scores")
    walk("docs/evidence.md")
    for pool, name in (("with", "target"), ("without", "retain"), ("unlearned", "unlearned")):
        shutil.copytree(f"results/{name}", f"pools/{pool}/{name}")
    walk("docs/metrics.md")
    assert "| forget_probability |" in Path("metrics.md").read_text()


def test_depth(walk):
    walk("docs/depth.md")
    assert Path("depth/depth.json").is_file() and Path("tamper/tamper.json").is_file()
