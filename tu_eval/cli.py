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
    from tu_eval.judge.prepare.config import PrepareConfig
    from tu_eval.measure.ask_config import AskConfig
    from tu_eval.measure.config import EvalConfig

app = new_app("Measure what a model still knows: evaluate it on a suite, compare evaluations on one page.")


@command(app, config="tu_eval.measure.config:EvalConfig", arguments=arguments.Signed)
def run(asked: Asked[EvalConfig], given: arguments.Signed) -> None:
    """Measure one model on a suite or on rows of your own."""
    settings = asked.resolved()
    from tu_eval.compare.table import print_results
    from tu_eval.evidence.sign import private_key, sign

    key = private_key(given.sign, "--sign") if given.sign is not None else None
    from tu_eval.measure.run import evaluate

    results = evaluate(settings)
    if key is not None:
        sign(results.folder, key)
    print_results(results)
    if found := results.summary.get("leaks"):
        from tu_eval.results.leaks import print_leaks

        print_leaks(found, results.folder)


@command(app, arguments=arguments.Compare)
def compare(given: arguments.Compare) -> None:
    """Put several models side by side on one page."""
    from shared.console import print_table
    from tu_eval.compare.paired import HEADS, cells, differences
    from tu_eval.compare.table import print_comparison
    from tu_eval.compare.together import compare

    named = {"page": given.out, "markdown": given.markdown, "csv": given.csv, "png": given.png}
    comparison = compare(
        given.folders, index=given.index, agreement=given.agreement, out=given.out, markdown=given.markdown, csv=given.csv, png=given.png,
        rows=given.rows, against=given.against,
    )  # fmt: skip
    print_comparison(comparison)
    if given.against is not None:
        pairs = differences(comparison, given.against)
        print(f"differences from {given.against}, p corrected for {len(pairs)} comparisons (Holm)")
        print_table(HEADS, cells(pairs))
    for what, path in named.items():
        if path is not None:
            print(f"{what}: {path}")


@command(app, arguments=arguments.Metrics)
def metrics(given: arguments.Metrics) -> None:
    """Find out which measures can be trusted, over many models.

    Faithfulness, and robustness to relearning and quantisation, over pools of models."""
    from shared.console import print_table
    from shared.files.fs import write_text
    from tu_eval.compare.pools import HEADS, cells, load_pool, markdown, scores

    found = scores(load_pool(given.pool), given.metric)
    if given.markdown is not None:
        given.markdown.parent.mkdir(parents=True, exist_ok=True)
        write_text(given.markdown, markdown(found))
    print_table(HEADS, cells(found))


@command(app, arguments=arguments.Many)
def many(given: arguments.Many) -> None:
    """Measure all models of a study, and compare them on a page.

    What the study's file measures, on its models and all finished runs; finished measurements are skipped, failed ones
    noted.

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


@command(app, arguments=arguments.Report)
def report(given: arguments.Report) -> None:
    """Say in words what each model forgot and what it kept.

    Also what was not measured; one page."""
    from shared.files.outputs import claimed_files
    from tu_eval.evidence.verdict.report import print_verdicts, write_verdict

    with claimed_files({"--out": given.out}):
        made = write_verdict(given.out, given.folders, given.before, given.retain)
    print_verdicts(made)
    print(f"page: {given.out}")


@command(app, arguments=arguments.Evidence)
def evidence(given: arguments.Evidence) -> None:
    """Write a report that answers a deletion request.

    What was asked, done and measured, and what cannot be claimed."""
    from tu_eval.evidence.report import DeletionRequest, write_evidence
    from tu_eval.evidence.sign import private_key, sign

    key = private_key(given.sign, "--sign") if given.sign is not None else None
    request = DeletionRequest(given.request_id, given.operator, show_text=given.show_text, show_answers=given.show_answers)
    folder = write_evidence(
        given.out, before=given.before, after=given.after, retain=given.retain, store=given.store, attacks=given.attacks, request=request
    )
    if key is not None:
        sign(folder, key)
    print(f"report: {folder / 'evidence.html'}")
    print(f"data: {folder / 'evidence.json'}")


@command(app, config="tu_eval.attacks.config:AttackConfig")
def attack(settings: AttackConfig) -> None:
    """Try to get the forgotten out of a model again.

    By other prompts, many samples, rounded weights, a few steps of fine-tuning."""
    from tu_eval.attacks.run import attack, print_attacks

    print_attacks(attack(settings))


@command(app, config="tu_eval.measure.ask_config:AskConfig", arguments=arguments.Ask)
def ask(asked: Asked[AskConfig], given: arguments.Ask) -> None:
    """Put a question to one or two models, and see the answers.

    Greedy and drawn answers, side by side."""
    settings = asked.resolved()
    from tu_eval.measure.ask import ask, print_answers

    print_answers(ask(given.model, given.question, settings))


@command(app, config="tu_eval.attacks.depth.config:DepthConfig")
def depth(settings: DepthConfig) -> None:
    """See in which layers the forgotten can still be read.

    Gone or hidden? States of each layer are patched into the model before unlearning."""
    from tu_eval.attacks.depth.run import measure_depth, print_depth

    print_depth(measure_depth(settings), settings.out)


@command(app, config="tu_eval.attacks.tamper.config:TamperConfig")
def tamper(settings: TamperConfig) -> None:
    """See how little training brings the forgotten back.

    On forget rows, related rows and unrelated text, at several learning rates."""
    from tu_eval.attacks.tamper.run import print_tamper, tamper

    print_tamper(tamper(settings), settings.out)


@command(app, config="tu_eval.choices.config:ChoicesConfig")
def choices(settings: ChoicesConfig) -> None:
    """Ask multiple-choice questions of your own.

    Accuracy: plain, and with the choices' lengths taken out."""
    from tu_eval.choices.run import evaluate_choices

    about = evaluate_choices(settings)
    for name in ("accuracy", "accuracy_norm"):
        error = about["metrics"][f"{name}_stderr"]
        print(f"{name}: {about['metrics'][name]:.4f}" + (f" ± {error:.4f}" if error is not None else ""))
    print(f"chance: {about['chance']:.4f}, questions: {about['questions']}")


