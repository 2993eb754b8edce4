"""tu-eval: measure a model on a suite, compare measurements. Heavy imports wait until a command runs.

Flags and their help stand in arguments.py and in the config.py of each room.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared.cli import new_app, run_app
from shared.commands import Asked, command
from tu_eval import arguments

if TYPE_CHECKING:
    from tu_eval.attacks.config import AttackConfig
    from tu_eval.attacks.depth.config import DepthConfig
    from tu_eval.attacks.tamper.config import TamperConfig
    from tu_eval.choices.config import ChoicesConfig
    from tu_eval.harness.config import BenchmarksConfig
    from tu_eval.judge.config import JudgeConfig
    from tu_eval.measure.config import EvalConfig

app = new_app("Measure what a model still knows: evaluate it on a suite, compare evaluations on one page.")


@command(app, config="tu_eval.measure.config:EvalConfig", arguments=arguments.Signed)
def run(asked: Asked[EvalConfig], given: arguments.Signed) -> None:
    """Evaluate one model on one suite and keep the results."""
    settings = asked.resolved()
    from tu_eval.compare.table import print_results
    from tu_eval.evidence.sign import private_key, sign

    key = private_key(given.sign, "--sign") if given.sign is not None else None
    from tu_eval.measure.run import evaluate

    results = evaluate(settings)
    if key is not None:
        sign(results.folder, key)
    print_results(results)


@command(app, arguments=arguments.Compare)
def compare(given: arguments.Compare) -> None:
    """Put several evaluations of one suite on one self-contained page."""
    from shared.errors import ConfigError
    from shared.files.outputs import claimed_files
    from tu_eval.compare.comparison import load_comparison
    from tu_eval.compare.export import check_png, write_exports
    from tu_eval.compare.report import write_report
    from tu_eval.compare.table import print_comparison

    if not given.folders and given.index is None:
        raise ConfigError("compare: no results given; name results folders of tu-eval run, or --index with the index.json of tu-train many")
    named = {"--out": given.out, "--markdown": given.markdown, "--csv": given.csv, "--png": given.png}
    files = {flag: path for flag, path in named.items() if path is not None}
    with claimed_files(files):
        comparison = load_comparison(given.folders, given.index, given.agreement)
        if given.png is not None:
            check_png(comparison)
        write_report(given.out, comparison, texts=given.rows)
        write_exports(comparison, to_markdown=given.markdown, to_csv=given.csv, to_png=given.png)
    print_comparison(comparison)
    for flag, path in files.items():
        print(f"{'page' if path is given.out else flag.removeprefix('--')}: {path}")


@command(app, arguments=arguments.Many)
def many(given: arguments.Many) -> None:
    """What a study measures, on its models and all finished runs, and the page that compares them; finished
    measurements are skipped, failed ones noted.

    Exit code 1 if one failed."""
    from shared.files.fs import refuse_url
    from shared.files.storage import open_place
    from tu_eval.compare.many import measure_all
    from tu_eval.compare.table import print_comparison

    refuse_url(Path(given.out), what="the results of a study")
    open_place(given.out)  # refuses an empty name, which as a path would be the working directory
    outcome = measure_all(given.study, Path(given.out), given.sets)
    if outcome.comparison is not None:
        print_comparison(outcome.comparison)
    for page in outcome.pages:
        print(f"{'page' if page.suffix == '.html' else 'table'}: {page}")
    for label, error in outcome.failed:
        print(f"failed: {label}: {error}")
    if outcome.failed:
        print("next: mend what they say and start the same command again; it does only what is not finished")
        raise SystemExit(1)


@command(app, arguments=arguments.Evidence)
def evidence(given: arguments.Evidence) -> None:
    """Report for a deletion request: what was asked, what was done, what was measured, and what cannot be claimed."""
    from tu_eval.evidence.report import write_evidence
    from tu_eval.evidence.sign import private_key, sign

    key = private_key(given.sign, "--sign") if given.sign is not None else None
    folder = write_evidence(
        given.out, before=given.before, after=given.after, retain=given.retain, store=given.store, show_text=given.show_text
    )
    if key is not None:
        sign(folder, key)
    print(f"report: {folder / 'evidence.html'}")
    print(f"data: {folder / 'evidence.json'}")


@command(app, config="tu_eval.attacks.config:AttackConfig")
def attack(settings: AttackConfig) -> None:
    """Try to get the forgotten out again: other prompts, many samples, rounded weights, a few steps of fine-tuning."""
    from tu_eval.attacks.run import attack, print_attacks

    print_attacks(attack(settings))


@command(app, config="tu_eval.attacks.depth.config:DepthConfig")
def depth(settings: DepthConfig) -> None:
    """Gone or hidden: in which layers facts can still be read, by patching them into the model before unlearning."""
    from tu_eval.attacks.depth.run import measure_depth, print_depth

    print_depth(measure_depth(settings), settings.out)


@command(app, config="tu_eval.attacks.tamper.config:TamperConfig")
def tamper(settings: TamperConfig) -> None:
    """How little fine-tuning brings the forgotten back: forget rows, related rows, unrelated text, at several rates."""
    from tu_eval.attacks.tamper.run import print_tamper, tamper

    print_tamper(tamper(settings), settings.out)


@command(app, config="tu_eval.choices.config:ChoicesConfig")
def choices(settings: ChoicesConfig) -> None:
    """Multiple-choice accuracy on rows of your own: plain, and with the choices' lengths taken out."""
    from tu_eval.choices.run import evaluate_choices

    about = evaluate_choices(settings)
    for name in ("accuracy", "accuracy_norm"):
        error = about["metrics"][f"{name}_stderr"]
        print(f"{name}: {about['metrics'][name]:.4f}" + (f" ± {error:.4f}" if error is not None else ""))
    print(f"chance: {about['chance']:.4f}, questions: {about['questions']}")


