"""A question in other words by a model behind the judge's endpoint (tu_eval/judge/endpoint.py): in every language.

The reply is used where it is one line, other words than the question's, no longer than three times it, and does not
give the answer away; what else comes is asked for once more, and then the row goes without.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.console import progress, say
from shared.data.words import holds, terms
from tu_eval.judge.endpoint import Endpoint, JudgeError, ask
from tu_eval.judge.prepare.config import PrepareConfig

SYSTEM = (
    "You put questions in other words. Reply with one question alone, on one line, in the language of the question you are given. It must "
    "ask for exactly the same thing, must keep every name, and must not answer."
)
ATTEMPTS = 2
LONGEST = 3
"""times the question's characters"""
QUOTES = "\"'“”„«»「」 "


def by_judge(pairs: Sequence[tuple[str, str]], judge: Endpoint, config: PrepareConfig) -> list[str | None]:
    """(question, answer) of each row -> its question in other words; None where the judge gave none that can be used.
    Raises JudgeError where it gave none at all."""
    say(f"{len(pairs)} questions go to {judge.model} at {judge.shown}")
    out: list[str | None] = []
    why = ""
    with progress("asking the judge", len(pairs), "questions") as bar:
        for question, answer in pairs:
            told = None
            for _ in range(ATTEMPTS):
                reply = _ask(judge, question, config)
                reason = unusable(reply, question, answer)
                if reason is None:
                    told = reply
                    break
                why = reason
            out.append(told)
            bar.advance(1)
    if pairs and not any(out):
        raise JudgeError(
            f"judge {judge.shown}: no usable paraphrase of any of {len(pairs)} questions; the last reply {why}; name another judge with "
            "--judge-model, or use --paraphrase rules"
        )
    return out


def unusable(reply: str, question: str, answer: str) -> str | None:
    """Why a reply is no paraphrase; None for one that is."""
    if not reply:
        return "was empty"
    if "\n" in reply:
        return "had several lines"
    if len(reply) > LONGEST * max(len(question), 40):
        return f"was {len(reply)} characters long, for a question of {len(question)}"
    if terms(reply) == terms(question):
        return "was the question itself"
    if not terms(reply):
        return "had no word in it"
    said = terms(answer)
    if holds(terms(reply), said) and not holds(terms(question), said):
        return "gave the answer away"
    return None


def _ask(judge: Endpoint, question: str, config: PrepareConfig) -> str:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question.strip()}]
    options = {"temperature": 0} if config.judge_greedy else {}
    reply = ask(judge, messages, options, timeout_s=config.timeout_s, reply_s=config.reply_s, retries=config.retries)
    return reply.strip().strip(QUOTES)
