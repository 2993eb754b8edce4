"""How long the text of a row is, by which rows are cut into the parts that are shuffled one by one: nothing has to be
tokenised to know them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.data.datasets import Row

PART_TOKENS = 65_536
"""of text in a part, unless another size is asked for"""
TOKEN_BYTES = 4
"""of UTF-8 that count as one token where rows are cut into parts: English has about so many, Chinese three"""
ROW_BYTES = 96
"""that the template of a question and its answer counts for"""


def text_bytes(row: Row) -> int:
    """UTF-8 bytes of what a model reads of a row, the template aside."""
    texts = [row.question or "", row.answer, *(text for _, text in row.before)]
    return sum(len(text.encode(errors="surrogatepass")) for text in texts)


def row_bytes(row: Row) -> int:
    """The same with the template."""
    return text_bytes(row) + (ROW_BYTES if row.question is not None else 0)


class Parts:
    """Which part each row is of, as rows come: a part is closed before the row that it has no room for."""

    def __init__(self, tokens: int = PART_TOKENS):
        self.budget, self.part, self.size = tokens * TOKEN_BYTES, 0, 0

    def place(self, row: Row) -> int:
        """Number of its part; a row that is longer than a part stands alone."""
        own = row_bytes(row)
        if self.size and self.size + own > self.budget:
            self.part, self.size = self.part + 1, 0
        self.size += own
        return self.part
