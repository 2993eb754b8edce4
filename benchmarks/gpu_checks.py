"""What benchmarks/gpu.py checks: numbers of a device against numbers that do without what is being checked."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_models import FAMILIES, FORGET, RETAIN, SMALL, TINY, random_items, saved
from shared.lm.logprobs import Head, target_logprobs
from shared.lm.models import load_model
from shared.lm.packed import PackedModel
from tu_train.methods.table import METHODS

Found = dict[str, tuple[float, float]]
"""name -> largest difference, and what it may be at most"""
STEPS, LEARNING_RATE = 2, 1e-3
OPTIONS: dict[str, dict[str, Any]] = {
    "rmu": {"options": {"layer": 2.0}},
    "altpo": {"alternate_key": "perturbed_answer"},
}
"""what methods need to be told here: models have three blocks"""


@dataclass
class Place:
    """Where checks run, and what they share."""

    device: torch.device
    folder: Path
    tiny: bool

    @cached_property
    def model(self) -> Path:
        return saved(self.folder / "model", TINY if self.tiny else SMALL)

    @cached_property
    def scores(self) -> Path:
        """By the CPU, in float32."""
        from tu_score.config import ScoreConfig
        from tu_score.run import run_score

        out = self.folder / "scores"
        run_score(ScoreConfig(model=str(self.model), data=FORGET, out=str(out), engine="torch", device="cpu"))
        return out


def apart(found: Tensor, expected: Tensor) -> float:
    """The distance relative to the length of what is expected, on the CPU in float64."""
    a, b = (x.detach().double().cpu() for x in (found, expected))
    return ((a - b).norm() / b.norm()).item()


def attention(place: Place) -> Found:
    """Hidden states and gradients of one packed row with shared prefixes against each sequence by itself, as
    transformers computes it."""
    shape = TINY if place.tiny else SMALL
    sequences = [item.ids[: 30 + 7 * k] for k, item in enumerate(random_items(6, shape.vocabulary, 60, 1))]
    sequences += [[*sequences[-1][:60], 5, 9, 2, 7], sequences[0]]
    out: Found = {}
    for family in FAMILIES:
        folder = saved(place.folder / family, shape, family)
        for dtype, bounds in ((torch.float32, (1e-4, 1e-3)), (torch.bfloat16, (4e-2, 8e-2))):
            packed = PackedModel(load_model(folder, dtype=dtype, device=place.device))
            if not packed.packs:
                packed._packed(sequences)  # raises what kept it from being packed, where something did
                raise AssertionError(f"{family}, {dtype}: its sequences are not packed, numbers of a packed row are wrong")
            hidden_LD, slots = packed.hidden(sequences)
            ours = torch.cat([hidden_LD[rows] for rows in slots])
            got = _gradient(packed, ours)
            plain = [packed.backbone(input_ids=torch.tensor([s], device=place.device), use_cache=False) for s in sequences]
            theirs = torch.cat([one.last_hidden_state[0] for one in plain])
            name = f"{family} {str(dtype).removeprefix('torch.')}"
            out[name] = apart(ours, theirs), bounds[0]
            out[f"{name}, gradient"] = apart(got, _gradient(packed, theirs)), bounds[1]
    return out


def _gradient(packed: PackedModel, hidden_ND: Tensor) -> Tensor:
    """Of all weights of the blocks, one after another, of a random sum of the hidden states."""
    names, weights = zip(*((n, p) for n, p in packed.backbone.named_parameters() if "layers" in n), strict=True)
    like = torch.randn(hidden_ND.shape, generator=torch.Generator().manual_seed(0)).to(hidden_ND)
    return torch.cat([g.flatten().float() for g in torch.autograd.grad((hidden_ND * like).sum(), weights)]) if names else hidden_ND


def head(place: Place) -> Found:
    """Log-probabilities and gradients of the head in blocks against all logits at once, in float64 on the CPU."""
    count, width, vocabulary = (40, 64, 3000) if place.tiny else (700, 576, 49_152)
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(count, width, generator=draw), torch.randn(vocabulary, width, generator=draw) * width**-0.5
    target, pull = torch.randint(vocabulary, (count,), generator=draw), torch.randn(count, generator=draw)
    out: Found = {}
    for dtype, softcap, bounds in (
        (torch.float32, None, (1e-4, 1e-4)), (torch.float32, 3.0, (1e-4, 1e-4)), (torch.bfloat16, None, (0.1, 4e-2))
    ):  # fmt: skip
        low = [x.to(dtype) for x in (hidden, weight)]
        h, w = (x.double().detach().requires_grad_() for x in low)
        z = h @ w.T
        z = z if softcap is None else torch.tanh(z / softcap) * softcap
        expected = z.log_softmax(-1).gather(1, target[:, None])[:, 0]
        (expected * pull).sum().backward()
        mine = [x.to(place.device).clone().requires_grad_() for x in low]
        found = target_logprobs(mine[0], target.to(place.device), Head(mine[1], softcap=softcap))
        (found * pull.to(place.device)).sum().backward()
        name = f"{str(dtype).removeprefix('torch.')}{'' if softcap is None else ', soft cap'}"
        out[name] = (found.cpu().double() - expected).abs().max().item(), bounds[0]
        assert mine[0].grad is not None and mine[1].grad is not None and h.grad is not None and w.grad is not None
        out[f"{name}, gradient"] = max(apart(mine[0].grad, h.grad), apart(mine[1].grad, w.grad)), bounds[1]
    return out


def trained(place: Place, method: str, device: str, **fields: Any) -> tuple[list[dict[str, float]], Tensor]:
    """-> the log, and how far each trained weight went, in a row."""
    from tu_train.config import UnlearnConfig
    from tu_train.gather import gather_unlearning
    from tu_train.load import load, with_answers
    from tu_train.loop import train
    from tu_train.plan import plan_unlearning

    given = {"retain": RETAIN, "tokens": "soft", "batch_size": 4, "steps": STEPS, "learning_rate": LEARNING_RATE, "device": device}
    log = place.folder / "log.jsonl"
    log.unlink(missing_ok=True)
    config = UnlearnConfig(model=str(place.model), scores=str(place.scores), out=str(place.folder / "none"), method=method,
                           **{**given, **OPTIONS.get(method, {}), **fields}).filled()  # fmt: skip
    plan = plan_unlearning(config, gather_unlearning(config))
    loaded = load(plan)
    plan = with_answers(plan, loaded.packed)
    weights = [p for p in loaded.packed.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in weights]
    train(loaded.packed, plan.stream, plan.steps, plan.objective, config, log, reference=loaded.reference)
    moved = torch.cat([(p.detach() - start).flatten().cpu() for p, start in zip(weights, before, strict=True)])
    return [json.loads(line) for line in log.read_text().splitlines()], moved


def compared(found: tuple[list[dict[str, float]], Tensor], expected: tuple[list[dict[str, float]], Tensor], bounds: tuple[float, float]):
    """-> (largest difference of a loss or gradient norm, relative to the largest of the run; its bound), and that of
    the way that the weights went."""
    worst = 0.0
    for key in ("loss", "gradient_norm"):
        a, b = ([entry[key] for entry in log] for log in (found[0], expected[0]))
        worst = max(worst, max(abs(x - y) for x, y in zip(a, b, strict=True)) / max(map(abs, b)))
    return (worst, bounds[0]), (apart(found[1], expected[1]), bounds[1])


FLOAT32 = (2e-4, 0.05)
"""losses, and the way of the weights: Adam makes a whole step of a gradient that is nothing but rounding"""


def methods(place: Place) -> Found:
    """Steps of every method in packed passes against the CPU's in float32, there a row and its retain row at a time."""
    out: Found = {}
    for method in METHODS:
        expected = trained(place, method, "cpu", batch_tokens=1)
        out[method], out[f"{method}, weights"] = compared(trained(place, method, str(place.device)), expected, FLOAT32)
    return out


