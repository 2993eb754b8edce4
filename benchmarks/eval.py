"""How fast an evaluation on TOFU is, against what a user would write today, on the same model, data and machine in the
same run.

    TU_TOFU_DIR=... python -m benchmarks.eval --json [--rows 20] [--rounds 2] [--max-new-tokens 64]

SmolLM2-135M in float32, the first rows of each set of tofu:forget01. Both sides take turns; a ratio is the shortest of
the baseline's times over the shortest of ours, which runs in a process of its own:

    forward                  log-probabilities of all answers, paraphrases and wrong answers. Baseline: a pass over each
                             variant of each set by itself, padded batches of eight, full logits. Ours also notes what
                             membership inference needs
    generation_vs_batched    greedy answers, set by set. Baseline: transformers' generate, batches of eight padded on
                             the left
    generation_vs_rowwise    the same. Baseline: transformers' generate, one row at a time
    drawing                  eight drawn answers to each forget row, at temperature 1, tokens a second. Baseline:
                             transformers' generate, the eight of a row as one batch

The model was not fine-tuned on TOFU, so most of its answers run until they are cut. Both sides must compute the same,
else there are no figures: log-probabilities within 2e-4 nats, and the same greedy tokens. Where the two likeliest
tokens are within 1e-3 nats of each other the order of sums decides, between the two baselines as well; from there on
the answer is not compared. Drawn answers are not the same, since both draw with other random numbers. Lines on stderr
tell what goes on; stdout holds the JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.drawing import draw
from benchmarks.score import say, timed
from shared.data.examples import Example
from shared.lm.models import context_length, load_model, load_tokenizer, locate
from tu_eval.measure.drawing import ToDraw, draws
from tu_eval.measure.pieces import score_examples, stop_ids
from tu_eval.suites.suites import find_suite
from tu_eval.suites.variants import Variants, load_variants

SUITE, BATCH, DRAWS = "tofu:forget01", 8, 8
AGREE_NATS, TIE_NATS = 2e-4, 1e-3


@dataclass(frozen=True)
class Workload:
    sets: list[list[Variants]]
    stop: list[int]
    most: int
    """new tokens an answer may take"""

    @property
    def examples(self) -> list[Example]:
        return [e for rows in self.sets for v in rows for e in v.examples]

    @property
    def forget(self) -> set[str]:
        """Answers that membership inference attacks."""
        return {v.answer.id for v in self.sets[0]}

    @property
    def prompts(self) -> list[list[list[int]]]:
        return [[v.answer.input_ids[: v.answer.prompt_length] for v in rows] for rows in self.sets]


def workload(folder: Any, rows: int, most: int) -> Workload:
    tokenizer, context = load_tokenizer(folder), context_length(folder)
    sets = [load_variants(part, tokenizer, context=context, long="error", limit=rows)[0] for part in find_suite(SUITE).sets]
    return Workload(sets, stop_ids(tokenizer, [v.answer for rows in sets for v in rows]), most)


@torch.no_grad()
def forward_today(model, load: Workload) -> dict[str, list[float]]:
    """By example id: log-probabilities of its targets."""
    out = {}
    for rows in load.sets:
        for variant in zip(*(v.examples for v in rows), strict=True):
            for at in range(0, len(variant), BATCH):
                batch = variant[at : at + BATCH]
                longest = max(len(e.input_ids) for e in batch)
                ids = torch.tensor([e.input_ids + [0] * (longest - len(e.input_ids)) for e in batch])
                mask = torch.tensor([[1] * len(e.input_ids) + [0] * (longest - len(e.input_ids)) for e in batch])
                logp = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
                out |= {e.id: logp[i, torch.tensor(e.targets) - 1].tolist() for i, e in enumerate(batch)}
    return out


@torch.no_grad()
def generate_today(model, load: Workload, size: int) -> list[list[int]]:
    """Greedy answers of all sets, one after another, without the stop token."""
    model.generation_config = GenerationConfig()
    out, pad = [], load.stop[0]
    for prompts in load.prompts:
        for at in range(0, len(prompts), size):
            batch = prompts[at : at + size]
            longest = max(map(len, batch))
            ids = torch.tensor([[pad] * (longest - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
            new = model.generate(
                ids, attention_mask=mask, max_new_tokens=load.most, do_sample=False, eos_token_id=load.stop, pad_token_id=pad
            )
            for row in new[:, longest:].tolist():
                out.append(row[: next((k for k, token in enumerate(row) if token in load.stop), len(row))])
    return out


def draw_today(model, load: Workload) -> int:
    """Tokens of the drawn answers."""
    model.generation_config = GenerationConfig()
    torch.manual_seed(0)
    return sum(len(ids) for prompt in load.prompts[0] for ids in draw(model, prompt, DRAWS, load.most, 1.0, load.stop))


def our_side(pipe, folder: Any, load: Workload) -> None:
    """In a process of its own, so that its threads and memory are not the baseline's."""
    from shared.engines.torch import TorchEngine
    from shared.lm.logprobs import HeadOptions

    engine = TorchEngine.load(folder, device="cpu", head=HeadOptions(top_k=1, second=True))

    def forward() -> dict[str, list[float]]:
        return {row["id"]: row["logprob"] for row in score_examples(engine, load.examples, load.forget)}

    def generation(most: int = load.most) -> list[list[int]]:
        return [ids for prompts in load.prompts for ids in engine.generate(prompts, max_new_tokens=most, stop_ids=load.stop)]

    def drawing() -> int:
        wanted = [ToDraw(str(k), prompt, load.most) for k, prompt in enumerate(load.prompts[0])]
        return sum(len(ids) for own in draws(engine, wanted, DRAWS, 1.0, load.stop, seed=0) for ids in own)

    score_examples(engine, load.examples[:BATCH], set())  # warm
    generation(1)
    pipe.send("ready")
    for name in iter(pipe.recv, None):
        pipe.send(timed({"forward": forward, "generation": generation, "drawing": drawing}[name]))


