"""What is tried on a family, each by its real command, in this process. A check returns facts for the page, or raises
Refused with the line that the user saw, or Wrong where a command succeeded with numbers that are not right."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from benchmarks.families.made import make_model, write_data
from benchmarks.families.zoo import Family
from shared.engines.torch import TorchEngine
from shared.lm.models import load_model
from shared.store.scores import open_store

Facts = dict[str, Any]
CLOSE = 2e-4
"""nats, between our numbers and those of plain forward passes"""
SAME = 1e-4
"""between logits of a trained model and those of the folder that it was written to, relative to the largest"""
CPU = torch.device("cpu")
SAVED = 75


class Refused(Exception):
    """A command ended with exit code 2 and one line, which is the message."""


class Wrong(Exception):
    """A command did not do what it should: wrong numbers, another exit code, several lines."""


@dataclass(frozen=True)
class Tried:
    """A family, and the folder of everything that is made of it."""

    family: Family
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def fresh(self, name: str) -> Path:
        """A folder that is not there; what an earlier try left is removed."""
        for path in (self.folder / name, self.folder / f"{name}.unfinished"):
            shutil.rmtree(path, ignore_errors=True)
        return self.folder / name


def command(*words: object, code: int = 0) -> str:
    """Runs it as a user does -> what it said to stderr. Raises Refused or Wrong for another exit code than `code`."""
    name, *arguments = map(str, words)
    module, before, said = importlib.import_module(f"{name.replace('-', '_')}.cli"), sys.argv, io.StringIO()
    sys.argv, got = [name, *arguments], 0
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            module.main()
    except SystemExit as stop:
        got = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Exception as error:
        raise Wrong(f"{name} ended with a traceback: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    finally:
        sys.argv = before
    errors = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
    if got == 2 != code and len(errors) == 1:
        raise Refused(errors[0].removeprefix("error: "))
    if got != code:
        raise Wrong(f"{name} ended with exit code {got}: {' '.join(said.getvalue().split())[-300:]}")
    return said.getvalue()


def prepare(tried: Tried) -> None:
    make_model(tried.family, tried.model)
    write_data(tried.data)


# --- scoring


def score(tried: Tried, name: str, *more: object, engine: str = "torch") -> Path:
    out = tried.fresh(name)
    command("tu-score", "run", "--model", tried.model, "--data", tried.data / "forget.jsonl", "--engine", engine, "--device", "cpu",
            "--out", out, *more)  # fmt: skip
    return out


def check_score(tried: Tried) -> Facts:
    """Plain and masked passes against one plain forward pass a row; `delta` against the same without sharing."""
    out = score(tried, "scores", "--spans", "question", "--set", "keep_spans=true", "--topk", "5")
    far = farthest_from_plain(out, tried.model)
    with padded():
        alone = score(tried, "padded", "--spans", "question", "--set", "keep_spans=true")
    apart = largest_gap(column(out, "delta"), column(alone, "delta"))
    if not (far < CLOSE and apart < CLOSE):
        raise Wrong(f"the torch engine is {far:.1e} nats from plain forward passes, masked variants {apart:.1e}")
    return {"path": open_store(out).manifest["engine"]["batching"], "far": far, "masked": apart}


def check_spans(tried: Tried) -> Facts:
    """The other span plans, and windows over raw text."""
    spans = {}
    for plan, more in (
        ("none", ()), ("window", ()), ("entity", ()), ("given", ("--span-key", "question_spans")), ("text", ("--text-key", "answer")),
    ):  # fmt: skip
        out = score(tried, f"spans-{plan}", "--spans", "window" if plan == "text" else plan, *more)
        spans[plan] = sum(len(row["spans"]) for row in open_store(out).rows())
        if not spans[plan] and plan not in ("none", "entity"):
            raise Wrong(f"--spans {plan} masked nothing")
    return {"spans": spans}


def farthest_from_plain(store: Path, model_folder: Path) -> float:
    """Largest difference of a log-probability or an entropy, nats."""
    model, far = load_model(model_folder, dtype=torch.float32, device=CPU), 0.0
    for row in open_store(store).rows():
        with torch.inference_mode():
            logp = model(torch.tensor([row["input_ids"]]), use_cache=False).logits[0, :-1].double().log_softmax(-1)
        own = logp.gather(1, torch.tensor(row["input_ids"][1:])[:, None])[:, 0]
        for name, exact in (("logprob", own), ("entropy", -(logp.exp() * logp).sum(-1))):
            far = max(far, float(np.abs(np.array(row[name][1:]) - exact.numpy()).max()))
    return far


def column(store: Path, name: str) -> list[np.ndarray]:
    return [np.array([np.nan if v is None else v for v in row[name]], dtype=float) for row in open_store(store).rows()]


def largest_gap(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    if any(not np.array_equal(np.isnan(a), np.isnan(b)) for a, b in zip(first, second, strict=True)):
        return float("inf")
    return max(float(np.nanmax(np.abs(a - b), initial=0)) for a, b in zip(first, second, strict=True))


@contextlib.contextmanager
def padded() -> Iterator[None]:
    """Inside, no model is fed packed rows."""
    from shared.lm import packed

    keeps_apart, packed.PackedModel._keeps_apart = packed.PackedModel._keeps_apart, lambda *_: False  # type: ignore[method-assign]
    try:
        yield
    finally:
        packed.PackedModel._keeps_apart = keeps_apart  # type: ignore[method-assign]


# --- training


def train(tried: Tried, name: str, *more: object, fresh: bool = True, code: int = 0) -> tuple[Path, torch.Tensor | None]:
    """-> output folder, and logits of the model in memory just before it was written."""
    from tu_train import run

    out, seen = tried.fresh(name) if fresh else tried.folder / name, []

    def watched(*given: Any, **named: Any) -> None:
        model, wrapper = given[3], given[4]
        seen.append(logits(wrapper or model))
        return write(*given, **named)

    write, run.write_output = run.write_output, watched
    try:
        command("tu-train", "run", "--model", tried.model, "--scores", tried.folder / "scores", "--retain", tried.data / "retain.jsonl",
                "--out", out, "--device", "cpu", "--epochs", 2, "--learning-rate", 1e-3, "--set", "batch_size=2", *more,
                code=code)  # fmt: skip
    finally:
        run.write_output = write
    return out, seen[0] if seen else None


def check_full(tried: Tried) -> Facts:
    return after_training(tried, *train(tried, "full", "--method", "npo", "--tokens", "hard"))


def check_lora(tried: Tried) -> Facts:
    out, expected = train(tried, "lora", "--method", "npo", "--lora", 4)
    with safe_open(out / "adapter" / "adapter_model.safetensors", "pt") as held:
        # An adapter of a parameter that is no layer of its own stands under the layer that holds it.
        keys = [name.removesuffix(".lora_A.weight") for name in held.keys() if name.endswith(".lora_A.weight")]  # noqa: SIM118
    layers = [name.removesuffix(".base_layer") for name in keys]
    return {**after_training(tried, out, expected), "layers": sorted({n.split(".")[-1] for n in layers}), "count": len(layers)}


def check_rmu(tried: Tried) -> Facts:
    out, expected = train(tried, "rmu", "--method", "rmu", "--option", "layer=1", "--tokens", "hard")
    return after_training(tried, out, expected)


def after_training(tried: Tried, out: Path, expected: torch.Tensor | None) -> Facts:
    """The folder loads in transformers, with the tensors of the start model, and has the logits of the trained one."""
    from transformers import AutoModelForCausalLM

    # Eager attention: the other kinds leave out the soft cap of Gemma 2's scores without a word.
    start = AutoModelForCausalLM.from_pretrained(tried.model, attn_implementation="eager")
    loaded: Any = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, attn_implementation="eager")
    written, info = loaded
    if any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise Wrong(f"the written folder does not fit the architecture: {info}")
    assert expected is not None, "a run that ends with 0 has written"
    found, before = logits(written), logits(start)
    moved, far = (expected - before).abs().max().item(), (expected - found).abs().max().item() / expected.abs().max().item()
    if not torch.isfinite(found).all() or moved == 0 or far > SAME:
        raise Wrong(f"the written model is {far:.1e} from the trained one, which moved by {moved:.1e}")
    return {"moved": moved, "written": far}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Of a fixed text; the mode of the model stays."""
    return model(input_ids=torch.tensor([[(11 * i + 5) % 300 for i in range(24)]]), use_cache=False).logits[0].float()