def forms(place: Place) -> Found:
    """The same steps of NPO with activations kept and in bfloat16."""
    out: Found = {}
    expected = trained(place, "npo", "cpu", batch_tokens=1)
    kept = trained(place, "npo", str(place.device), checkpointing=False)
    out["activations kept"], out["activations kept, weights"] = compared(kept, expected, FLOAT32)
    out["bfloat16"], out["bfloat16, weights"] = compared(trained(place, "npo", str(place.device), dtype="bfloat16"), expected, (5e-2, 0.5))
    return out


def resume(place: Place) -> Found:
    """The real command, told to stop after its second step, then resumed: weights and log against an undisturbed
    run."""
    from safetensors.torch import load_file

    from tu_train.config import UnlearnConfig
    from tu_train.run import run_unlearn

    def run(name: str, **fields: Any) -> Path:
        return run_unlearn(UnlearnConfig(
            model=str(place.model), scores=str(place.scores), retain=RETAIN, out=str(place.folder / name), tokens="hard", steps=4,
            batch_size=3, learning_rate=LEARNING_RATE, device=str(place.device), **fields,
        ))  # fmt: skip

    whole = run("whole")
    with _after_optimizer_step(2, lambda: signal.raise_signal(signal.SIGTERM)):
        try:
            run("halved")
        except SystemExit as left:
            assert left.code == 75, f"a run that was told to stop ended with {left.code}"
        else:
            raise AssertionError("a run that was told to stop went on")
    halved = run("halved", resume=True)
    (a, b), start = (load_file(folder / "model.safetensors") for folder in (halved, whole)), load_file(place.model / "model.safetensors")
    way, wanted = (torch.cat([(end[name].double() - start[name].double()).flatten() for name in sorted(end)]) for end in (a, b))
    logs = [[json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (halved, whole)]
    worst = max(abs(x - y) for x, y in zip(*logs, strict=True)) / max(map(abs, logs[1]))
    # On a CPU the same bytes; a GPU adds up some gradients in any order.
    return {"losses": (worst, 0.0 if place.device.type == "cpu" else FLOAT32[0]),
            "weights": (apart(way, wanted), 0.0 if place.device.type == "cpu" else FLOAT32[1])}  # fmt: skip


@contextmanager
def _after_optimizer_step(number: int, do: Callable[[], None]) -> Iterator[None]:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    count = 0

    def stepped(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            do()

    handle = register_optimizer_step_post_hook(stepped)
    try:
        yield
    finally:
        handle.remove()


CHECKS: dict[str, Callable[[Place], Found]] = {
    "attention": attention, "head": head, "methods": methods, "forms": forms, "resume": resume
}  # fmt: skip
