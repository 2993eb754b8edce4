"""How a row becomes the text that a model reads: chat template or plain text, system prompt, date, beginning token.

One setting for every command. `lay_out` ties it to the tokenizer, so that whoever holds the tokenizer lays rows out in
the same way, and its fingerprint stands in stores, checkpoints and results. Nothing here depends on the day: templates
that write today's date get a constant one. Text of the data stays text: what looks like a control token in it is cut
into ordinary tokens, or the row is refused.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

from shared.console import say
from shared.errors import ConfigError, DataError, ModelError
from shared.files.fs import hash_json
from shared.settings import About

DATE = "2024-07-26"
"""what Llama's own templates write where they know no date"""
QUESTION, ANSWER = "Question: {question}\n", "Answer: "
PLAIN = QUESTION + ANSWER
BARE = "{question} "
WRITES_DATE = re.compile(r"strftime_now|date_string")
Turn = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class LayoutOptions:
    """How rows are laid out. None: the default; with a score store what it was scored with."""

    template: Annotated[str | None, About(flag=True, default="auto, or as it was scored")] = None
    """auto (the tokenizer's chat template where it has one, else plain), model (its chat template, refused where it has
    none), plain (`Question: …`, `Answer: …`), bare (the question as it stands, a space, the answer), or the name of one
    of several templates"""
    system: Annotated[str | None, About(flag=True, default="the chat template's own")] = None
    """system prompt of rows without a column `system` of their own"""
    template_date: Annotated[str | None, About(default=DATE)] = None
    """YYYY-MM-DD, the date for chat templates that write today's: a fixed one, so that tomorrow's tokens are today's"""
    template_options: dict[str, Any] | None = None
    """variables of the chat template, as in {enable_thinking = false}"""
    beginning_token: Annotated[Literal["auto", "add"] | None, About(default="auto")] = None
    """auto: where the tokenizer or the chat template puts one; add: before every text that does not begin with it"""


LAYOUT_FIELDS = tuple(LayoutOptions.__dataclass_fields__)


class FixedDate:
    """`strftime_now` of chat templates, on one day; %b and %B in English."""

    def __init__(self, day: datetime.date):
        self.day = day

    def __call__(self, form: str) -> str:
        return self.day.strftime(form)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """LayoutOptions, resolved for one tokenizer."""

    template: str | None
    """source of the chat template; None: plain text"""
    plain: str = PLAIN
    """how plain text puts a question"""
    system: str | None = None
    date: str = DATE
    """YYYY-MM-DD"""
    options: Mapping[str, Any] = field(default_factory=dict)
    beginning: int | None = None
    """id put before every text that does not begin with it; None: nothing is put there"""
    named: int | None = None
    """the beginning token that tokenizer or configuration name"""
    rows: int | None = None
    """ids that the model's embedding has, 0 to rows − 1; a tokenizer may have more (tokens added without resizing).
    None: not known"""

    @property
    def writes_date(self) -> bool:
        return self.template is not None and bool(WRITES_DATE.search(self.template))

    def variables(self) -> dict[str, Any]:
        """What the chat template is given beside the turns."""
        if not self.writes_date:
            return dict(self.options)
        today = FixedDate(datetime.date.fromisoformat(self.date))
        return {"strftime_now": today, "date_string": today("%d %b %Y"), **self.options}

    def describe(self) -> dict[str, Any]:
        """What differs from the defaults and changes tokens, as JSON values."""
        differs = {
            "system": self.system,
            "date": self.date if self.writes_date and self.date != DATE else None,
            "options": dict(self.options) or None,
            "beginning": self.beginning,
        }
        return {k: v for k, v in differs.items() if v is not None}

    def fingerprint(self) -> str:
        """sha256 of everything that decides a row's text; by default of the chat template alone, or of `plain` or
        `bare`."""
        template, more = self.template or ("bare" if self.plain == BARE else "plain"), self.describe()
        return hash_json([template, more] if more else template)


def layout_of(tokenizer: Any) -> Layout:
    """What `lay_out` has tied to a tokenizer, or the defaults. Raises ModelError where several templates wait to be
    chosen from."""
    return getattr(tokenizer, "layout", None) or Layout(template=_template(tokenizer, "auto"))


def lay_out(tokenizer: Any, options: LayoutOptions, *, model: str, names_beginning: int | None = None, rows: int | None = None) -> Any:
    """Ties the options to the tokenizer, and returns it.

    `names_beginning`: the beginning token that the model's configuration names; `rows`: ids that its embedding has.
    Raises ConfigError or ModelError naming the option.
    """
    try:
        date = datetime.date.fromisoformat(options.template_date or DATE).isoformat()
    except ValueError:
        raise ConfigError(f"--set template_date={options.template_date}: expected a date as YYYY-MM-DD") from None
    template = _template(tokenizer, options.template or "auto", model)
    variables = dict(options.template_options or {})
    if template is None and variables:
        raise ConfigError(f"template_options: {model} is asked in plain text, which has none; drop them, or choose --template model")
    named = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else names_beginning
    adds = options.beginning_token == "add"  # noqa: S105
    if adds and named is None:
        raise ConfigError(f"--set beginning_token=add: neither the tokenizer nor the configuration of {model} names a beginning token")
    layout = Layout(
        template=template,
        plain=BARE if options.template == "bare" else PLAIN,
        system=options.system or None,
        date=date,
        options=variables,
        beginning=named if adds else None,
        named=named,
        rows=rows,
    )
    tokenizer.layout = layout
    return tokenizer


