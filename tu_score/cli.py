"""tu-score: score every token of a data set once, look at the result, check it.

Heavy imports wait until a command runs. Flags and their help stand in config.py and arguments.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.cli import new_app, run_app
from shared.commands import Asked, command
from shared.console import number_of
from tu_score import arguments

if TYPE_CHECKING:
    from shared.store.scores import Store
    from shared.weighting.importance import Recipe
    from tu_score.config import ScoreConfig

app = new_app("Score every token of a data set under a model: which of them carry the knowledge?")


def _amounts(store: Store) -> str:
    manifest = store.manifest
    return ", ".join((number_of(len(store), "row"), number_of(manifest["tokens"], "token"), number_of(len(manifest["parts"]), "part")))


@command(app, config="tu_score.config:ScoreConfig", arguments=arguments.Run)
def run(asked: Asked[ScoreConfig], given: arguments.Run) -> None:
    """Score every token of a data set, and write the scores.

    A killed run goes on when the same command is given again."""
    from shared.errors import ConfigError

    out = asked.flags.get("out")
    settings = asked.resolved(**({"out": out or "-"} if given.dry_run and asked.file is None else {}))  # a dry run needs none
    if settings.out.startswith("memory:"):
        raise ConfigError(f"--out {settings.out}: is a place that is gone when the command ends; name a folder, or a URL such as s3://")
    if given.dry_run:
        from tu_score.estimate import estimate

        print("\n".join(estimate(settings, check_out=settings.out != "-").lines()))
        return
    from shared.secret import without_secrets

    if settings.shard is not None:
        from tu_score.run import run_score

        run_score(settings)
        return
    from tu_score.interface import score

    store = score(settings).store
    check, where = store.manifest["self_check"], without_secrets(str(store.folder))
    gap = f"{number_of(len(check['rows']), 'row')} scored again alone, different by at most {check['largest_nats']:.2g} nats"
    print(f"scores: {where}  ({_amounts(store)})")
    print(f"self-check: ok, {gap} (bound {check['bound_nats']:g})")
    from shared.data.kin import kin_of, pasted, same_again

    print(f"next: {pasted('tu-score', 'inspect', where, '--html', 'heatmap.html')}")
    method = "undial" if settings.text_key else "npo"  # docs/raw_text.md
    kept, same = kin_of(settings.data, "forget", "retain"), same_again(settings)
    train = ["tu-train", "run", "--model", settings.model, "--scores", where, "--retain", kept or "none", "--method", method, *same]
    print(f"      {pasted(*train, '--out', 'unlearned')}")
    if kept is None:
        print("      with the rows that the model must keep in place of none")


@command(app, arguments=arguments.Inspect)
def inspect(given: arguments.Inspect) -> None:
    """Show which words were found important, as text or as a page.

    Tokens are shaded by importance, or by another signal; --top lists those where it is largest."""
    from shared.store.scores import open_store
    from tu_score.inspect import inspect_store

    store = open_store(given.folder)
    inspect_store(store, example=given.example, rows=given.rows, top=given.top, html=given.html, signal=given.signal)


@command(app, arguments=arguments.Store)
def verify(given: arguments.Store) -> None:
    """Check a folder of scores from first to last token."""
    from shared.errors import StoreError
    from shared.secret import without_secrets
    from shared.store.scores import open_store
    from tu_score.verify import problems_of, unchecked

    store = open_store(given.folder)
    problems = problems_of(store)
    for problem in problems:
        print(without_secrets(problem))
    if (not_told := unchecked(store)) is not None:
        print(not_told)
    if problems:
        found = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found"
        raise StoreError(f"{without_secrets(given.folder)}: {found}; copy the folder again or score again")
    print(f"ok: {_amounts(store)}")


@command(app, arguments=arguments.Merge)
def merge(given: arguments.Merge) -> None:
    """Join what several machines scored into one folder.

    Each of them ran tu-score run --shard K/N (docs/scale.md)."""
    from shared.secret import without_secrets
    from shared.store.scores import open_store
    from tu_score.shards import merge

    store = open_store(merge(given.folder, given.more))
    print(f"{without_secrets(str(store.folder))}: {number_of(len(store), 'row')}, {number_of(store.manifest['tokens'], 'token')}")


@command(app, config="shared.weighting.importance:Recipe", arguments=arguments.Rewrite)
def recipe(asked: Asked[Recipe], given: arguments.Rewrite) -> None:
    """Compute importance again, in another way, without a model.

    It is made from the columns of a finished store (docs/recipes.md), or taken from a file of your own."""
    sets = [*(given.recipe.split(",") if given.recipe else ()), *asked.sets]
    wanted = replace(asked, sets=sets).resolved().imported()
    from shared.errors import ConfigError
    from shared.secret import without_secrets
    from shared.store.scores import open_store
    from shared.weighting.importance import describe

    if given.importance is None:
        from tu_score.recipe import apply_recipe

        store = apply_recipe(open_store(given.folder), wanted)
    else:
        from tu_score.given import give_importance

        named = {text.partition("=")[0].strip() for text in sets}
        if asked.file is not None or named - {"norm"}:
            raise ConfigError(f"--importance {given.importance}: stands in place of a recipe; of its fields it takes norm alone")
        store = give_importance(open_store(given.folder), given.importance, wanted.norm if named else None)
    now, where = describe(store.manifest["recipe"]), without_secrets(str(store.folder))
    print(f"{where}: importance of {number_of(len(store), 'row')} ({number_of(store.manifest['tokens'], 'token')}) is now {now}")


@command(app, arguments=arguments.Explain)
def explain(given: arguments.Explain) -> None:
    """Say of each word why it was found important, or not.

    This is for learned importance (docs/recipes.md)."""
    from shared.store.scores import open_store
    from tu_score.explain import explain_store

    explain_store(open_store(given.folder), example=given.example, rows=given.rows, top=given.top)


@command(app, arguments=arguments.Agree)
def agree(given: arguments.Agree) -> None:
    """Compare the scores with secrets that you know.

    Of importance and every signal: ROC-AUC, average precision, precision."""
    from shared.errors import ConfigError
    from shared.store.scores import open_store

    if given.model is None:
        raise ConfigError("--model is missing: the model that was scored; its tokenizer tells which tokens the true spans are")
    store = open_store(given.folder)
    from tu_score.agree import agreement, as_text

    result = agreement(store, truth=given.truth, key=given.truth_key, model=given.model, data=given.data, secrets=given.secrets)
    print(json.dumps(result, indent=2) if given.as_json else as_text(result))


@command(app, arguments=arguments.New)
def new(given: arguments.New) -> None:
    """Begin with data of your own: make a folder to fill.

    It holds a few invented rows to put yours in place of, and a README with six commands, from the rows to the
    verdict."""
    from shared.errors import printable
    from tu_score.new import write_start

    names = write_start(given.folder)
    print(printable(f"{given.folder}: {', '.join(names)}"))
    print("next: put your rows in place of the invented ones, then give the six commands of README.md in that folder")


@command(app)
def list_() -> None:
    """List the signals and the ways to mask that there are.

    Each with where it comes from (docs/extending.md)."""
    from tu_score.listing import print_list

    print_list()


@command(app)
def doctor() -> None:
    """Say what this machine has, for a report of a fault.

    Versions, devices, memory, caches."""
    from shared.errors import printable
    from tu_score.doctor import report

    for what, found in report():
        print(printable(f"{what}: {found}"))


def main() -> None:
    run_app(app)