def check_resume(tried: Tried) -> Facts:
    """Told to stop after its second pass, and taken up again, a run leaves the weights of the undisturbed one."""
    from tu_train import loop

    forward, calls = loop.forward_pass, []

    def told(*given: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*given)

    loop.forward_pass = told
    try:
        train(tried, "resumed", "--method", "npo", "--tokens", "hard", code=SAVED)
    finally:
        loop.forward_pass = forward
    out, _ = train(tried, "resumed", "--method", "npo", "--tokens", "hard", "--resume", fresh=False)
    files = sorted(p.name for p in out.glob("*.safetensors"))
    if any((out / name).read_bytes() != (tried.folder / "full" / name).read_bytes() for name in files):
        raise Wrong("a resumed run left other weights than an undisturbed one")
    return {}


# --- evaluating


def check_evaluate(tried: Tried) -> Facts:
    out = tried.fresh("evaluated")
    command("tu-eval", "run", "--model", tried.folder / "full", "--suite", tried.data / "suite.toml", "--device", "cpu", "--engine",
            "torch", "--template", "auto", "--set", "max_new_tokens=8", "--out", out)  # fmt: skip
    found = json.loads((out / "summary.json").read_text())["metrics"]
    wanted = {f"{s}_{kind}": found[f"{s}_{kind}"] for s in ("forget", "retain") for kind in ("probability", "rouge", "truth_ratio")}
    if any(value is None or not np.isfinite(value) for value in wanted.values()):
        raise Wrong(f"tu-eval run left {wanted}")
    return {}


