"""The interface for Python (docs/python.md): its page run as it stands, its names, docstrings and light imports; and
that installed packages need nothing of the repository."""

import ast
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.data.datasets import load_rows
from shared.errors import ConfigError, StoreError
from tests.s3 import require
from tests.tu_train.conftest import FORGET, RETAIN
from tu_score import score

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
READERS = {re.match(r"(?:import|from) (\w+)", block)[1]: block for block in BLOCKS if "\nscores = " in block and "tu_" not in block}
PACKAGES = ("tu_score", "tu_train", "tu_eval")
SUITE = f'[[set]]\nname = "forget"\ndata = "{FORGET}"\n\n[[set]]\nname = "retain"\ndata = "{RETAIN}"\n'


@pytest.fixture(scope="module")
def place(tiny_model, tmp_path_factory):
    """A folder with what the page calls `target`, `forget.jsonl`, `retain.jsonl` and `suite.toml`."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "target").symlink_to(tiny_model)
    for name, data in (("forget", FORGET), ("retain", RETAIN)):
        lines = [json.dumps({"question": row.question, "answer": row.answer}) for row in load_rows(data)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "suite.toml").write_text(SUITE)
    return folder


def test_the_page_runs_as_it_stands(place, monkeypatch):
    monkeypatch.chdir(place)
    names = {}
    for block in BLOCKS:
        if "tu_" in block or "scores.weights" in block:
            exec(block.replace('suite="suite.toml", ', 'suite="suite.toml", generate=False, '), names)  # noqa: S102 - the page's own code
    assert Path("report.html").is_file() and Path("models/unlearned/model.safetensors").is_file()
    targets = sum(sum(row["is_target"]) for row in names["scores"].rows(["is_target"]))
    assert len(names["examples"]) == len(names["weights"]) == len(names["importance"]) == len(names["scores"])
    assert 0 < sum(weights.sum() for weights in names["weights"]) < targets < len(names["tokens"])
    assert len(names["comparison"].table()) == 2


READ = """
import json, os, sys
names = {}
exec(sys.stdin.read(), names)
scores = names["scores"]
if type(scores).__module__.startswith("ray"):
    rows = scores.take_all()
elif hasattr(scores, "to_pylist"):
    rows = scores.to_pylist()
elif hasattr(scores, "fetchall"):
    rows = [dict(zip(scores.columns, row)) for row in scores.fetchall()]
elif hasattr(scores, "to_dicts"):
    rows = scores.to_dicts()
elif hasattr(scores, "to_dict") and hasattr(scores, "iterrows"):
    rows = json.loads(scores.to_json(orient="records", double_precision=15))
else:
    rows = list(scores)
