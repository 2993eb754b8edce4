"""What all results folders share: a row, and the membership inference columns."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus", "reference", "gradient_norm")
"""columns of membership.parquet; a metric is called mia_ and the name, and is its AUC"""
