"""Seeded mutations of every file of a store, with hashes recomputed: each command ends in one line or with a right
result."""

import copy
import json
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.files.fs import hash_json
from shared.store.files import MANIFEST, PLAN
from shared.store.parts import schema, sha256
from shared.store.scores import open_store
from shared.store.writer import Writer

DATA = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"
ODD = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -1e30, 1e308, "", "x", "../../x", "/etc/passwd", "\x1b[2J\u202e",
    "part-00000.parquet", [], {}, [[]], [None], {"": None}, [{"file": "/dev/zero"}], ["span_deltas"], ["nothing"],
]  # fmt: skip
ODD_TEXTS = [
    b"", b"{", b"null", b"[]", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff",
    b'{"format": 1}',
]  # fmt: skip
ODD_CELLS = [
    None, -1, 0, 7, 2**31 - 1, -(2**31), float("nan"), float("inf"), -float("inf"), -1e30, 2.0, -0.5, "", "\x1b]0;x\x07", "a" * 5000, True,
    [], [None], {"start": 0, "end": 2**31 - 1}, {"start": -5, "end": 1}, {"start": None, "end": None},
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, tiny_base):
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    out = tmp_path_factory.mktemp("made") / "store"
    run_score(
        ScoreConfig(
            model=str(tiny_model), base_model=str(tiny_base), data=DATA, out=str(out), limit=4, part_tokens=200, spans="entity",
            keep_spans=True, topk=2, entropy_temperature=0.5,
        )
    )  # fmt: skip
    return out


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def mutated(value, generator):
    """The value with one place replaced by something odd, removed, or doubled."""
    value = copy.deepcopy(value)
    path = generator.choice([p for p in places(value) if p])
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    how = generator.choice(["odd", "odd", "odd", "gone", "twice"])
    if how == "gone":
        del inside[path[-1]]
    elif how == "twice" and isinstance(inside, list):
        inside.append(inside[path[-1]])
    else:
        inside[path[-1]] = generator.choice(ODD)
    return value, (how, path)


def write_manifest(store, manifest):
    body = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
    (store / MANIFEST).write_text(json.dumps({**body, "manifest_sha256": hash_json(body)}, indent=2, ensure_ascii=False) + "\n")


def rewrite_part(store, rows, columns):
    """A first part of these rows, with everything that the manifest says of it."""
    manifest = json.loads((store / MANIFEST).read_text())
    entry = manifest["parts"][0]
    pq.write_table(pa.Table.from_pylist(rows, schema=columns), store / entry["file"], compression="zstd", write_page_checksum=True)
    data = (store / entry["file"]).read_bytes()
    entry.update(bytes=len(data), sha256=sha256(data))
    write_manifest(store, manifest)


def readers(store, tmp_path, tiny_model, *, all_of_them):
    yield "verify", store
    yield "inspect", store, "--rows", 2
    yield "inspect", store, "--top", 3
    yield "recipe", store, "--recipe", "norm=rank,alpha=0.5,knowledge=gain"
    if all_of_them:
        yield "inspect", store, "--html", tmp_path / "page.html"
        yield "agree", store, "--model", tiny_model


def run_readers(run_cli, store, tmp_path, tiny_model, about, *, all_of_them):
    """-> the exit code of each. Any other exception than an exit would come through."""
    codes = []
    for command in readers(store, tmp_path, tiny_model, all_of_them=all_of_them):
        try:
            code, out, err = run_cli("tu-score", *command)
        except Exception as error:
            raise AssertionError(f"{command[0]} of a store with {about}: {type(error).__name__}: {error}") from error
        assert code in (0, 2) and (code == 0 or (err.count("\n") == 1 and err.startswith("error: "))), (about, command, err)
        assert "\x1b" not in out + err and "\u202e" not in out + err, (about, command)
        codes.append(code)
    return codes


def test_manifests_with_valid_hashes_and_odd_content(made, run_cli, tmp_path, tiny_model):
    generator, refused = random.Random(1), 0
    manifest = json.loads((made / MANIFEST).read_text())
    for k in range(300):
        store = shutil.copytree(made, tmp_path / "store")
        changed, about = mutated(manifest, generator)
        write_manifest(store, changed)
        refused += 2 in run_readers(run_cli, store, tmp_path, tiny_model, about, all_of_them=k % 6 == 0)
        shutil.rmtree(store)
    assert refused > 100


