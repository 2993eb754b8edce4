"""Forget quality: can the truth ratios of the forget set be told from those of a model that never saw it?

Source: TOFU (arXiv 2401.06121), section 2.2.2: the p-value of a two-sample Kolmogorov–Smirnov test.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import StoreError


def forget_quality(log_ratios: Sequence[float], retain_log_ratios: Sequence[float]) -> float:
    """p-value, 0 to 1, of [rows] against [rows]. High: indistinguishable from the retain model.

    The test looks at the order of the values only, so log R serves as well as R and cannot overflow.
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(list(log_ratios), list(retain_log_ratios)).pvalue)  # type: ignore[attr-defined]


def require_same_rows(ids: Sequence[str], retain_ids: Sequence[str], *, where: str) -> None:
    """Raises StoreError naming the first example id that differs between this run and the retain results at `where`."""
    for i in range(max(len(ids), len(retain_ids))):
        mine = ids[i] if i < len(ids) else "no row"
        theirs = retain_ids[i] if i < len(retain_ids) else "no row"
        if mine != theirs:
            raise StoreError(f"--retain-results {where}: forget row {i} is {theirs} there, {mine} here; evaluate the retain model again")