def dated(tokenizer: Any) -> dict[str, str]:
    """The date, where the chat template writes one, as it stands among the options of a manifest."""
    layout = layout_of(tokenizer)
    return {"template_date": layout.date} if layout.writes_date else {}


def as_scored(options: LayoutOptions, recorded: Mapping[str, Any]) -> LayoutOptions:
    """The options with those that are not given taken from a store's manifest, so that what follows a store reads as it
    did."""
    given = {name: getattr(options, name) for name in LAYOUT_FIELDS}
    return LayoutOptions(**{name: recorded.get(name) if value is None else value for name, value in given.items()})


def _template(tokenizer: Any, choice: str, model: str = "this model") -> str | None:
    """Source of the chat template that `choice` names; None for plain text."""
    found = tokenizer.chat_template or None
    if choice in ("plain", "bare") or (choice == "auto" and found is None):
        return None
    if found is None:
        asked = "" if choice == "model" else f" named {choice!r}"
        raise ConfigError(f"model {model}: its tokenizer has no chat template{asked}; to ask in plain text, use --template plain")
    named = found if isinstance(found, Mapping) else {"default": found}
    wanted = "default" if choice in ("auto", "model") else choice
    if wanted not in named:
        there = ", ".join(sorted(named))
        what = "has several chat templates and none called default" if choice in ("auto", "model") else f"has no chat template {choice!r}"
        raise ConfigError(f"model {model}: its tokenizer {what}; choose with --template NAME, of: {there}, plain")
    return named[wanted]


def say_layout(tokenizer: Any, model: str) -> None:
    """Says in one line how rows are laid out, and in another what may be wrong with it."""
    layout = layout_of(tokenizer)
    form = "as they stand, question and answer" if layout.plain == BARE else "as plain text (Question: …, Answer: …)"
    parts = ["in the model's chat template" if layout.template else form]
    if layout.system is not None:
        parts.append(f"system prompt {layout.system[:40]!r}{'…' if len(layout.system) > 40 else ''} where a row has none of its own")
    if layout.writes_date:
        parts.append(f"date {layout.date}")
    parts += [f"{name}={value!r}" for name, value in layout.options.items()]
    first = _first(tokenizer, layout)
    parts.append(f"texts begin with {tokenizer.convert_ids_to_tokens(first)}" if first is not None else "no beginning token before a text")
    say(f"{model}: rows are laid out {', '.join(parts)}")
    if layout.named is not None and first != layout.named:
        name = tokenizer.convert_ids_to_tokens(layout.named)
        say(
            f"{model}: its configuration names the beginning token {name}, but its tokenizer puts none "
            "before a text; where the model was trained with it, numbers are wrong without: --set beginning_token=add puts it there"
        )


