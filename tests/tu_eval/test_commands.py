"""The real commands: what they write, and each kind of bad input as one line, exit code 2 and nothing half-written."""

import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pandas
import pytest

from shared.files.fs import hash_json
from tests.tu_eval.conftest import SUITE
from tu_eval.compare.plot import HEIGHT, WIDTH, layout

SMALL = ("--suite", SUITE, "--limit", 6, "--set", "max_new_tokens=12", "--device", "cpu")


def refused(result):
    """The one line of a refusal."""
    code, out, err = result
    assert code == 2, (out, err)
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")
    return err


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_run_writes_a_result_that_pandas_reads(run_cli, tiny_model, retain_results, target_results, tmp_path):
    out = tmp_path / "deep" / "result"
    code, stdout, err = run_cli(
        "tu-eval", "run", "--model", tiny_model, *SMALL, "--out", out, "--retain-results", retain_results, "--label", "target"
    )
    assert code == 0, err
    assert sorted(p.name for p in out.iterdir()) == ["_config.toml", "membership.parquet", "rows.parquet", "summary.json"]
    assert "Forget quality" in stdout and str(out) in stdout
    frame = pandas.read_parquet(out / "rows.parquet")
    assert list(frame["set"].unique()) == ["forget", "retain", "world"]
    written, cached = json.loads((out / "summary.json").read_text()), json.loads((target_results / "summary.json").read_text())
    assert written["metrics"] == cached["metrics"]
    assert not any(text in err for text in frame["question"])  # text of the data stays out of the log
    assert not any(text in err for text in frame["generation"] if len(text) > 5)
    again = tmp_path / "again"
    assert run_cli("tu-eval", "run", "--config", out / "_config.toml", "--out", again)[0] == 0
    assert (again / "rows.parquet").read_bytes() == (out / "rows.parquet").read_bytes()


def test_compare_writes_one_page_that_needs_nothing_else(run_cli, retain_results, target_results, tmp_path):
    page = tmp_path / "sub" / "report.html"
    code, stdout, err = run_cli("tu-eval", "compare", target_results, retain_results, "--out", page)
    assert code == 0, err
    assert "target" in stdout and str(page) in stdout
    html = page.read_text(encoding="utf-8")
    assert "<script src" not in html and "<link" not in html and "http://" not in html and "https://" not in html and "url(" not in html
    assert "Not in the plot" not in html  # the retain model is tested against itself: 1
    assert "before unlearning" in html and "never saw it" in html
    assert html.count("<tr") == html.count("</tr>")
    svg = re.search(r"<svg class=\"plot\".*?</svg>", html, re.S)
    assert svg and ET.fromstring(svg.group(0)).tag == "svg"  # noqa: S314 — our own page
    metrics = json.loads((target_results / "summary.json").read_text())["metrics"]
    assert f"{metrics['forget_probability']:.3f}" in html or f"{metrics['forget_probability']:.1e}" in html
    assert run_cli("tu-eval", "compare", retain_results, "--out", page)[0] == 0  # an older page is replaced
    assert "nothing to plot" in page.read_text(encoding="utf-8")


def test_labels_are_escaped(run_cli, evaluate, tiny_base, tmp_path):
    folder = evaluate(tiny_base, label="<b>&[red]x", generate=False)
    code, stdout, _ = run_cli("tu-eval", "compare", folder, "--out", tmp_path / "r.html")
    assert code == 0 and "[red]" in stdout
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;[red]x" in html and "<b>&[red]" not in html


