"""MT-Bench's way of grading (arXiv 2306.05685) with questions and a judge of your own: conversations of one or more
turns, answered greedily by the torch engine, each answer graded 1 to 10 by a model behind an OpenAI-compatible
endpoint.

Nothing is sent anywhere but by this command, and only where the environment names the endpoint
(tu_eval/judge/endpoint.py). Answers and replies are kept by content while the run lasts: one that was interrupted,
started again, neither writes nor asks again what is there.

    judge.json      mean ratings: all, by turn, by category; what has no rating; what they belong to
    rows.parquet    one row a turn: question, answer, rating, the judge's reply
    _config.toml    the settings, as --config reads them back; never the key
"""

from __future__ import annotations

import importlib.metadata
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.config import as_dict
from shared.console import progress, say
from shared.errors import StoreError, printable
from shared.files.fs import hash_json, read_json, write_json
from shared.files.outputs import claims
from shared.files.shape import Count, Named
from shared.lm import models
from tu_eval.judge import rating as judge_rating
from tu_eval.judge.answers import Conversation, read_conversations, write_answers
from tu_eval.judge.config import JudgeConfig
from tu_eval.judge.endpoint import Endpoint, JudgeError, ask, check_reachable, endpoint
from tu_eval.measure.kept import KeptMeasurements, remove_measurements
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.source_code import answer_version
from tu_eval.results.folder import ROWS, FolderKind, write_folder

if TYPE_CHECKING:
    import pyarrow

ANSWERS = ("dtype", "max_new_tokens")
"""fields of the configuration on which the answers depend"""


