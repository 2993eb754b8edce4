"""Configuration: which source wins, what each type takes, what an error says, and that what is written reads back."""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.config import as_dict, resolve, write_config
from shared.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Settings:
    model: str
    epochs: int = 3
    learning_rate: float = 1e-5
    method: Literal["npo", "graddiff"] = "npo"
    verbose: bool = False
    limit: int | None = None
    note: str | None = None
    spans: tuple[str, ...] = ("question",)
    sizes: tuple[int, ...] = ()

    def __post_init__(self):
        if self.epochs < 1:
            raise ConfigError(f"--set epochs={self.epochs}: expected at least 1")


def toml(tmp_path, text: str):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- sources


def test_flags_and_sets_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = toml(tmp_path, 'model = "file"\nepochs = 5\nlearning_rate = 0.1\nverbose = true\n')
    found = resolve(Settings, config=file, sets=["learning_rate=0.2"], flags={"model": "flag", "limit": None})
    assert found == Settings(model="flag", epochs=5, learning_rate=0.2, verbose=True)


def test_a_missing_field_is_named_as_the_flag_that_gives_it():
    with pytest.raises(ConfigError, match=r"^--model is missing \(or set model in --config FILE.toml\)$"):
        resolve(Settings)


def test_an_unknown_field_suggests_the_nearest_and_names_its_source(tmp_path):
    with pytest.raises(ConfigError, match=r"^command line: unknown field 'epoch' \(did you mean 'epochs'\?\)$"):
        resolve(Settings, sets=["epoch=3"])
    with pytest.raises(ConfigError, match=r"run\.toml: unknown field 'modle' \(did you mean 'model'\?\)$"):
        resolve(Settings, config=toml(tmp_path, 'modle = "x"'))
    with pytest.raises(ConfigError, match=r"unknown field 'zzz' \(known: model, epochs, learning_rate"):
        resolve(Settings, sets=["zzz=1"])


@pytest.mark.parametrize("sets", [["epochs=1", "epochs=2"], ["model=b"]])
def test_a_field_given_twice_on_the_command_line_is_refused(sets):
    with pytest.raises(ConfigError, match="is given twice"):
        resolve(Settings, sets=sets, flags={"model": "a"})


def test_a_set_without_a_value_is_refused():
    with pytest.raises(ConfigError, match=r"^--set epochs: expected field=value$"):
        resolve(Settings, sets=["epochs"], flags={"model": "a"})


def test_a_check_across_fields_becomes_one_line():
    with pytest.raises(ConfigError, match=r"^--set epochs=0: expected at least 1$"):
        resolve(Settings, sets=["epochs=0"], flags={"model": "a"})


# --- types


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("epochs=7", "epochs", 7),
        (" epochs = 7 ", "epochs", 7),
        ("learning_rate=1", "learning_rate", 1.0),
        ("learning_rate=3e-4", "learning_rate", 3e-4),
        ("verbose=true", "verbose", True),
        ("method=graddiff", "method", "graddiff"),
        ('method="graddiff"', "method", "graddiff"),
        ("limit=4", "limit", 4),
        ("note=two words", "note", "two words"),
        ("note=a=b", "note", "a=b"),
        ("note=", "note", ""),
        ("note='quoted'", "note", "quoted"),
        ("spans=window", "spans", ("window",)),
        ('spans=["window", "question"]', "spans", ("window", "question")),
        ("sizes=4", "sizes", (4,)),
        ("sizes=[4, 5]", "sizes", (4, 5)),
    ],
)
def test_a_set_value_is_read_by_the_type_of_its_field(text, field, value):
    found = getattr(resolve(Settings, sets=[text], flags={"model": "a"}), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["1e5", "12e4567", "007", "1_000", "2026-01-01", "true", "0x10", "[1]", "inf", "~/models/a b"])
def test_text_that_looks_like_something_else_stays_as_it_was_typed(text):
    assert resolve(Settings, sets=[f"model={text}", f"note={text}"]) == Settings(model=text, note=text)


@pytest.mark.parametrize(
    "text",
    [
        "epochs=three",
        "epochs=3.0",
        "epochs=true",
        "epochs=[3]",
        "learning_rate=fast",
        "learning_rate=true",
        "verbose=1",
        "limit=a",
        "sizes=a",
    ],
)
def test_a_value_of_another_type_is_refused_with_field_got_and_expected(text):
    with pytest.raises(ConfigError, match=rf"^command line: {text.split('=')[0]}: got .*, expected (int|float|bool)$"):
        resolve(Settings, sets=[text], flags={"model": "a"})


