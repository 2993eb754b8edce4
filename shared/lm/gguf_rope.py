"""Some models read positions with scaled frequencies, which transformers does not read from a GGUF file: Llama 3.1 and
later by wave length (the file holds the scale of each frequency, rope_freqs, and transformers wants the rule that it
was made by), others by a rule that the file names (rope.scaling.type)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from shared.console import say
from shared.lm.gguf_header import Header

SCALES = "rope_freqs.weight"
LOW, HIGH, LEARNED = 1.0, 4.0, 8192
"""low_freq_factor, high_freq_factor and original_max_position_embeddings of every Llama since 3.1"""
CLOSE = 1e-4
"""relative"""


def put_scaling(name: str, config: Any, header: Header, file: Path) -> None:
    """Writes Llama's rule into the configuration where the file's scales are those of the rule, and the linear rule
    where the file names it; says that the rule is lost where it is another."""
    kind, factor, rope = header.own("rope.scaling.type"), header.own("rope.scaling.factor"), getattr(config, "rope_parameters", None)
    named = kind not in (None, "none")
    if not named and not any(tensor.startswith("rope_") for tensor in header.elements):
        return
    rope = rope if isinstance(rope, dict) else {}
    if named and rope.get("rope_type") == kind:
        return  # transformers has read it
    plain = rope.get("rope_type") == "default"
    if kind == "linear" and plain and isinstance(factor, int | float) and factor > 0:
        config.rope_parameters = {**rope, "rope_type": "linear", "factor": float(factor)}
        return
    if not named and SCALES in header.elements and plain:
        from gguf import GGUFReader

        scales = [float(value) for tensor in GGUFReader(file).tensors if tensor.name == SCALES for value in tensor.data]
        wanted = llama3(max(scales), rope["rope_theta"], len(scales))
        if all(math.isclose(a, b, rel_tol=CLOSE) for a, b in zip(scales, wanted, strict=True)):
            config.rope_parameters = {**rope, "rope_type": "llama3", "factor": max(scales), "low_freq_factor": LOW,
                                      "high_freq_factor": HIGH, "original_max_position_embeddings": LEARNED}  # fmt: skip
            return
    say(f"model {name}: its GGUF file scales positions by a rule that transformers does not read from it; "
        "tokens far apart are read otherwise than by the model it was made from")  # fmt: skip


def llama3(factor: float, theta: float, count: int) -> list[float]:
    """By what each of `count` frequencies is divided: short waves by 1, long ones by `factor`, those between by a
    blend."""
    scales = []
    for i in range(count):
        wave = 2 * math.pi * theta ** (i / count)
        blend = (LEARNED / wave - LOW) / (HIGH - LOW)
        scales.append(1.0 if blend > 1 else factor if blend < 0 else 1 / ((1 - blend) / factor + blend))
    return scales
