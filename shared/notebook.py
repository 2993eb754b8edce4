"""A page of ours inside a notebook: a frame of its own, so that neither styles nor scripts of one touch the other."""

from __future__ import annotations

from html import escape


def framed(page: str, *, height: int = 620) -> str:
    """`page`: a whole HTML document that loads nothing. It runs without access to the notebook around it."""
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts" style="width: 100%; height: {height}px; border: 1px solid #8888; '
        'border-radius: 8px" title="token-unlearn"></iframe>'
    )