columns = ("example_id", "input_ids", "tokens", "is_target", "logprob", "importance")
plain = lambda value: value.tolist() if hasattr(value, "tolist") else value
print(json.dumps([{name: plain(row[name]) for name in columns} for row in rows]))
"""
"""what a line of the page opens, as a list of rows"""


def number(value):
    return None if value is None or value != value else round(float(value), 5)


def plain_rows(rows):
    """In one form, by example id: what is missing is None or NaN, depending on the reader."""
    out = {}
    for row in rows:
        numbers = {name: [number(v) for v in row[name]] for name in ("input_ids", "logprob", "importance")}
        out[row["example_id"]] = {**numbers, "tokens": list(row["tokens"]), "is_target": [bool(v) for v in row["is_target"]]}
    return out


@pytest.fixture(scope="module")
def stored(place, tiny_model):
    return score(model=tiny_model, data=FORGET, out=place / "readers" / "scores", device="cpu", part_tokens=150)


def test_the_page_names_six_readers():
    assert set(READERS) == {"pandas", "duckdb", "polars", "datasets", "pyarrow", "ray"}


@pytest.mark.parametrize("reader", READERS)
def test_the_line_of_the_page_opens_the_store(reader, stored, tmp_path):
    require(reader)
    assert len(stored.store.manifest["parts"]) > 1
    hidden = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9", "RAY_USAGE_STATS_ENABLED": "0"}
    ran = subprocess.run([sys.executable, "-c", READ], input=READERS[reader], cwd=Path(stored.folder).parent, env=environment,
                         capture_output=True, text=True, timeout=200)  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert plain_rows(found) == plain_rows(stored.rows()) and len(found) == len(stored)
    if reader != "ray":
        assert [row["example_id"] for row in found] == [row["example_id"] for row in stored.rows(["example_id"])]


def names_of(package):
    return importlib.import_module(package).__all__


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_listed_typed_and_found(package):
    module = importlib.import_module(package)
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    typed = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names if node.module != "typing"}
    assert set(names_of(package)) <= typed  # what an editor and pyright see is what there is
    assert set(names_of(package)) <= set(dir(module)) and all(getattr(module, name) is not None for name in names_of(package))
    documented = PAGE + (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
    assert [name for name in names_of(package) if name not in documented] == []


def public():
    """(name, docstring, what it is) of every public name, and of the public methods of its classes that are ours."""
    for package in PACKAGES:
        for name in names_of(package):
            value = getattr(importlib.import_module(package), name)
            if isinstance(value, dict):
                continue
            if inspect.ismodule(value):  # a room that can be called for what its function does
                value = getattr(importlib.import_module(f"{value.__name__}.together"), name)
            yield f"{package}.{name}", inspect.getdoc(value), value
            if name in ("Scores", "WeightedDataset", "Pairs"):
                for attribute, member in vars(value).items():
                    member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                    own = not attribute.startswith("_") or (attribute == "__init__" and name != "Scores")
                    if inspect.isfunction(member) and own:
                        yield f"{package}.{name}.{attribute}", member.__doc__, member


WITHOUT_ERRORS = {"tu_score.Scores.folder", "tu_score.Scores.columns", "tu_train.WeightedDataset.order"}
"""public functions that raise nothing of their own"""
WITH_ARRAYS = ("Scores.rows", "Scores.weights", "Scores.importance", "Scores.to_pandas", "collate", "compute_loss", "compare")


def test_every_public_name_says_shapes_and_errors():
    checked = list(public())
    assert len(checked) > 25
    for name, text, value in checked:
        made = f"{name.rpartition('.')[2]}("  # how the docstring begins that a dataclass gives itself
        assert text and (inspect.isclass(value) or len(text) > 20) and not text.startswith(made), f"{name}: no docstring of its own"
        if not inspect.isclass(value) and name not in WITHOUT_ERRORS:
            assert "Raises" in text, f"{name}: its docstring does not say what it raises"
        if name.endswith(WITH_ARRAYS):
            assert re.search(r"\[[A-Z](, [A-Z])*\]|scalar", text), f"{name}: its docstring gives no shape"


PUBLIC_FILES = (
    "tu_score/interface.py", "tu_score/config.py", "tu_train/interface.py", "tu_train/config.py", "tu_train/weighted.py",
    "tu_train/trainers.py", "tu_train/open_unlearning.py", "tu_train/methods/table.py", "tu_train/methods/tokens.py",
    "tu_train/methods/losses.py", "tu_eval/compare/together.py", "tu_eval/compare/comparison.py", "tu_eval/measure/run.py",
    "tu_eval/measure/config.py", "tu_eval/measure/own.py", "tu_eval/results/results.py", "tu_eval/suites/sets.py",
    "tu_eval/results/folder.py", "tu_eval/attacks/probing.py", "shared/errors.py",
    "shared/weighting/norms.py", "shared/data/datasets.py", "shared/weighting/importance.py", "shared/store/scores.py",
)  # fmt: skip
"""where the public names of docs/python.md, docs/trainers.md and docs/extending.md are defined"""


def test_no_file_of_a_public_name_is_left_out():
    homes = {Path(inspect.getfile(value)).relative_to(ROOT).as_posix() for name, _, value in public() if name.count(".") == 1}
    extending = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    homes |= {f"{module.replace('.', '/')}.py" for module in re.findall(r"^from ((?:shared|tu_\w+)\.[\w.]+) import", extending, re.M)}
    homes.discard("shared/engines/torch.py")  # its source is part of the key of kept measurements
    assert homes - set(PUBLIC_FILES) == set(), "add it here and to the rule D of pyproject.toml"


def ruff(path, code):
    words = [str(Path(sys.executable).with_name("ruff")), "check", "--no-cache", "--stdin-filename", path, "-"]
    return subprocess.run(words, input=code, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("path", PUBLIC_FILES)
def test_a_public_name_without_a_docstring_fails_lint(path):
    code = (ROOT / path).read_text()
    assert ruff(path, code).returncode == 0
    done = ruff(path, code + "\n\ndef bare() -> None:\n    pass\n")
    assert done.returncode == 1 and "D103" in done.stdout


def python(folder, *words, **environment):
    return subprocess.run([sys.executable, *words], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)


def test_the_import_of_a_package_is_light(tmp_path):
    code = "import sys, tu_score, tu_train, tu_eval; print([n for n in ('torch', 'transformers', 'pyarrow', 'numpy') if n in sys.modules])"
    assert python(tmp_path, "-c", code, PYTHONPATH=str(ROOT)).stdout.strip() == "[]"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The packages as an installation has them, and nothing else of the repository."""
    folder = tmp_path_factory.mktemp("site")
    for package in ("shared", *PACKAGES):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_an_installation_needs_nothing_of_the_repository(site, stored, tmp_path):
    code = f"""
import tu_score, tu_train, tu_eval
assert tu_score.__file__.startswith({str(site)!r}), tu_score.__file__
scores = tu_score.open_scores({str(stored.folder)!r})
assert len(scores.weights()) == len(scores) and len(tu_train.WeightedDataset(scores)) == len(scores)
print(len(tu_train.METHODS), callable(tu_eval.compare))
"""
    done = python(tmp_path, "-c", code, PYTHONPATH=str(site))
    assert done.returncode == 0 and done.stdout.split() == ["19", "True"], done.stderr


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("kind", ["file", "package"])
def test_another_package_named_shared_is_said_in_one_line(package, kind, site, tmp_path):
    place = tmp_path / "shared.py" if kind == "file" else tmp_path / "shared" / "__init__.py"
    place.parent.mkdir(exist_ok=True)
    place.write_text("")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(site)])}
    done = python(tmp_path, "-c", f"import {package}", **environment)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith(f"ImportError: {package}: ") and str(place) in last and str(site / "shared") in last
    (tmp_path / "scripts").mkdir()
    command = tmp_path / "scripts" / package.replace("_", "-")
    command.write_text(f"from {package}.cli import main\nmain()\n")
    for words in (["-m", package], [command]):
        done = python(tmp_path, *words, "--help", **environment)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(place) in done.stderr
    place.unlink()
    assert python(tmp_path, "-m", package, "--help", **environment).returncode == 0