def test_bad_models_suites_and_fields(run_cli, tiny_model, tmp_path):
    out = tmp_path / "out"

    def run(*arguments):
        message = refused(run_cli("tu-eval", "run", *arguments, "--out", out))
        assert not out.exists() and not list(tmp_path.glob(".tmp*"))
        return message

    assert "no such folder" in run("--model", tmp_path / "nowhere", "--suite", "atlas")
    (tmp_path / "empty").mkdir()
    assert "config.json" in run("--model", tmp_path / "empty", "--suite", "atlas")
    shutil.copy(tiny_model / "config.json", tmp_path / "empty")
    assert "no *.safetensors" in run("--model", tmp_path / "empty", "--suite", "atlas")
    assert "did you mean 'tofu:forget" in run("--model", tiny_model, "--suite", "tofu:forget1")
    assert "did you mean 'atlas'" in run("--model", tiny_model, "--suite", "atlass")
    assert "did you mean 'people'" in run("--model", tiny_model, "--suite", "atlas:peeple=4")
    assert "people" in run("--model", tiny_model, "--suite", "atlas:people=1")
    assert "--suite is missing" in run("--model", tiny_model)
    assert "did you mean 'max_new_tokens'" in run("--model", tiny_model, *SMALL, "--set", "max_tokens=4")
    assert "batch_tokens" in run("--model", tiny_model, *SMALL, "--set", "batch_tokens=0")
    assert "limit is 0" in run("--model", tiny_model, "--suite", SUITE, "--limit", 0)
    assert "long" in run("--model", tiny_model, *SMALL, "--long", "cut")
    assert "float32" in run("--model", tiny_model, *SMALL, "--dtype", "float31")
    assert "gpu" in run("--model", tiny_model, "--suite", SUITE, "--device", "gpu")


def test_an_example_beyond_the_context_is_named(run_cli, make_tiny, tmp_path):
    model = make_tiny("Llama", max_position_embeddings=50)
    message = refused(run_cli("tu-eval", "run", "--model", model, *SMALL, "--out", tmp_path / "out"))
    assert "atlas/forget/" in message and "--long" in message
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_with_another_run_is_left_alone(run_cli, tiny_model, target_results):
    before = files(target_results)
    assert "already holds files" in refused(run_cli("tu-eval", "run", "--model", tiny_model, *SMALL, "--out", target_results))
    assert files(target_results) == before


@pytest.fixture
def copy(retain_results, tmp_path):
    return shutil.copytree(retain_results, tmp_path / "copy")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(bytes(data))


def rewrite(folder, **changes):
    """A summary with other fields, and a hash that fits."""
    summary = {**json.loads((folder / "summary.json").read_text()), **changes}
    del summary["summary_sha256"]
    (folder / "summary.json").write_text(json.dumps({**summary, "summary_sha256": hash_json(summary)}))


def test_retain_results_that_do_not_fit_are_refused_by_field(run_cli, tiny_model, copy, tmp_path):
    out = tmp_path / "out"

    def run(*extra):
        message = refused(run_cli("tu-eval", "run", "--model", tiny_model, *SMALL, *extra, "--out", out, "--retain-results", copy))
        assert not out.exists()
        return message

    rewrite(copy, suite="tofu:forget01")
    assert "another suite: tofu:forget01 there" in run()
    rewrite(copy, suite=SUITE, limit=None)
    assert "another limit: None there, 6 here" in run()
    good = json.loads((copy / "summary.json").read_text())
    other = "0" * 64
    # Another tokenizer fingerprint beside the same vocabulary is another padding; earlier versions did not write the
    # vocabulary.
    for changed in (
        {"tokenizer_fingerprint": other, "vocabulary_fingerprint": other},
        {"tokenizer_fingerprint": other, "vocabulary_fingerprint": None},
        {"template_fingerprint": other},
        {"data_fingerprint": other},
    ):
        rewrite(copy, limit=6, **changed)
        assert f"another {next(iter(changed)).replace('_', ' ')}" in run()
        rewrite(copy, **{field: good[field] for field in changed})
    rewrite(copy, format=99)
    assert "format 99" in run()