@command(app, config="tu_eval.harness.config:BenchmarksConfig")
def benchmarks(settings: BenchmarksConfig) -> None:
    """Run WMDP, MMLU or any other benchmark of lm-eval.

    On transformers or vLLM."""
    from tu_eval.harness.run import print_benchmarks, run_benchmarks

    print_benchmarks(run_benchmarks(settings))


@command(app, config="tu_eval.judge.config:JudgeConfig")
def judge(settings: JudgeConfig) -> None:
    """Have a judge, a model of your choice, grade free answers.

    From 1 to 10, as in MT-Bench. Sends questions and answers to the endpoint that TU_JUDGE_URL names."""
    from tu_eval.judge.run import print_judge, run_judge

    print_judge(run_judge(settings))


@command(app, config="tu_eval.judge.prepare.config:PrepareConfig")
def prepare(settings: PrepareConfig) -> None:
    """Add wrong answers and other wordings to your own rows.

    docs/own_data.md says how they are made. With --paraphrase judge, sends the questions to the endpoint that
    TU_JUDGE_URL names."""
    from tu_eval.judge.prepare.run import prepare

    folder = prepare(settings)
    files = [folder / f"{name}.jsonl" for name in ("forget", "retain") if getattr(settings, name) is not None]
    print("\n".join(f"prepared: {file}" for file in files))


@command(app, arguments=arguments.NewKey)
def key(given: arguments.NewKey) -> None:
    """Make a pair of keys for signatures."""
    from tu_eval.evidence.sign import make_key

    public = make_key(given.out)
    print(f"private key: {given.out} (readable by its owner alone; keep it secret)")
    print(f"public key: {public} (give it to those who verify)")


@command(app, arguments=arguments.Sign)
def sign(given: arguments.Sign) -> None:
    """Sign every file of a finished folder.

    Results, a report or a model; writes signature.json."""
    from tu_eval.evidence.sign import SIGNATURE, private_key, sign

    public = sign(given.folder, private_key(given.key))
    print(f"signature: {given.folder / SIGNATURE}")
    print(f"by: {public}")


@command(app, arguments=arguments.Verify)
def verify(given: arguments.Verify) -> None:
    """Check a folder of results: is it what was written?

    Hashes, numbers computed again from its rows, signature."""
    from shared.errors import printable
    from tu_eval.evidence.sign import public_key
    from tu_eval.evidence.verify import verify

    for line in verify(given.folder, public_key(given.key) if given.key is not None else None):
        print(printable(line))


@command(app)
def list_() -> None:
    """List the suites, metrics and attacks that there are.

    Each with where it comes from (docs/extending.md)."""
    from tu_eval.listing import print_list

    print_list()


def main() -> None:
    run_app(app)
