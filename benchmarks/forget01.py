"""Does each method lower the probability of the forget answers, and do the folders it leaves load elsewhere?

    TU_TOFU_DIR=... python -m benchmarks.forget01 --json [--methods graddiff npo simnpo rmu undial] [--no-vllm]

SmolLM2-135M learns tofu:forget01 for a few epochs (so that there is something to forget), is scored, and unlearns it
with every method by the real commands, all tokens, one epoch, the method's own defaults but for the learning rate
(RMU's is large: it trains three matrices). Prints the geometric-mean probability of a forget token (whole answers)
before and after. Each folder is then loaded by transformers and by vLLM, which both write an answer.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

METHODS = ("graddiff", "npo", "simnpo", "rmu", "undial")
DATA, RETAIN = "tofu:forget01", "tofu:retain99"
EPOCHS, RATES, RATE = 1, {"undial": 1e-4, "rmu": 1e-3}, 5e-5
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""what vLLM needs on a small CPU"""
PROMPT = "The full name of the author born in Taipei is"
LOADERS = {
    "transformers": "import sys, transformers as t; m, k = t.AutoModelForCausalLM.from_pretrained(sys.argv[1]), "
    "t.AutoTokenizer.from_pretrained(sys.argv[1]); "
    "print('WROTE', len(m.generate(**k(sys.argv[2], return_tensors='pt'), max_new_tokens=8)[0]))",
    "vllm": "import sys, vllm\n"
    "if __name__ == '__main__':\n"
    "    m = vllm.LLM(sys.argv[1], enforce_eager=True, max_model_len=256)\n"
    "    print('WROTE', len(m.generate(sys.argv[2], vllm.SamplingParams(max_tokens=8))[0].outputs[0].token_ids))",
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def command(module: str, *words: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def probability(store: Path) -> float:
    """Geometric mean over all target tokens of the store."""
    from shared.store.scores import open_store

    values = [
        p for row in open_store(store).rows(("is_target", "logprob")) for p, t in zip(row["logprob"], row["is_target"], strict=True) if t
    ]
    return math.exp(math.fsum(values) / len(values))


def score(model: object, out: Path) -> Path:
    command("tu_score", "run", "--model", model, "--data", DATA, "--spans", "none", "--engine", "torch", "--out", out)
    return out


def loads(model: Path, loader: str) -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(LOADERS[loader])
        script.flush()
        done = subprocess.run([sys.executable, script.name, model, PROMPT], capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    if done.returncode:
        say(done.stderr[-2000:])
    return done.returncode == 0 and "WROTE" in done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object (else one line a key)")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--no-vllm", action="store_true", help="do not load the folders in vLLM")
    arguments = parser.parse_args()
    loaders = [name for name in LOADERS if name != "vllm" or not arguments.no_vllm]
    out: dict[str, float | bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        target = work / "target"
        command("tu_train", "finetune", "--model", "smollm2", "--data", DATA, "--out", target, "--epochs", 5, "--learning-rate", 1e-4)
        scores = score(target, work / "scores")
        out["before"] = probability(scores)
        say(f"before: {out['before']:.3f}")
        for method in arguments.methods:
            model = work / method
            words = {"model": target, "scores": scores, "retain": RETAIN, "method": method, "tokens": "all", "epochs": EPOCHS, "out": model}
            words["learning-rate"] = RATES.get(method, RATE)
            command("tu_train", "run", *(word for name, value in words.items() for word in (f"--{name}", value)))
            out[method] = probability(score(model, work / f"{method}-scores"))
            out |= {f"{method}_loads_in_{name}": loads(model, name) for name in loaders}
            say(f"{method}: {out[method]:.3f}; " + ", ".join(f"{name} {out[f'{method}_loads_in_{name}']}" for name in loaders))
    print(json.dumps(out) if arguments.json else "\n".join(f"{k} {v}" for k, v in out.items()))
    failed = [m for m in arguments.methods if not out[m] < out["before"] or not all(out[f"{m}_loads_in_{name}"] for name in loaders)]
    if failed:
        raise SystemExit(f"not lowered, or not loaded: {', '.join(failed)}")


if __name__ == "__main__":
    main()
