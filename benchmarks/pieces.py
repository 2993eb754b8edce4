"""What the first tokens of a piece of raw text lose to the cut, by how much of what came before the piece reads again.

    python -m benchmarks.pieces --model smollm2 [--model FOLDER] [--lume FOLDER]

Long texts are read whole, and in pieces of 256 tokens with an overlap of 0, 16, 32, 64 and 128. The table has the mean
NLL of the first 16 tokens of all later pieces, and of the same tokens in the whole text. Texts: long documents of the
atlas, stories of LUME (a dozen joined, where --lume names its folder), and the beginning of Don Quijote (pieces.txt),
whose tokens in an English model are many and short. Cost: the whole texts once and 16 tokens behind each overlap, some
minutes a model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from shared.data.datasets import Row, load_rows
from shared.data.examples import text_examples
from shared.data.layout import LayoutOptions, say_layout
from shared.engines.interface import Request
from shared.engines.torch import TorchEngine
from shared.lm.models import load_laid_out, locate

LENGTH, FIRST, WHOLE = 256, 16, 1536
"""tokens of a piece, of those that are compared, and of a text"""
OVERLAPS = (0, 16, 32, 64, 128)
TEXTS = 3
"""of LUME"""


def texts(lume: Path | None) -> dict[str, list[str]]:
    """Kind -> long texts, longer than WHOLE tokens where there is so much."""
    out = {"atlas documents": [row.answer for row in load_rows("atlas:documents:people=10,facts_per_person=24,seed=7")]}
    if lume is not None:
        rows = [json.loads(line) for line in (lume / "retain.jsonl").read_text(encoding="utf-8").splitlines()]
        stories = [f"{row['input']} {row['output']}" for row in rows if "sc" in row["id"] and str(row["task"]).endswith("1")]
        out["LUME stories"] = ["\n\n".join(stories[n * 12 : n * 12 + 12]) for n in range(TEXTS)]
    out["Don Quijote (Spanish)"] = [Path(__file__).with_name("pieces.txt").read_text(encoding="utf-8")]
    return out


def losses(engine: TorchEngine, tokenizer: Any, text: str) -> dict[int, tuple[list[float], list[float]]]:
    """Overlap -> NLL in pieces, and in the whole text, of the first tokens of all later pieces."""
    whole = next(text_examples(Row("text", None, text), tokenizer, WHOLE))
    plain = [-p for p in _logprobs(engine, whole.input_ids, range(1, len(whole.input_ids)))]
    out = {}
    for overlap in OVERLAPS:
        pieces = [e for e in text_examples(Row("text", None, text), tokenizer, LENGTH, overlap) if e.row_start]
        in_pieces, in_whole = [], []
        for piece in pieces:
            first = [i for i in piece.targets[:FIRST] if piece.row_start + i - piece.lead < len(whole.input_ids)]
            if len(first) < FIRST:
                continue
            in_pieces += [-p for p in _logprobs(engine, piece.input_ids[: first[-1] + 1], first)]
            in_whole += [plain[piece.row_start + i - piece.lead - 1] for i in first]
        out[overlap] = (in_pieces, in_whole)
    return out


def _logprobs(engine: TorchEngine, ids: list[int], at: Any) -> list[float]:
    (scored,) = engine.score([Request(list(ids), list(at))])
    return scored.logprob.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--lume", type=Path, help="folder with LUME's retain.jsonl")
    parser.add_argument("--beginning-token", choices=["auto", "add"], help="add: put back one that the tokenizer has lost")
    arguments = parser.parse_args()
    print("| Model | Text | Overlap | NLL in pieces | NLL in the whole | Difference | Tokens |\n|---|---|---:|---:|---:|---:|---:|")
    for model in arguments.model:
        folder = locate(model)
        tokenizer = load_laid_out(model, folder, LayoutOptions(beginning_token=arguments.beginning_token))
        say_layout(tokenizer, model)
        engine = TorchEngine.load(folder, dtype="float32", device="cpu", batch_tokens=2048)
        for kind, long in texts(arguments.lume).items():
            found = [losses(engine, tokenizer, text) for text in long]
            for overlap in OVERLAPS:
                pieces, whole = ([x for one in found for x in one[overlap][k]] for k in range(2))
                a, b = sum(pieces) / len(pieces), sum(whole) / len(whole)
                print(f"| {Path(model).name} | {kind} | {overlap} | {a:.2f} | {b:.2f} | {a - b:+.2f} | {len(pieces)} |", flush=True)
        engine.close()


if __name__ == "__main__":
    main()
