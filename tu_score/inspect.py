"""What `tu-score inspect` shows.

In a terminal the prompt is dim and targets are shaded; the strongest are bold and underlined too, so that colour is not
all that tells them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from shared.errors import ConfigError, StoreError, printable
from shared.files.outputs import claimed_files
from shared.store.scores import Store
from tu_score import survey
from tu_score.heatmap import write_heatmap
from tu_score.shading import (
    SIGNALS,
    Shade,
    ShadedExample,
    find_signal,
    held_signals,
    iter_lines,
    missing,
    pushed,
    shade_rows,
    spread_rows,
    strongest,
    take_rows,
)
from tu_score.survey import BEFORE, TopToken, top_tokens

COLD, HOT = (255, 247, 224), (232, 93, 4)
DIM, STRONG = Style(dim=True), Style(bold=True, underline=True)
INK = Color.from_rgb(20, 16, 8)


def inspect_store(store: Store, *, example: str | None, rows: int, top: int | None, html: Path | None, signal: str) -> None:
    """Examples as text or as a page (`html`), or the `top` tokens. Raises ConfigError for flags that do not fit,
    StoreError for a signal that the store lacks."""
    find_signal(signal)
    if top is not None:
        if example is not None or html is not None:
            raise ConfigError("--top lists tokens of the whole store as text; leave out --example and --html")
        tokens = top_tokens(store, signal, top)
        if not tokens:
            raise StoreError(f"{store.folder}: {missing(signal)}")
        print_top(tokens, signal)
        return
    if html is not None:
        if not html.absolute().parent.is_dir():
            raise ConfigError(f"--html {html}: expected a file name in a folder that exists")
        with claimed_files({"--html": html}):
            drawn = example is None and store.manifest["tokens"] > survey.LARGE
            shown = spread_rows(store, rows) if drawn else take_rows(store, example=example, count=rows)
            write_heatmap(html, store, shown, signal, drawn=drawn)
        print(f"page: {html}")
        return
    chosen = take_rows(store, example=example, count=rows)
    selection = pushed(store, [signal])
    shaded = shade_rows(chosen, [signal] if signal in held_signals(list(chosen[0])) else [], selection)
    if not any(signal in e.shades and e.shades[signal].any for e in shaded):
        raise StoreError(f"{store.folder}: {missing(signal)}")
    print_examples(shaded, signal, strongest(signal, selection))


def print_examples(examples: Sequence[ShadedExample], signal: str, marked: str) -> None:
    """`marked`: which tokens stand out, in words."""
    console = Console(highlight=False, soft_wrap=True)
    brackets = not console.is_terminal  # piped text has no bold: brackets stand in for it
    for example in examples:
        probability = math.exp(example.mean_logprob)
        console.print(Text(printable(example.id), style="bold"), Text(f"  answer probability a token {probability:.3f}", style=DIM))
        console.print(_shaded(example, example.shades[signal], brackets))
        console.print()
    how = "in brackets" if brackets else "bold and underlined"
    console.print(Text(f"shade: {signal} of the answer's tokens; {how}: {marked}; ⏎ is a newline", style=DIM))


def print_top(tokens: Sequence[TopToken], signal: str) -> None:
    """One line a token: value, example, the token in brackets with what stands around it."""
    console = Console(highlight=False, soft_wrap=True)
    sign = "+" if SIGNALS[signal].signed else ""
    values = [f"{t.value:{sign}.4f}" for t in tokens]
    wide, long = max(map(len, values)), max(len(printable(t.example)) for t in tokens)
    for token, value in zip(tokens, values, strict=True):
        line = Text(f"{value:>{wide}}  {printable(token.example):<{long}}  ")
        line.append(token.before.rjust(BEFORE), style=DIM).append(f"[{token.text}]", style=STRONG).append(token.after, style=DIM)
        console.print(line)


def _shaded(example: ShadedExample, shade: Shade, brackets: bool) -> Text:
    text, of_target = Text(), {position: k for k, position in enumerate(example.targets)}
    for line in iter_lines(example.tokens):
        for position, token in line:
            k = of_target.get(position)
            top = k is not None and bool(shade.top[k])
            style = DIM if k is None else _style(float(shade.strength[k]), top)
            text.append(f"[{token.text}]" if brackets and top else token.text, style=style)
        if line[-1][1].breaks:
            text.append("\n")
    return text


def _style(strength: float, top: bool) -> Style:
    if math.isnan(strength):
        return Style()
    red, green, blue = (round(a + (b - a) * strength) for a, b in zip(COLD, HOT, strict=True))
    return Style(color=INK, bgcolor=Color.from_rgb(red, green, blue), bold=top, underline=top)