@pytest.mark.parametrize("command", ["run", "compare"])
def test_damaged_and_unfinished_results_are_named(command, run_cli, tiny_model, copy, tmp_path):
    def message():
        if command == "run":
            return refused(run_cli("tu-eval", "run", "--model", tiny_model, *SMALL, "--out", tmp_path / "out", "--retain-results", copy))
        return refused(run_cli("tu-eval", "compare", copy, "--out", tmp_path / "out"))

    rows, summary = copy / "rows.parquet", copy / "summary.json"
    good = rows.read_bytes(), summary.read_bytes()
    for at in (5, len(good[0]) // 2, len(good[0]) - 6):
        flip(rows, at)
        assert "rows.parquet" in message()
        rows.write_bytes(good[0])
    rows.write_bytes(good[0][:-100])
    assert "rows.parquet" in message()
    rows.unlink()
    assert "rows.parquet" in message()
    rows.write_bytes(good[0])
    flip(summary, good[1].index(b"0.") + 3)
    assert "summary.json" in message()
    summary.write_bytes(good[1][:200])
    assert "summary.json" in message()
    summary.unlink()
    assert "did not finish" in message()
    shutil.rmtree(copy)
    assert "no such folder" in message()
    assert not (tmp_path / "out").exists()


def test_compare_refuses_what_does_not_go_together(run_cli, retain_results, target_results, copy, tmp_path):
    page = tmp_path / "r.html"
    rewrite(copy, suite="atlas")
    assert "another suite" in refused(run_cli("tu-eval", "compare", target_results, copy, "--out", page))
    assert "twice" in refused(run_cli("tu-eval", "compare", retain_results, retain_results, "--out", page))
    assert "is a folder" in refused(run_cli("tu-eval", "compare", retain_results, "--out", tmp_path))
    (tmp_path / "other").mkdir()
    assert "not a results folder" in refused(run_cli("tu-eval", "compare", retain_results, tmp_path / "other", "--out", page))
    assert not page.exists()


def test_labels_in_the_plot_do_not_overlap():
    crowd = [(i, f"npo {i} soft", 0.5 + 0.004 * (i % 3), 10.0 ** (-1 - 0.01 * i)) for i in range(10)]
    plot = layout([*crowd, (10, "target", 0.62, 0.0), (11, "retain", 1.0, 1.0)])
    boxes = []
    for p in plot.points:
        width = 6.5 * len(p.label)
        left = p.text_x - {"start": 0, "middle": width / 2, "end": width}[p.anchor]
        boxes.append((left, p.text_y - 11, left + width, p.text_y + 2))
    for i, (a, b, c, d) in enumerate(boxes):
        assert a >= 0 and b >= 0 and c <= WIDTH and d <= HEIGHT
        assert all(c <= left or a >= right or d <= top or b >= bottom for left, top, right, bottom in boxes[:i])
    assert next(p for p in plot.points if p.index == 10).label == "target (p < 1e-20)"


def test_a_script_answers_help_fast_and_errors_in_one_line(tmp_path):
    program = [sys.executable, "-c", "from tu_eval.cli import main; main()"]
    for arguments in (["--help"], ["run", "--help"]):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=True)
            times.append(time.perf_counter() - start)
        assert "Usage" in done.stdout
        assert min(times) < 1.0  # half a second on a quiet machine; tests share theirs
    probe = (
        "import sys, tu_eval.cli; print([m for m in ('torch', 'transformers', 'pandas', 'pyarrow', 'scipy', 'jinja2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    done = subprocess.run(
        [*program, "run", "--model", "x/", "--suite", "nope", "--out", str(tmp_path / "o")], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_compare_shows_the_retain_model_against_itself(retain_results, target_results):
    from tu_eval.compare.comparison import load_comparison

    comparison = load_comparison([retain_results, target_results])
    assert comparison.results[0].summary["metrics"]["forget_quality"] is None
    assert comparison.value(0, "forget_quality") == 1.0
    assert load_comparison([retain_results]).value(0, "forget_quality") is None