def check_forward(expected: dict[str, list[float]], found: dict[str, list[float]]) -> None:
    worst = max(abs(a - b) for name, values in expected.items() for a, b in zip(values, found[name], strict=True))
    say(f"forward: {sum(map(len, expected.values()))} log-probabilities, largest difference {worst:.1e} nats")
    if not worst <= AGREE_NATS:
        raise SystemExit(f"forward: a log-probability differs by {worst:.1e} nats, allowed are {AGREE_NATS}; both do not compute the same")


@torch.no_grad()
def check_texts(model, load: Workload, name: str, expected: Sequence[list[int]], found: Sequence[list[int]]) -> None:
    """Every answer is the same, or parts at a token where the model itself cannot tell the two apart."""
    ties = 0
    for prompt, one, other in zip((p for prompts in load.prompts for p in prompts), expected, found, strict=True):
        if one == other:
            continue
        at = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        logits = model(torch.tensor([prompt + one[:at]])).logits[0, -1].double()
        choices = [ids[at : at + 1] or load.stop for ids in (one, other)]
        gap = abs(logits[choices[0]].max() - logits[choices[1]].max()).item()
        ties += 1
        if gap > TIE_NATS:
            raise SystemExit(f"{name}: an answer differs at token {at}, between tokens {gap:.1e} nats apart; both do not compute the same")
    tokens, cut = sum(map(len, expected)), sum(len(ids) == load.most for ids in expected)
    say(f"{name}: {len(expected)} answers, {tokens} tokens, {cut} cut; {ties} part at a tie")


def measure(rows: int, rounds: int, most: int) -> dict[str, float]:
    folder = locate("smollm2")
    load = workload(folder, rows, most)
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    child = spawn.Process(target=our_side, args=(theirs, folder, load), daemon=True)
    child.start()
    theirs.close()
    model = load_model(folder, dtype=torch.float32, device=torch.device("cpu"))
    pipe.recv()

    def ask(name: str) -> tuple[float, Any]:
        pipe.send(name)
        return pipe.recv()

    best: dict[str, float] = {}
    found: dict[str, Any] = {}
    sides = {
        "forward": lambda: timed(lambda: forward_today(model, load)),
        "forward ours": lambda: ask("forward"),
        "batched": lambda: timed(lambda: generate_today(model, load, BATCH)),
        "generation ours": lambda: ask("generation"),
        "rowwise": lambda: timed(lambda: generate_today(model, load, 1)),
        "drawing": lambda: timed(lambda: draw_today(model, load)),
        "drawing ours": lambda: ask("drawing"),
    }
    for number in range(rounds):
        for name, work in sides.items():
            seconds, found[name] = work()
            best[name] = min(seconds, best.get(name, seconds))
            say(f"round {number + 1}, {name}: {seconds:.2f} s")
    pipe.send(None)
    child.join()
    check_forward(found["forward"], found["forward ours"])
    for name in ("batched", "rowwise"):
        check_texts(model, load, name, found[name], found["generation ours"])
    return {
        "forward": best["forward"] / best["forward ours"],
        "generation_vs_batched": best["batched"] / best["generation ours"],
        "generation_vs_rowwise": best["rowwise"] / best["generation ours"],
        "drawing": (found["drawing ours"] / best["drawing ours"]) / (found["drawing"] / best["drawing"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object (else one line a key)")
    parser.add_argument("--rows", type=int, default=20, help="rows of each set")
    parser.add_argument("--rounds", type=int, default=2, help="turns of both sides")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="tokens an answer may take")
    arguments = parser.parse_args()
    out = {k: float(f"{v:.4g}") for k, v in measure(arguments.rows, arguments.rounds, arguments.max_new_tokens).items()}
    print(json.dumps(out) if arguments.json else "\n".join(f"{k} {v}" for k, v in out.items()))


if __name__ == "__main__":
    main()