def test_a_choice_that_does_not_exist_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"method: got 'graddif' \(did you mean 'graddiff'\?\)"):
        resolve(Settings, flags={"model": "a", "method": "graddif"})


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("absent.toml", None, "no such file"),
        ("bad.toml", b"a = = 1", "not valid TOML"),
        ("latin.toml", b"a = '\xe9'", "not valid TOML"),
        ("", None, "is no ordinary file"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_named(tmp_path, name, content, problem):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        resolve(Settings, config=path)
    assert str(caught.value).startswith(f"--config {path}: ")
    assert "\n" not in str(caught.value)


# --- what could not be written down again


@dataclass(frozen=True, kw_only=True)
class Tables:
    rates: tuple[float, ...] = ()
    table: dict[str, float] | None = None
    free: dict[str, Any] | None = None
    name: str = ""
    count: int = 0


@pytest.mark.parametrize("bad", ["inf", "-inf", "nan", "+inf"])
@pytest.mark.parametrize("text", ["rates=[1.0, {}]", "rates={}", "table={{a = {}}}", "free={{a = {}}}", "free={{a = [{{b = {}}}]}}"])
def test_numbers_that_are_not_finite_are_refused(text, bad, tmp_path):
    with pytest.raises(ConfigError, match=r"^command line: .*got .*(inf|nan), expected a finite number$"):
        resolve(Tables, sets=[text.format(bad)])
    with pytest.raises(ConfigError, match=r"run\.toml: .*expected a finite number$"):
        resolve(Tables, config=toml(tmp_path, text.format(bad).replace("rates=inf", "rates=[inf]")))


@pytest.mark.parametrize("given", [{"name": "a\0b"}, {"name": os.fsdecode(b"a\xff")}, {"free": {"a": ["\0"]}}, {"free": {"\ud800": 1}}])
def test_text_that_no_file_can_hold_is_refused(given):
    with pytest.raises(ConfigError, match=r"command line: .*could not be written down beside the output") as caught:
        resolve(Tables, flags=given)
    str(caught.value).encode()


@pytest.mark.parametrize("given", [{"count": 2**63}, {"count": -(10**6000)}, {"rates": [2**64]}, {"free": {"a": 2**63}}])
def test_numbers_beyond_64_bits_are_refused(given):
    with pytest.raises(ConfigError, match=r"expected one within -2\^63 and 2\^63$"):
        resolve(Tables, flags=given)
    assert resolve(Tables, flags={"count": 2**63 - 1}).count == 2**63 - 1


def test_a_table_of_any_values_takes_what_toml_and_json_both_know():
    free = {"a": True, "b": [1, 2.5, "c"], "d": {"e": "f"}}
    assert resolve(Tables, flags={"free": free}).free == free
    with pytest.raises(ConfigError, match=r"free.a: got datetime.*, expected a text, a number"):
        resolve(Tables, sets=["free={a = 2026-01-01}"])


@pytest.mark.parametrize("content", ["a = " + "[" * 100_000, "a = " + "1" * 5000, "#" * 10_000_001], ids=["deep", "digits", "large"])
def test_a_file_that_the_reader_gives_up_on_is_one_line(content, tmp_path):
    with pytest.raises(ConfigError, match=r"run\.toml: (not valid TOML|more than 10 MB)") as caught:
        resolve(Tables, config=toml(tmp_path, content))
    assert len(str(caught.value)) < 500
    for text in ("name", "rates", "count"):
        try:
            resolve(Tables, sets=[f"{text}={content.removeprefix('a = ')}"])
        except ConfigError as error:
            assert len(str(error)) < 300


# --- written and read back


@settings(max_examples=50, deadline=None)
@given(
    model=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    learning_rate=st.floats(allow_nan=False, allow_infinity=False),
    spans=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=3).map(tuple),
    limit=st.none() | st.integers(-(2**63), 2**63 - 1),
    verbose=st.booleans(),
)
@example(model='🙂 "\\\x7f\n\x01', learning_rate=-0.0, spans=("\x7f",), limit=None, verbose=True)
def test_what_is_written_reads_back_equal(tmp_path_factory, model, learning_rate, spans, limit, verbose):
    path = tmp_path_factory.mktemp("config") / "config.toml"
    settings = Settings(model=model, learning_rate=learning_rate, spans=spans, limit=limit, verbose=verbose)
    write_config(path, settings)
    assert resolve(Settings, config=path) == settings


def test_as_dict_holds_plain_values_and_leaves_out_what_is_not_set():
    found = as_dict(Settings(model="a", spans=("x", "y")))
    assert found["spans"] == ["x", "y"]
    assert found["sizes"] == []
    assert "limit" not in found
    assert "note" not in found


def test_nearest_suggests_or_lists():
    assert nearest("forget1", ["forget01", "retain99"]) == " (did you mean 'forget01'?)"
    assert nearest("xyz", ["forget01", "retain99"]) == " (known: forget01, retain99)"


def test_a_line_end_in_a_set_hides_nothing():
    @dataclass(frozen=True)
    class Named:
        name: str = ""

    assert resolve(Named, sets=["name=a\nb=2"]).name == "a\nb=2"


@dataclass(frozen=True, kw_only=True)
class Several:
    scores: str | tuple[str, ...]
    alpha: float | tuple[float, ...] | None = None
    options: dict[str, float | tuple[float, ...]] = field(default_factory=dict)


@pytest.mark.parametrize(("text", "value"), [
    ("a", "a"), ("1e5", "1e5"), ("[one", "[one"), ('["a", "b"]', ("a", "b")), ('["a"]', "a"), ("[1, 2]", ("1", "2")),
])  # fmt: skip
def test_one_value_or_a_list_of_them(text, value):
    assert resolve(Several, sets=[f"scores={text}"]).scores == value


def test_lists_of_a_field_and_of_a_table_are_written_and_read_back(tmp_path):
    settings = Several(scores=("a", "б"), alpha=(1.0, 2.0), options={"steering": (6.5, 7.0), "layer": 7.0})
    write_config(tmp_path / "_config.toml", settings)
    assert resolve(Several, config=tmp_path / "_config.toml") == settings
    assert as_dict(settings)["options"] == {"steering": [6.5, 7.0], "layer": 7.0}
    assert resolve(Several, sets=["scores=a", "alpha=[3]"]) == Several(scores="a", alpha=3.0)


@pytest.mark.parametrize(("text", "said"), [
    ("alpha=[]", "alpha: got an empty list, expected at least one value"), ('alpha=[1, "x"]', "alpha: got 'x', expected float"),
    ("scores=[]", "scores: got an empty list, expected at least one value"), ("alpha=x", "alpha: got 'x', expected float"),
])  # fmt: skip
def test_lists_that_are_none_are_refused(text, said):
    with pytest.raises(ConfigError) as error:
        resolve(Several, sets=[text])
    assert said in str(error.value)