def check_writes(tried: Tried) -> Facts:
    """Greedy text of several prompts at once against one token at a time, without any cache."""
    engine = TorchEngine.load(tried.model, device="cpu")
    model, prompts = engine.packed.model, [[(7 * i + k) % 200 + 10 for i in range(6 + 9 * k)] for k in range(3)]
    found = engine.generate(prompts, max_new_tokens=10, stop_ids=[0])
    for prompt, text in zip(prompts, found, strict=True):
        ids = list(prompt)
        for token in text:
            with torch.inference_mode():
                z = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            if z.max() - z[token] > SAME:
                raise Wrong(f"greedy text differs from a plain loop at token {len(ids)}")
            ids.append(token)
    return {"cached": bool(engine.writer and engine.writer.cached)}


CHECKS: dict[str, Callable[[Tried], Facts]] = {
    "score": check_score, "spans": check_spans, "full": check_full, "lora": check_lora, "rmu": check_rmu, "resume": check_resume,
    "evaluate": check_evaluate, "writes": check_writes,
}  # fmt: skip


def check_vllm(tried: Tried) -> Facts:
    """Both engines on the model, and vLLM on the unlearned folder. A vLLM lives in a process: this wants one of its
    own."""
    out = score(tried, "vllm", "--spans", "question", engine="vllm")
    far = max(largest_gap(column(out, name), column(tried.folder / "scores", name)) for name in ("logprob", "entropy"))
    if far > CLOSE:
        raise Wrong(f"vLLM is {far:.1e} nats from the torch engine")
    trained = Tried(tried.family, tried.folder / "of-trained")
    trained.folder.mkdir(exist_ok=True)
    for name, there in (("model", "full"), ("data", "data")):
        if not (trained.folder / name).exists():
            (trained.folder / name).symlink_to(tried.folder / there, target_is_directory=True)
    after = farthest_from_plain(score(trained, "vllm", engine="vllm"), trained.model)
    if after > CLOSE:
        raise Wrong(f"of the unlearned folder vLLM is {after:.1e} nats from plain passes")
    return {"far": far, "trained": after}
