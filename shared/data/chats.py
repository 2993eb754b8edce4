"""Conversations of the data -> turns, checked: OpenAI's form and ShareGPT's.

    {"messages": [{"role": "system" | "user" | "assistant", "content": TEXT}, ...]}
    {"conversations": [{"from": "system" | "human" | "gpt", "value": TEXT}, ...]}

A system turn may come first; then user and assistant take turns, and the last turn is an assistant's. Each answer that
is learned becomes a row of its own: its question is the turn before it, and all earlier turns are laid out before that
question. So a row means the same in every command, whether it was a turn of a conversation or not; the answers of one
conversation share their tokens as far as they agree, which scoring computes once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from shared.console import say
from shared.data.data_files import NAME
from shared.errors import DataError

COLUMNS = ("messages", "conversations", "conversation")
"""columns that are read as a conversation where a row has no question and no answer"""
SPEAKERS = {"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
OF_TOOLS = ("tool", "tools", "function", "tool_call", "tool_calls", "tool_response", "function_call", "function_response", "observation")
"""roles, and keys of a turn or a row, that belong to tools"""
KINDS = ("image_url", "image", "input_image", "input_audio", "audio", "video", "file", "input_file", "refusal")
"""kinds of parts of a content that a message may name"""
READ = {"role", "from", "content", "value", "weight"}
MOST_TURNS = 1000
"""of a conversation; a longer one is no conversation"""


@dataclass(frozen=True)
class Spoken:
    """One turn. The text is stripped, as chat templates do."""

    role: str
    """system, user or assistant"""
    text: str
    learned: bool = True
    """false for an assistant turn whose `weight` is 0: a context for others alone"""


@dataclass(frozen=True)
class Reply:
    """One answer of a conversation with what comes before it."""

    before: tuple[tuple[str, str], ...]
    """(role, text) of the turns before the question: a system turn or none, then pairs of user and assistant"""
    question: str
    answer: str


def answers_of(name: str, key: str, record: dict[str, Any], which: str) -> list[Reply]:
    """The answers of a row's conversation, the last or all. Raises DataError naming the row `name` and the column
    `key`."""
    for tool in OF_TOOLS:
        if record.get(tool):
            raise DataError(
                f"{name}: its column {tool} names tools, which are not read; remove the row, or the column where no turn calls one"
            )
    turns = _turns(f"{name}: ", key, record[key])
    said = [(turn.role, turn.text) for turn in turns]
    learned = [i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.learned]
    if not learned:
        raise DataError(f"{name}: every assistant turn of its column {key} has weight 0, so nothing is left to learn; remove the row")
    return [Reply(tuple(said[: i - 1]), said[i - 1][1], said[i][1]) for i in (learned if which == "all" else learned[-1:])]


def _turns(where: str, key: str, value: Any) -> list[Spoken]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}its column {key} is {'empty' if value in (None, [], '') else 'no list of turns'}; expected a list of "
                        "turns with role and content, or with from and value")  # fmt: skip
    if len(value) > MOST_TURNS:
        raise DataError(f"{where}its column {key} has {len(value)} turns, expected at most {MOST_TURNS}")
    turns = [_turn(f"{where}turn {number} of its {key}", entry) for number, entry in enumerate(value, 1)]
    turns = turns if turns[0].role != "system" or turns[0].text else turns[1:]  # an empty system prompt is none
    _check_order(where, key, [turn.role for turn in turns], len(value) - len(turns))
    _say_unread(tuple(sorted({k for entry in value for k, v in entry.items() if k not in READ and v and NAME.fullmatch(str(k))})[:5]), key)
    return turns


def _turn(where: str, entry: Any) -> Spoken:
    form = ("role", "content") if isinstance(entry, dict) and entry.get("role") is not None else ("from", "value")
    if not isinstance(entry, dict) or not isinstance(entry.get(form[0]), str):
        raise DataError(f"{where}: expected an object with role and content, or with from and value")
    speaker = entry[form[0]]
    tool = speaker if speaker in OF_TOOLS else next((name for name in OF_TOOLS if entry.get(name)), None)
    if tool is not None:
        raise DataError(f"{where}: is for tools ({tool}), which are not read; remove the row")
    if speaker not in SPEAKERS:
        raise DataError(f"{where}: its {form[0]} is none of {', '.join(SPEAKERS)}")
    role = SPEAKERS[speaker]
    text = _text(where, form[1], entry.get(form[1])).strip()
    if not text and role != "system":
        raise DataError(f"{where}: its {form[1]} is empty; remove the row or fill it")
    weight = entry.get("weight")
    if weight not in (None, 0, 1):
        raise DataError(f"{where}: its weight is neither 0 nor 1")
    return Spoken(role, text, weight != 0)


def _text(where: str, key: str, value: Any) -> str:
    """Text, or a list of parts that are text, joined."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if not isinstance(value, list):
        raise DataError(f"{where}: its {key} is no text")
    for part in value:
        if (
            not isinstance(part, dict)
            or part.get("type") not in ("text", "input_text", "output_text")
            or not isinstance(part.get("text"), str)
        ):
            kind = part.get("type") if isinstance(part, dict) else None
            what = f" of type {kind}" if kind in KINDS else ""
            raise DataError(f"{where}: its {key} has a part{what} that is no text; only parts of type text are read, remove the row")
    return "".join(part["text"] for part in value)


def _check_order(where: str, key: str, roles: list[str], left_out: int) -> None:
    """One system turn at most, and it is the first; then user, assistant, user, assistant."""
    if "assistant" not in roles:
        raise DataError(f"{where}its column {key} has no assistant turn, so there is no answer; remove the row")
    own = 1 if roles[0] == "system" else 0
    for at, role in enumerate(roles[own:], own):
        number = at + 1 + left_out
        wanted = "user" if (at - own) % 2 == 0 else "assistant"
        if role == wanted:
            continue
        if role == "system":
            why = "a system turn is the first one or none"
        elif at == own:
            why = "a conversation begins with the user; remove the turn, or the row"
        else:
            why = "user and assistant take turns; join what follows each other into one turn"
        raise DataError(f"{where}turn {number} of its {key} is of {role}, expected {wanted}: {why}")
    if roles[-1] == "user":
        raise DataError(f"{where}the last turn of its {key} is of user, so nothing answers it; remove the turn")


@cache
def _say_unread(names: tuple[str, ...], key: str) -> None:
    """Once in a process for each set of names: a suite reads the same rows many times."""
    if names:
        say(f"turns of the data's {key} have {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not read")
