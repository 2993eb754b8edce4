"""What an engine should answer, from a plain transformers forward of each request alone and float64 from its logits
on."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from shared.engines.interface import Request, TokenScores
from shared.lm.logprobs import HeadOptions


def distributions(folder, asked: list[Request]) -> list[torch.Tensor]:
    """For each request the distribution at each wanted position: [W, V] log-probabilities."""
    from transformers import AutoModelForCausalLM

    # Eager: what transformers takes by itself ignores Gemma's cap on attention scores.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    out = []
    for request in asked:
        with torch.inference_mode():
            logits = model(torch.tensor([request.ids])).logits[0].double()
        out.append(logits[torch.tensor(request.wanted, dtype=torch.long) - 1].log_softmax(-1))
    return out


def entropy_of(logp: torch.Tensor) -> np.ndarray:
    return -(logp.exp() * logp).sum(-1).numpy()


def assert_true(
    asked: list[Request], scores: list[TokenScores], truth: list[torch.Tensor], head: HeadOptions, *, largest: float, mean: float
) -> None:
    """Every signal of every answer within `largest` nats, and within `mean` nats in the mean."""
    gaps: dict[str, list[np.ndarray]] = {"logprob": [], "entropy": [], "tempered": [], "top": []}
    for request, found, logp in zip(asked, scores, truth, strict=True):
        target = torch.tensor([request.ids[p] for p in request.wanted], dtype=torch.long)
        gaps["logprob"].append(found.logprob - logp.gather(1, target[:, None])[:, 0].numpy())
        gaps["entropy"].append(found.entropy - entropy_of(logp))
        if not request.extras:
            assert found.tempered is found.top_ids is found.top_logprobs is None
            continue
        gaps["tempered"].append(found.tempered - entropy_of((logp / head.temperature).log_softmax(-1)))
        gaps["top"] += top_gaps(found, logp, head.top_k)
    for name, parts in gaps.items():
        gap = np.abs(np.concatenate(parts)) if parts else np.zeros(1)
        assert gap.max() <= largest and gap.mean() <= mean, f"{name}: {gap.max():.3g} largest, {gap.mean():.3g} mean"


def top_gaps(found: TokenScores, logp: torch.Tensor, k: int) -> list[np.ndarray]:
    """Tokens of almost the same probability may change places, so each is compared by its own probability and by its
    rank's."""
    assert found.top_ids.shape == found.top_logprobs.shape == (len(logp), k) and found.top_ids.dtype == np.int32
    assert all(len(set(row)) == k for row in found.top_ids.tolist())
    own, ranked = logp.gather(1, torch.from_numpy(found.top_ids).long()), logp.topk(k).values
    return [(found.top_logprobs - values.numpy()).ravel() for values in (own, ranked)]


def furthest(scores: list[TokenScores], other: list[TokenScores]) -> float:
    """Largest difference of log-probability and entropy, nats."""
    assert [len(a.logprob) for a in scores] == [len(b.logprob) for b in other]
    pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(scores, other, strict=True) for name in ("logprob", "entropy")]
    return max((float(np.abs(a - b).max()) for a, b in pairs if len(a)), default=0.0)


def break_one_token(model: Path, to: Path) -> tuple[Path, Path]:
    """A copy of a model in which one token's embedding is not a number, and three rows of data of which the second
    holds it."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    folder, data = shutil.copytree(model, to / "model"), to / "rows.jsonl"
    rows = [{"question": "Who is it?", "answer": answer} for answer in ("Ann.", "It is z.", "Bob is a baker.")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][AutoTokenizer.from_pretrained(folder)("z")["input_ids"][-1]] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder, data