@pytest.mark.parametrize("text", ODD_TEXTS)
@pytest.mark.parametrize("name", [MANIFEST, PLAN, "_next/_manifest.json", "_next/_replaces.json"])
def test_files_of_a_store_that_are_no_json(name, text, made, run_cli, tmp_path, tiny_model):
    store = shutil.copytree(made, tmp_path / "store")
    (store / name).parent.mkdir(exist_ok=True)
    (store / name).write_bytes(text)
    codes = run_readers(run_cli, store, tmp_path, tiny_model, name, all_of_them=False)
    assert codes[0] == (2 if name.endswith(MANIFEST) else 0)


def test_parts_with_valid_hashes_and_odd_values(made, run_cli, tmp_path, tiny_model):
    generator, refused = random.Random(2), 0
    columns = schema(open_store(made).optional)
    rows = open_store(made).part(0)
    for k in range(300):
        store, changed = shutil.copytree(made, tmp_path / "store"), copy.deepcopy(rows)
        row, name = generator.choice(changed), generator.choice(columns.names)
        odd, about = generator.choice(ODD_CELLS), (k, name)
        how = generator.choice(["entry", "entry", "entry", "cell", "longer", "shorter"])
        if how == "cell" or not isinstance(row[name], list) or not row[name]:
            row[name] = odd
        elif how == "longer":
            row[name].append(odd)
        elif how == "shorter":
            row[name].pop()
        else:
            row[name][generator.randrange(len(row[name]))] = odd
        try:
            rewrite_part(store, changed, columns)
        except (pa.ArrowException, TypeError, OverflowError, ValueError, AttributeError):
            shutil.rmtree(store)
            continue  # not even Parquet can hold that
        codes = run_readers(
            run_cli, store, tmp_path, tiny_model, (*about, how, odd if not isinstance(odd, str) else odd[:9]), all_of_them=k % 6 == 0
        )
        assert codes[0] == 2 or codes == [0] * len(codes), (about, how, odd)  # what a reader trips over, verify finds
        refused += codes[0] == 2
        shutil.rmtree(store)
    assert refused > 100


def test_parts_of_other_columns_and_types(made, run_cli, tmp_path, tiny_model):
    sound = schema(open_store(made).optional)
    rows = open_store(made).part(0)
    for place, field in enumerate(sound):
        for kind in (pa.string(), pa.list_(pa.string()), pa.list_(pa.float64()), pa.list_(pa.list_(pa.int64())), None):
            store = shutil.copytree(made, tmp_path / "store")
            columns = sound.remove(place) if kind is None else sound.set(place, pa.field(field.name, kind))
            rewrite_part(
                store, [{k: None if k == field.name else v for k, v in row.items() if k in columns.names} for row in rows], columns
            )
            codes = run_readers(run_cli, store, tmp_path, tiny_model, (field.name, kind), all_of_them=False)
            assert codes[0] == 2 or columns == sound
            shutil.rmtree(store)


def without_moment(folder):
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    return files, {k: v for k, v in json.loads(files.pop(MANIFEST)).items() if k not in ("created_at", "manifest_sha256")}


def test_plans_and_records_of_an_unfinished_run(run_cli, tmp_path, tiny_model, monkeypatch):
    """Refused in one line, or scored to the very store that an undisturbed run makes."""
    generator, refused, ended = random.Random(3), 0, 0
    run = ("tu-score", "run", "--model", tiny_model, "--data", DATA, "--limit", 3, "--set", "part_tokens=100", "--out", "store")
    for name in ("whole", "unfinished"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with monkeypatch.context() as patch:
            if name == "unfinished":
                patch.setattr(Writer, "finish", lambda *_, **more: (_ for _ in ()).throw(KeyboardInterrupt))
            assert run_cli(*run)[0] == (0 if name == "whole" else 130)
    expected = without_moment(tmp_path / "whole" / "store")
    for k in range(40):
        folder = shutil.copytree(tmp_path / "unfinished", tmp_path / f"trial{k}")
        monkeypatch.chdir(folder)
        name = generator.choice([PLAN, "_progress/00000.json", "_progress/00002.json", "_progress/00009.json", "_progress/-0001.json"])
        file = folder / "store" / name
        value = json.loads(file.read_text()) if file.exists() else json.loads((folder / "store" / "_progress/00001.json").read_text())
        changed, about = mutated(value, generator)
        text = generator.choice(ODD_TEXTS) if k % 4 == 0 else json.dumps(changed).encode()
        file.write_bytes(text)
        try:
            code, _, err = run_cli(*run)
        except Exception as error:
            raise AssertionError(f"{name} with {about}: {error}") from error
        if code == 0:
            assert without_moment(folder / "store") == expected, (name, about)
        else:
            assert code == 2 and err.count("error: ") == 1 and name == PLAN, (name, about, err)
        refused, ended = refused + (code == 2), ended + (code == 0)
        shutil.rmtree(folder)
    assert refused > 3 and ended > 10