@claims("the ratings of one model")
def run_judge(config: JudgeConfig) -> dict[str, Any]:
    """Writes the folder and returns what judge.json holds. Raises UserError before a model is loaded for everything
    that cannot fit."""
    judge, out = endpoint(config.judge_model), Path(config.out)
    config = replace(config, judge_model=judge.model)
    conversations = read_conversations(Path(config.data).expanduser(), config.limit)
    folder = find_model(config.model)
    device = models.choose_device(config.device).type
    tokenizer, context = models.load_laid_out(config.model, folder, config), models.context_length(folder)
    check_reachable(judge, config.timeout_s, config.reply_s)
    content = {
        "model_fingerprint": models.model_fingerprint(folder),
        "tokenizer_fingerprint": models.tokenizer_fingerprint(tokenizer),
        "template_fingerprint": models.template_fingerprint(tokenizer),
        "data_fingerprint": hash_json([[c.id, c.category, c.turns, c.references] for c in conversations]),
        "device": device,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
    root = Path(config.store) if config.store else out.with_name(f"{out.name}.unfinished")
    settings = {k: v for k, v in as_dict(config).items() if k in ANSWERS}
    measurements = KeptMeasurements(root, {**content, "settings": settings, "answer_code": answer_version()})
    rows = write_answers(conversations, folder, tokenizer, context, measurements, config)
    say(f"{len(rows)} answers of {config.model} go to {judge.model} at {judge.shown}")
    _rate(rows, conversations, judge, measurements, root, config)
    about = {
        "model": config.model, **content,
        "judge": {"model": judge.model, "url": judge.shown, "greedy": config.judge_greedy},
        "prompt_fingerprint": hash_json([judge_rating.SYSTEM, judge_rating.TASK, judge_rating.REFERENCE]), "settings": settings,
        "conversations": len(conversations), **summarise(rows),
    }  # fmt: skip
    about = write_folder(out, JUDGE_FOLDER, about, {ROWS: (schema(), rows)}, config)
    if not config.store:
        remove_measurements(root)
    return about


def _rate(
    rows: list[dict[str, Any]],
    conversations: Sequence[Conversation],
    judge: Endpoint,
    measurements: KeptMeasurements,
    root: Path,
    config: JudgeConfig,
) -> None:
    """Puts `reply` and `rating` into each row; asks only for replies that are not in the store."""
    said: dict[str, list[str]] = {c.id: [] for c in conversations}
    by_id, options = {c.id: c for c in conversations}, {"temperature": 0} if config.judge_greedy else {}
    with progress("asking the judge", len(rows), "answers") as bar:
        for done, row in enumerate(rows):
            c, answers = by_id[row["id"]], said[row["id"]]
            answers.append(row["answer"])
            asked = judge_rating.messages(c.turns[: row["turn"]], answers, c.references[row["turn"] - 1])
            key = hash_json([judge.shown, judge.model, asked, options])
            place = measurements.folder / "replies" / f"{key}.json"
            reply = next((r for folder in measurements.folders if (r := _kept(folder / "replies" / place.name, key)) is not None), None)
            if reply is None:
                try:
                    reply = ask(judge, asked, options, timeout_s=config.timeout_s, reply_s=config.reply_s, retries=config.retries)
                except JudgeError as error:
                    raise JudgeError(f"{error}; {done} of {len(rows)} replies are kept in {root}, the same command goes on there") from None
                measurements.made(place.parent)
                write_json(place, {"key": key, "reply": reply, "sha256": hash_json([key, reply])})
            row |= {"reply": reply, "rating": judge_rating.rating(reply)}
            bar.advance(1)


def _kept(place: Path, key: str) -> str | None:
    """A reply of an earlier run, or None: it is not there, or not what was written."""
    if not place.exists():
        return None
    try:
        kept = read_json(place)
    except StoreError:
        return None
    whole = isinstance(kept, dict) and kept.get("key") == key and kept.get("sha256") == hash_json([key, kept.get("reply")])
    return kept["reply"] if whole else None


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of the ratings there are, None where there is none. `stderr` is that of the mean over conversations of
    their mean rating."""

    def mean(chosen: Sequence[dict[str, Any]]) -> float | None:
        values = [row["rating"] for row in chosen if row["rating"] is not None]
        return statistics.fmean(values) if values else None

    def groups(column: str) -> dict[Any, list[dict[str, Any]]]:
        return {value: [row for row in rows if row[column] == value] for value in dict.fromkeys(row[column] for row in rows)}

    each = [m for chosen in groups("id").values() if (m := mean(chosen)) is not None]
    return {
        "score": mean(rows),
        "stderr": statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else None,
        "turns": {str(turn): mean(chosen) for turn, chosen in sorted(groups("turn").items())},
        "categories": {category: mean(chosen) for category, chosen in groups("category").items()},
        "rated": sum(row["rating"] is not None for row in rows),
        "unrated": [{"id": row["id"], "turn": row["turn"]} for row in rows if row["rating"] is None],
    }


def schema() -> pyarrow.Schema:
    """A row a turn (from 1); `rating` 1 to 10, null where the reply has none."""
    import pyarrow as pa

    text = pa.string()
    columns = [("id", text), ("category", text), ("turn", pa.int32()), ("question", text), ("answer", text), ("finished", pa.bool_())]
    return pa.schema([*columns, ("rating", pa.float64()), ("reply", text)])


MEANS = Named((float, None))
JUDGE_FOLDER = FolderKind(
    "judge.json",
    "tu-eval judge",
    {"score": (float, None), "stderr": (float, None), "turns": MEANS, "categories": MEANS, "rated": Count(), "unrated": [{}]},
    columns=schema,
)


def print_judge(about: dict[str, Any]) -> None:
    def line(name: str, value: float | None, error: float | None = None) -> None:
        print(printable(f"{name}: ") + ("none" if value is None else f"{value:.2f}") + (f" ± {error:.2f}" if error is not None else ""))

    line("score", about["score"], about["stderr"])
    for kind in ("turns", "categories"):
        for name, value in about[kind].items():
            line(f"{kind.removesuffix('s').replace('categorie', 'category')} {name}", value)
    total = about["rated"] + len(about["unrated"])
    print(f"rated: {about['rated']} of {total} answers")
    if about["unrated"]:
        shown = ", ".join(f"{u['id']} (turn {u['turn']})" for u in about["unrated"][:10])
        say(f"no rating from 1 to 10 in the judge's reply to {shown}{' ...' if len(about['unrated']) > 10 else ''}; left out of the means")
