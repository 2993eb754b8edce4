"""What a user names is imported and checked; every way in which that fails is one line; what nobody named is never
imported."""

import hashlib
import sys

import pytest

from shared import extensions
from shared.errors import ConfigError
from shared.extensions import Kind, asked, find, identity, is_function, load, offered

NUMBER: Kind[int] = Kind("token_unlearn.numbers", "--number", "a whole number", lambda value: type(value) is int)
KNOWN = {"one": 1, "two": 2}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder on Python's path; what is imported in a test is forgotten behind it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(extensions, "_imported", {})
    extensions._entries.cache_clear()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    extensions._entries.cache_clear()


def write(place, text, name="numbers_of_mine.py"):
    (place / name).write_text(text)
    return place / name


def install(place, monkeypatch, name="mine", version="1.5", entries="three = numbers_of_mine:three", module="three = 3\n"):
    """A folder as pip fills one, on Python's path."""
    site = place / f"site-{name}"
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[token_unlearn.numbers]\n{entries}\n")
    (info / "RECORD").write_text("numbers_of_mine.py,,\n")
    write(site, module)
    monkeypatch.syspath_prepend(str(site))


def refused(name: str) -> str:
    with pytest.raises(ConfigError) as error:
        find(NUMBER, name, KNOWN)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_known_is_taken_from_the_table_and_has_no_identity(place):
    assert find(NUMBER, "two", KNOWN) == 2
    assert identity(NUMBER, "two") is None


def test_a_file_on_the_path_is_imported_and_hashed(place):
    path = write(place, "three = 3\n")
    assert find(NUMBER, "numbers_of_mine:three", KNOWN) == 3
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert identity(NUMBER, "numbers_of_mine:three") == f"numbers_of_mine:three sha256:{digest}"


def test_the_current_folder_is_not_on_the_path_by_itself(place, monkeypatch):
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere, "open('ran', 'w')\nthree = 3\n")
    monkeypatch.chdir(elsewhere)
    assert "set PYTHONPATH" in refused("numbers_of_mine:three") and not (elsewhere / "ran").exists()


def test_an_installed_package_is_found_by_name_and_by_place_with_its_version(place, monkeypatch):
    install(place, monkeypatch)
    assert find(NUMBER, "three", KNOWN) == find(NUMBER, "numbers_of_mine:three", KNOWN) == 3
    assert load(NUMBER, "three").source == load(NUMBER, "numbers_of_mine:three").source == "numbers_of_mine:three (mine 1.5)"


def test_a_loose_file_is_not_said_to_be_of_the_package_that_has_its_name(place, monkeypatch):
    install(place, monkeypatch)
    other = place / "before"
    other.mkdir()
    write(other, "three = 4\n")
    monkeypatch.syspath_prepend(str(other))
    assert find(NUMBER, "numbers_of_mine:three", KNOWN) == 4
    assert load(NUMBER, "numbers_of_mine:three").source == "numbers_of_mine:three"


def test_a_listing_has_what_packages_offer_and_the_reason_for_what_cannot_be_used(place, monkeypatch):
    install(place, monkeypatch, entries="three = numbers_of_mine:three\nfour = numbers_of_mine:four\none = numbers_of_mine:three")
    found = dict(offered(NUMBER, KNOWN))
    assert list(found) == ["four", "three"]  # the name `one` stays that of the table
    assert "has no four" in str(found["four"]) and found["three"].object == 3


def test_a_name_that_two_packages_offer_is_refused(place, monkeypatch):
    install(place, monkeypatch)
    install(place, monkeypatch, "yours", entries="three = numbers_of_mine:other", module="other = 4\n")
    assert "both offer three; uninstall one" in refused("three")


def test_an_unknown_name_gets_the_nearest_of_table_and_packages(place, monkeypatch):
    assert refused("tow") == "--number tow: unknown (did you mean 'two'?)"
    install(place, monkeypatch)
    extensions._entries.cache_clear()
    assert refused("thre") == "--number thre: unknown (did you mean 'three'?)"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "no_such_module_here:x", "there is no module no_such_module_here on Python's path; install its package"),
        ("", "numbers_of_mine.deeper:x", "there is no module numbers_of_mine.deeper"),
        ("three = 3", "numbers_of_mine:thre", "has no thre (did you mean 'three'?)"),
        ("three = '3'", "numbers_of_mine:three", "is of type str, expected a whole number"),
        ("import no_such_module_here", "numbers_of_mine:three", "imports no_such_module_here, which is not installed"),
        ("three = 3\n\n1 / 0", "numbers_of_mine:three", "cannot be imported: ZeroDivisionError: division by zero ("),
        ("raise SystemExit(3)", "numbers_of_mine:three", "cannot be imported: SystemExit: 3"),
        ("three = = 3", "numbers_of_mine:three", "cannot be imported: SyntaxError: invalid syntax"),
        ("", "numbers_of_mine.py:three:four", "is no place of an object, expected package.module:NAME"),
        ("", "folder/numbers_of_mine:three", "is no place of an object"),
        ("", "numbers_of_mine:", "is no place of an object"),
        ("", "sys:path", "sys is a folder without code, or built into Python"),
    ],
)
def test_what_cannot_be_used_is_one_line(place, text, name, said):
    write(place, text)
    assert refused(name).startswith(f"--number {name}: ") and said in refused(name)


def test_an_error_of_the_module_names_its_file_and_line(place):
    path = write(place, "three = 3\n\n1 / 0\n")
    assert f"({path}, line 3)" in refused("numbers_of_mine:three")


def test_what_nobody_named_is_not_imported(place):
    write(place, "open('ran', 'w')\nthree = 3\n")
    assert asked(NUMBER, "numbers_of_mine:three") is None
    assert identity(NUMBER, "numbers_of_mine:three") is None
    assert not (place / "ran").exists()
    find(NUMBER, "numbers_of_mine:three", KNOWN)  # it would have run
    assert (place / "ran").exists()


def test_a_class_is_no_function():
    assert is_function(len) and is_function(lambda: 0)
    assert not is_function(int) and not is_function(3)
