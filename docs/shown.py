"""The commands that a page shows, for whatever runs or checks them."""

from __future__ import annotations

import re

START = re.compile(r"(?:[A-Z_]+=\S+ +)*(?=(?:for \w+ in .*?; do )?tu-(?:score|train|eval) )")


def shown(page: str) -> list[str]:
    """All lines of the blocks, indented or fenced, that are commands of ours, or loops over one; a backslash at the end
    goes on in the next line. Variables that are set before a command are left out."""
    found, fenced = [], False
    for line in page.replace("\\\n", " ").splitlines():
        fenced ^= line.lstrip().startswith("```")
        if (fenced or line.startswith("    ")) and (start := START.match(line.strip())):
            found.append(line.strip()[start.end() :])
    return found
