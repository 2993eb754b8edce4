"""What keeps the house fit to live in: short functions, files that are read in one go, few rooms at a door, tests
beside them."""

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "tu_score", "tu_train", "tu_eval")
FILES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.read_text().strip()]


def lines(path):
    return len(path.read_text().splitlines())


def test_no_function_is_longer_than_sixty_lines():
    long = {}
    for path in [*FILES, *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (size := node.end_lineno - node.lineno + 1) > 60:
                long[f"{path.relative_to(ROOT)}: {node.name}"] = size
    assert long == {}


def test_the_median_file_has_90_to_200_lines():
    assert 90 <= statistics.median(map(lines, FILES)) <= 200


def test_tu_eval_has_at_most_13_rooms_at_its_door():
    top = ROOT / "tu_eval"
    rooms = [p for p in top.iterdir() if (p / "__init__.py").exists() or (p.suffix == ".py" and not p.name.startswith("__"))]
    assert len(rooms) <= 13, sorted(p.name for p in rooms)


def test_typer_is_met_in_few_lines():
    """Commands are dataclasses and functions; what makes flags of them is in one place."""
    met = [path for path in FILES if "import typer" in path.read_text() or "from typer" in path.read_text()]
    assert met and sum(map(lines, met)) <= 300, [str(path.relative_to(ROOT)) for path in met]


def test_tests_mirror_the_tree():
    folders = {p.parent for package in PACKAGES for p in (ROOT / "tests" / package).rglob("test_*.py")}
    strays = [f for f in folders if not (ROOT / f.relative_to(ROOT / "tests")).is_dir()]
    assert strays == []