def _first(tokenizer: Any, layout: Layout) -> int | None:
    """The special token that texts begin with."""
    if layout.template is None:
        ids = encode(tokenizer, "a", None).ids
    else:
        try:
            ids = encode(tokenizer, render(tokenizer, turns_of("a", "b", layout.system)), []).ids
        except DataError:  # wants a system prompt, say, which the rows may have
            return None
    return ids[0] if ids and ids[0] in special_ids(tokenizer) else None


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of every special token, those without a role included: Phi-3's <|end|> ends a turn, and all_special_ids
    leaves it out."""
    return {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}


@dataclass(frozen=True)
class Special:
    """The special tokens of a tokenizer: their ids, and a pattern of how they are written, the longest first."""

    key: tuple
    ids: frozenset[int]
    written: re.Pattern[str]


_SPECIAL: WeakKeyDictionary[Any, Special] = WeakKeyDictionary()


def _special(tokenizer: Any) -> Special:
    """Kept for each tokenizer: some have hundreds, and every row asks. Adding a token or changing a role makes it
    anew."""
    key = (len(tokenizer), tuple(map(str, tokenizer.special_tokens_map.values())))
    kept = _SPECIAL.get(tokenizer)
    if kept is None or kept.key != key:
        added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        texts = sorted({*added.values(), *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        kept = _SPECIAL[tokenizer] = Special(key, frozenset(special_ids(tokenizer)), pattern)
    return kept


def render(tokenizer: Any, turns: Sequence[Turn], *, asks: bool = False) -> str:
    """The text of a conversation in the chat template; `asks`: up to where the next answer begins.

    Raises ModelError for a template that cannot be read, DataError for turns that it refuses.
    """
    import jinja2

    layout = layout_of(tokenizer)
    try:
        return tokenizer.apply_chat_template(
            list(turns), chat_template=layout.template, tokenize=False, add_generation_prompt=asks, **layout.variables()
        )
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template cannot be read: line {error.lineno}: {error.message}; mend it, or use --template plain"
        ) from None
    except (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        why = " ".join(_without_turns(str(error), turns).split())[:200] or type(error).__name__
        has = any(turn["role"] == "system" for turn in turns)
        hint = "leave out --system and the column system" if has else "a system prompt can be given with --system TEXT"
        raise DataError(f"the chat template refuses these turns: {why}; {hint}, or use --template plain") from None


def _without_turns(text: str, turns: Sequence[Turn]) -> str:
    """A template may quote what it refuses, and that is text of the data."""
    for content in sorted((turn["content"] for turn in turns), key=len, reverse=True):
        text = text.replace(repr(content)[1:-1], "…").replace(content, "…") if content else text
    return text


def turns_of(question: str, answer: str, system: str | None, before: Sequence[tuple[str, str]] = ()) -> list[Turn]:
    """`before`: (role, text) of the turns between the system prompt and the question."""
    first = [{"role": "system", "content": system}] if system else []
    earlier = [{"role": role, "content": text} for role, text in before]
    return [*first, *earlier, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@dataclass(frozen=True)
class Encoded:
    """A text in tokens: ids, and where each lies in the text (characters, end-exclusive; empty for what the tokenizer
    adds)."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def encode(tokenizer: Any, text: str, contents: Sequence[tuple[int, int]] | None) -> Encoded:
    """Tokens of a laid-out text, in which the spans `contents` [start, end) come from the data and all else from the
    chat template.

    None: plain text, before which the tokenizer puts what it puts before every text. What looks like a control token
    inside `contents` becomes ordinary tokens. Raises DataError where this tokenizer cannot do that.
    """
    layout = layout_of(tokenizer)
    if contents is None:  # nothing in plain text is a control token
        return _begun(tokenizer, layout, _encode(tokenizer, text, add=True, split=True))
    known = _special(tokenizer)
    looks = [m.span() for a, b in contents for m in known.written.finditer(text, a, b)]
    found = _encode_apart(tokenizer, text, looks) if looks else _encode(tokenizer, text)
    unknown, special = tokenizer.unk_token_id, known.ids
    for token, (start, end) in zip(found.ids, found.offsets, strict=True):
        if token in special and token != unknown and start < end and any(a <= start and end <= b for a, b in contents):
            raise _unreadable(text[start:end])
    return _begun(tokenizer, layout, found)


def _encode(tokenizer: Any, text: str, *, add: bool = False, split: bool = False) -> Encoded:
    made = tokenizer(text, return_offsets_mapping=True, add_special_tokens=add, split_special_tokens=split)
    return Encoded(list(made["input_ids"]), [tuple(pair) for pair in made["offset_mapping"]])


def _begun(tokenizer: Any, layout: Layout, made: Encoded) -> Encoded:
    if layout.beginning is None or made.ids[:1] == [layout.beginning]:
        return made
    return Encoded([layout.beginning, *made.ids], [(0, 0), *made.offsets])


def _encode_apart(tokenizer: Any, text: str, looks: Sequence[tuple[int, int]]) -> Encoded:
    """Encodes what lies between the template's own control tokens piece by piece, as text. Whether this tokenizer cuts
    pieces as it cuts the whole is tried on the same text with letters in place of what looks like control tokens."""
    clean = text
    for start, end in looks:
        clean = clean[:start] + "x" * (end - start) + clean[end:]
    special, whole = special_ids(tokenizer), _encode(tokenizer, clean)
    borders = [(i, at) for i, at in zip(whole.ids, whole.offsets, strict=True) if i in special and at[0] < at[1]]
    if _pieces(tokenizer, clean, borders).ids != whole.ids:
        raise _unreadable(text[looks[0][0] : looks[0][1]])
    return _pieces(tokenizer, text, borders)


def _pieces(tokenizer: Any, text: str, borders: Iterable[tuple[int, tuple[int, int]]]) -> Encoded:
    out, at = Encoded([], []), 0
    for token, (start, end) in [*borders, (None, (len(text), len(text)))]:
        if at < start:
            made = _encode(tokenizer, text[at:start], split=True)
            out.ids.extend(made.ids)
            out.offsets.extend((a + at, b + at) for a, b in made.offsets)
        if token is not None:
            out.ids.append(token)
            out.offsets.append((start, end))
        at = end
    return out


def _unreadable(written: str) -> DataError:
    return DataError(
        f"its text holds {written!r}, which this tokenizer reads as a control token and cannot read as text; write it otherwise, "
        "remove the row, or use --template plain"
    )
