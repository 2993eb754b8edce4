"""Which way a metric of tu-eval is better, told from its name. It stands here because training may ask (--keep-best)
and knows nothing of the evaluator; a test holds it against the evaluator's own columns."""

from __future__ import annotations

from shared.errors import ConfigError

TO_RETAIN = ("mia_", "privleak")
"""how metrics begin whose goal is the retain model's value, so that neither end of their scale is best"""
CANNOT_TELL = ("forget_truth_ratio",)
"""of the forget set, but high where the model cannot tell right from wrong answers"""


def lower_is_better(metric: str) -> bool:
    """Raises ConfigError for a metric of which neither end is best."""
    if metric.startswith(TO_RETAIN):
        raise ConfigError(f"--keep-best {metric}: its goal is the value of the retain model, so that no end of its scale is best; "
                          "choose another metric, such as model_utility")  # fmt: skip
    return metric.startswith("forget_") and metric not in ("forget_quality", *CANNOT_TELL)
