"""A name means one thing in all packages (docs/glossary.md)."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "tu_score", "tu_train", "tu_eval")
COMMANDS = ("cli.py", "arguments.py")
"""whose classes are the arguments of commands, named after them"""
PRIVATE_WORDS = {"look", "Seen", "Reading", "readings"}
"""names that were ours alone, where the field has a word: forward pass, pass tokens, needs"""


def types_of(tree):
    """Classes, and other names for types: `Bounds = tuple[float, float]`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        alias = isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript) and isinstance(node.targets[0], ast.Name)
        if alias and re.fullmatch(r"[A-Z][a-z]\w*", node.targets[0].id):
            yield node.targets[0].id


def test_no_two_types_have_one_name():
    places = defaultdict(list)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.name not in COMMANDS:
                for name in types_of(ast.parse(path.read_text())):
                    places[name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1 and not name.startswith("_")} == {}


def test_training_speaks_the_words_of_the_field():
    for path in (ROOT / "tu_train").rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert names.isdisjoint(PRIVATE_WORDS), path


def test_the_test_sees_types():
    tree = ast.parse("class A: ...\nBounds = tuple[float, float]\nLIMIT = table[0]\nnumber = x[1]")
    assert list(types_of(tree)) == ["A", "Bounds"]