@command(app, config="tu_eval.harness.config:BenchmarksConfig")
def benchmarks(settings: BenchmarksConfig) -> None:
    """WMDP, MMLU and every other task of lm-eval's, on transformers or vLLM."""
    from tu_eval.harness.run import print_benchmarks, run_benchmarks

    print_benchmarks(run_benchmarks(settings))


@command(app, config="tu_eval.judge.config:JudgeConfig")
def judge(settings: JudgeConfig) -> None:
    """Answers graded 1 to 10 by a judge, as in MT-Bench. Sends questions and answers to the endpoint that TU_JUDGE_URL
    names."""
    from tu_eval.judge.run import print_judge, run_judge

    print_judge(run_judge(settings))


@command(app, arguments=arguments.NewKey)
def key(given: arguments.NewKey) -> None:
    """Make a pair of keys for signatures."""
    from tu_eval.evidence.sign import make_key

    public = make_key(given.out)
    print(f"private key: {given.out} (readable by its owner alone; keep it secret)")
    print(f"public key: {public} (give it to those who verify)")


@command(app, arguments=arguments.Sign)
def sign(given: arguments.Sign) -> None:
    """Sign every file of a finished folder (results, report, model): signature.json."""
    from tu_eval.evidence.sign import SIGNATURE, private_key, sign

    public = sign(given.folder, private_key(given.key))
    print(f"signature: {given.folder / SIGNATURE}")
    print(f"by: {public}")


@command(app, arguments=arguments.Verify)
def verify(given: arguments.Verify) -> None:
    """Check a folder of tu-eval: hashes, numbers computed again from its rows, signature."""
    from shared.errors import printable
    from tu_eval.evidence.sign import public_key
    from tu_eval.evidence.verify import verify

    for line in verify(given.folder, public_key(given.key) if given.key is not None else None):
        print(printable(line))


@command(app)
def list_() -> None:
    """The suites, metrics and attacks that there are, and where they come from (docs/extending.md)."""
    from tu_eval.listing import print_list

    print_list()


def main() -> None:
    run_app(app)
