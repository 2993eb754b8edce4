"""Task files of others run no code, whichever way they ask for it."""

import json

import pytest

from tests.tu_eval.harness.test_benchmarks import own_cache, silent, task  # noqa: F401
from tests.tu_eval.test_commands import refused

CODE = "open({witness!r}, 'a').write('ran')\ndef f(*a, **k): return a[0] if a else None\nclass C: ...\n"
PATHS = (
    "{{{{ cycler.__init__.__globals__.os.system('touch {witness}') }}}}",
    "{{{{ self.__init__.__globals__ }}}}",
    "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}",
    "{{{{ lipsum.__globals__['os'].popen('touch {witness}').read() }}}}",
    "{{% set x = joiner.__init__.__globals__.__builtins__.open('{witness}', 'w') %}}",
)


@pytest.fixture
def ask(run_cli, silent, tmp_path):  # noqa: F811
    def call(include, *more):
        arguments = ("--tasks", "own", "--include", include, "--device", "cpu", "--limit", 2, *more)
        return run_cli("tu-eval", "benchmarks", "--model", silent, *arguments, "--out", tmp_path / "out")

    return call


def yaml_of(folder):
    return folder / "own.yaml"


FIELDS = [*(("doc_to_text", path) for path in PATHS), *((name, PATHS[0]) for name in ("doc_to_target", "doc_to_choice", "gen_prefix"))]


@pytest.mark.parametrize(("field", "template"), FIELDS)
def test_templates_reach_no_python(ask, tmp_path, template, field):
    witness = tmp_path / "witness"
    include = task(tmp_path / "tasks", "own")
    lines = [line for line in yaml_of(include).read_text().splitlines() if not line.startswith(f"{field}:")]
    yaml_of(include).write_text("\n".join([*lines, f"{field}: {json.dumps(template.format(witness=witness))}"]) + "\n")
    code, _, err = ask(include, "--set", "task_code=true")
    assert code == 2 and "task own: lm-eval cannot " in err and "SecurityError" in err, err
    assert not witness.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ 10 ** 400 * 1.5 }}", "{{ none.x.y }}", "{% for %}", "{{ question[:10**30] }}{{ x }}"]
)
def test_templates_that_fail_are_one_line(ask, tmp_path, template):
    include = task(tmp_path / "tasks", "own", text=template)
    assert "task own: lm-eval cannot " in refused(ask(include)).splitlines()[-1]


def test_lm_eval_by_itself_would_run_such_a_template(tmp_path):
    """Negative control: without the sandbox the file appears, and the environment is put back."""
    import lm_eval.utils

    from tu_eval.harness.trust import sandboxed

    before, witness = lm_eval.utils.env, tmp_path / "witness"
    with sandboxed():
        assert lm_eval.utils.apply_template("{{ a | regex_replace('x', 'y') }}\n", {"a": "x"}) == "y\n"
    assert lm_eval.utils.env is before
    lm_eval.utils.apply_template(PATHS[0].format(witness=witness), {})
    assert witness.exists()


WAYS = {
    "a function": "process_docs: !function code.f\n",
    "a function of a metric": "more_metrics:\n  - metric: !function code.f\n",
    "a function as template": "doc_to_decontamination_query: !function code.f\n",
    "an imported function": "process_results: !function os.system\n",
    "a class": "class: !function code.C\n",
    "a class as text": "class: {folder}/code.C\n",
    "data from a function": "custom_dataset: !function code.f\n",
    "a metric of the hub": "more:\n  - metric: acc\n    hf_evaluate: true\n",
    "an unknown metric": "more:\n  - metric: {folder}/code.py\n",
    "trusted remote code": "more:\n  trust_remote_code: true\n",
    "another prompt": "use_prompt: promptsource:x\n",
    "a file elsewhere": "include: ../elsewhere.yaml\n",
    "an absolute file": "include: {above}/elsewhere.yaml\n",
    "a function in an included file": "include: more.txt\n",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_would_run_code_is_refused(ask, tmp_path, way):
    witness = tmp_path / "witness"
    include = task(tmp_path / "tasks", "own", more=WAYS[way].format(folder=tmp_path / "tasks", above=tmp_path))
    (include / "code.py").write_text(CODE.format(witness=str(witness)))
    (tmp_path / "code.py").write_text(CODE.format(witness=str(witness)))
    (tmp_path / "elsewhere.yaml").write_text("process_docs: !function code.f\n")
    (include / "more.txt").write_text("process_docs: !function code.f\n")
    message = refused(ask(include))
    assert "--include: " in message and ("which is not run" in message or "lies outside of" in message), message
    assert not witness.exists() and not (tmp_path / "out").exists()


def test_code_runs_where_it_is_asked_for(ask, tmp_path):
    include = task(tmp_path / "tasks", "own", more="process_docs: !function code.f\n")
    (include / "code.py").write_text(CODE.format(witness=str(tmp_path / "witness")))
    code, _, err = ask(include, "--set", "task_code=true")
    assert code == 0, err
    assert (tmp_path / "witness").exists()


def test_a_script_beside_local_data_is_not_run(ask, tmp_path):
    witness = tmp_path / "witness"
    include = task(tmp_path / "tasks", "own")
    data = tmp_path / "data"
    data.mkdir()
    (data / "data.py").write_text(CODE.format(witness=str(witness)))
    text = yaml_of(include).read_text().replace("dataset_path: json", f"dataset_path: {data}")
    yaml_of(include).write_text(text)
    for more in ("", "  trust_remote_code: true\n"):
        yaml_of(include).write_text(text.replace("dataset_kwargs:\n", f"dataset_kwargs:\n{more}"))
        code, _, err = ask(include, "--set", "task_code=true")
        assert code == 2 and "Traceback" not in err and not witness.exists(), err


def test_references_without_end_and_unreadable_files_end(ask, tmp_path):
    include = task(tmp_path / "tasks", "own")
    deep = "a: &a [x, x]\n" + "".join(f"{chr(98 + k)}: &{chr(98 + k)} [*{chr(97 + k)}, *{chr(97 + k)}]\n" for k in range(20))
    (include / "laughs.yaml").write_text(deep)
    (include / "broken.yaml").write_text("a: [\n")
    (include / "deep.yaml").write_text("[" * 5000)
    (include / "folder.yaml").mkdir()
    code, _, err = ask(include)
    assert code == 0, err