def test_compare_takes_results_and_folders_and_writes_what_is_named(place, monkeypatch, tmp_path, run_cli):
    from tu_eval import compare, evaluate

    monkeypatch.chdir(place)
    kept = {"suite": "suite.toml", "generate": False, "store": str(tmp_path / "kept"), "limit": 2, "device": "cpu"}
    first = evaluate(model="target", out=tmp_path / "a", label="a", **kept)
    evaluate(model="target", out=tmp_path / "b", label="b", **kept)
    comparison = compare([first, str(tmp_path / "b")])
    assert [group.title for group in comparison.groups] == ["a", "b"] and len(comparison.table()[0]) == len(comparison.columns)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "kept"]
    compare([first, tmp_path / "b"], out=tmp_path / "page.html", csv=tmp_path / "page.csv", rows=False)
    words = ("tu-eval", "compare", tmp_path / "a", tmp_path / "b", "--no-rows")
    code, out, _ = run_cli(*words, "--out", tmp_path / "other.html", "--csv", tmp_path / "other.csv")
    assert code == 0 and f"page: {tmp_path / 'other.html'}\ncsv: {tmp_path / 'other.csv'}\n" in out
    for kind in ("html", "csv"):
        assert (tmp_path / f"page.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes()
    with pytest.raises(ConfigError, match="compare: no results given"):
        compare([])
    with pytest.raises(StoreError, match="nowhere"):
        compare(["nowhere"])
    with pytest.raises(ConfigError, match=r"evaluate: unknown field 'suit' \(did you mean 'suite'\?\)"):
        evaluate(model="target", suit="suite.toml", out="x")
    assert str(inspect.signature(compare)).startswith("(results:")
    import tu_eval.compare.table as room  # the room is still one

    assert room.print_comparison and tu_eval_compare() is compare


def tu_eval_compare():
    return importlib.import_module("tu_eval.compare")
