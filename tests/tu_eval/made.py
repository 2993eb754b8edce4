"""Results folders written directly, with numbers that follow from a seed: what pages and reports are tested on."""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

from shared.files.fs import hash_json
from tu_eval.measure.membership import separations
from tu_eval.metrics.forget_quality import forget_quality
from tu_eval.metrics.utility import model_utility
from tu_eval.results.folder import MEMBERSHIP_METRICS
from tu_eval.results.results import load_results, write_results

HEBREW = "שלום עולם"
EVIL = "</script><img src=x onerror=\"document.title='hit'\"> <!-- 'quotes' \"too\" {{ 7 * 7 }} &lt;"
TEXTS = [(f"Who is {EVIL}?", f"Nobody & {EVIL}"), (f"What is {HEBREW}?", f"{HEBREW} is a greeting.\nIn two lines.")]
TEXTS += [(f"Where was author {k} born?", f"Author {k} was born in the old town of Lisbon in the year {1900 + k}.") for k in range(28)]
SETS = ("forget", "retain", "world")
ENGINE = {"device": "cpu", "batching": "forest"}


@dataclass
class NoConfig:
    model: str = "x"


def make_rows(seed: int, known: float) -> list[dict]:
    """30 rows a set; `known`, 0 to 1, is how well the forget set is remembered."""
    rng, rows = random.Random(seed), []
    for name in SETS:
        level = known if name == "forget" else 0.8
        for k, (question, answer) in enumerate(TEXTS):
            p = min(0.99, max(0.01, level * rng.uniform(0.7, 1.1)))
            kept = [w for w in answer.split(" ") if rng.random() < level] + (["Porto"] if level < 0.7 else [])
            ratio = rng.gauss(1.5 - 4 * level, 1.0)
            rows.append(
                {
                    "set": name,
                    "example_id": f"made/{name}/{k}",
                    "question": question,
                    "answer": answer,
                    "generation": " ".join(kept),
                    "nll_sum": -9 * math.log(p),
                    "target_tokens": 9,
                    "probability": p,
                    "probability_options": p if name == "world" else None,
                    "log_truth_ratio": ratio,
                    "truth_ratio": math.exp(ratio),
                    "rouge_l_recall": len(kept) / (len(kept) + 3),
                }
            )
    return rows


def make_membership(seed: int, known: float) -> list[dict]:
    """30 rows a side; what is known has lower scores."""
    rng = random.Random(1000 + seed)
    return [
        {
            "set": side,
            "example_id": f"made/{side}/{k}",
            **{a: rng.gauss(-known if side == "forget" else 0, 0.6) for a in MEMBERSHIP_METRICS},
        }
        for side in ("forget", "holdout")
        for k in range(30)
    ]


def make_agreement(path: Path, *, store: str, **changes) -> Path:
    """What `tu-score agree --json` writes, as far as the page reads it."""
    figures = {"auc": 0.731, "ap": 0.5, "p_true": 0.44, "p_10": 0.62, "p_20": 0.55, "p_30": 0.48}
    about = {
        "format": 1,
        "store": store,
        "recipe": "1 · minmax(base_entropy)",
        "answers": 8,
        "signals": {"importance": {"per_answer": figures}},
    }
    path.write_text(json.dumps({**about, **changes}))
    return path


def make_results(
    folder: Path, label: str, *, seed=0, known=0.9, retain: Path | None = None, model: Path | str = "gone", attacked=False, **changes
) -> Path:
    """`attacked`: with membership inference."""
    rows, metrics = make_rows(seed, known), {}
    members = make_membership(seed, known) if attacked else []
    for name in SETS:
        kept = [r for r in rows if r["set"] == name]
        ratios = [r["log_truth_ratio"] for r in kept]
        shares = [math.exp(-abs(x)) if name == "forget" else max(0.0, 1 - math.exp(x)) for x in ratios]
        for kind, values in (("probability", [r["probability"] for r in kept]), ("rouge", [r["rouge_l_recall"] for r in kept])):
            metrics[f"{name}_{kind}"] = sum(values) / len(values)
        metrics[f"{name}_truth_ratio"] = sum(shares) / len(shares)
    parts = [f"{name}_{kind}" for name in SETS[1:] for kind in ("probability", "rouge", "truth_ratio")]
    metrics["model_utility"] = model_utility({part: metrics[part] for part in parts})
    theirs, metrics["forget_quality"], reasons = None, None, {"forget_quality": "needs retain results (--retain-results DIR)"}
    if retain is not None:
        theirs, reasons = load_results(retain), {}
        of_retain = [r["log_truth_ratio"] for r in theirs.rows("forget")]
        metrics["forget_quality"] = forget_quality([r["log_truth_ratio"] for r in rows if r["set"] == "forget"], of_retain)
    if attacked:
        attacks = separations(members, seed=0)
        metrics |= {f"mia_{name}": found["auc"] for name, found in attacks.items()}
        changes = {"membership": {"holdout_fingerprint": "h" * 64, "holdout_rows": 30, "attacks": attacks}, **changes}
    summary = {
        "format": 1, "label": label, "model": str(model), "model_fingerprint": hash_json([label, seed, known]),
        "suite": "made", "limit": None, "tokenizer_fingerprint": "t" * 64, "template_fingerprint": "c" * 64, "data_fingerprint": "d" * 64,
        "retain_results": theirs and {k: theirs.summary[k] for k in ("label", "model_fingerprint", "rows_sha256")},
        "settings": {"dtype": "float32", "seed": 0, "long": "error", "generate": True, "max_new_tokens": 40}, "engine": ENGINE,
        "rows": {name: len(TEXTS) for name in SETS}, "metrics": metrics, "reasons": reasons, "utility_parts": parts, **changes,
    }  # fmt: skip
    write_results(folder, summary, rows, members, NoConfig())
    return folder


def make_model(folder: Path, *, word: str, **settings) -> tuple[Path, str]:
    """A folder that has weights (of a kind) and a training.json; -> it and its fingerprint."""
    from shared.lm.models import model_fingerprint

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes(word.encode())
    about = {"format": 1, "task": "unlearn", "store": "s" * 64, "start_model": "0" * 64, "forget_data": "f" * 64}
    (folder / "training.json").write_text(json.dumps({**about, "settings": settings}))
    return folder, model_fingerprint(folder)


def many(place: Path, **every) -> list[Path]:
    """target, retain, and npo and graddiff with all, hard (three seeds) and soft tokens."""
    retain = make_results(place / "retain", "retain", seed=1, known=0.25, **every)
    out = [make_results(place / "target", "target", seed=2, known=0.95, retain=retain, **every), retain]
    for m, method in enumerate(("npo", "graddiff")):
        for t, tokens in enumerate(("all", "hard", "soft")):
            for seed in range(3 if tokens == "hard" else 1):
                name = f"{method}-{tokens}-{seed}"
                model, print_ = make_model(place / "models" / name, word=name, method=method, tokens=tokens, seed=seed, learning_rate=1e-5)
                known = 0.3 + 0.08 * t + 0.05 * m
                more = {"model": model, "model_fingerprint": print_, "retain": retain, **every}
                out.append(make_results(place / name, name, seed=10 * m + 3 * t + seed + 5, known=known, **more))
    return out
