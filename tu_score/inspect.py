"""Examples in the terminal: prompt dim, targets shaded, the strongest bold and underlined (no meaning hangs on colour alone)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tu_score.shading import TOP_SHARE, ShadedExample, Token, iter_lines

COLD, HOT = (255, 247, 224), (232, 93, 4)
DIM = Style(dim=True)
INK = Color.from_rgb(20, 16, 8)


def print_examples(examples: Sequence[ShadedExample], signal: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    brackets = not console.is_terminal  # piped text has no bold: brackets stand in for it
    for example in examples:
        probability = math.exp(example.mean_logprob)
        console.print(Text(f"{example.id}", style="bold"), Text(f"  answer probability a token {probability:.3f}", style=DIM))
        text = Text()
        for line in iter_lines(example.tokens):
            for token in line:
                text.append(f"[{token.text}]" if brackets and token.top else token.text, style=_style(token))
            if line[-1].breaks:
                text.append("\n")
        console.print(text)
        console.print()
    strongest = "in brackets" if brackets else "bold and underlined"
    console.print(Text(f"shade: {signal} of the answer's tokens; the highest {TOP_SHARE:.0%} are {strongest}; ⏎ is a newline", style=DIM))


def _style(token: Token) -> Style:
    if not token.target:
        return DIM
    if token.shade is None:
        return Style()
    red, green, blue = (round(a + (b - a) * token.shade) for a, b in zip(COLD, HOT, strict=True))
    return Style(color=INK, bgcolor=Color.from_rgb(red, green, blue), bold=token.top, underline=token.top)
