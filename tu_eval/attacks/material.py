"""What attacks work on: the forget rows in every prompt, and the rows or texts that relearning trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.console import say
from shared.data.datasets import Keys, load_rows
from shared.data.examples import Example, data_fingerprint, make_examples
from shared.errors import ConfigError, DataError
from shared.files.fs import hash_json
from shared.lm import models
from shared.secret import without_secrets
from tu_eval.attacks.config import AttackConfig
from tu_eval.attacks.paraphrase import probes
from tu_eval.attacks.probing import Probe
from tu_eval.attacks.relearn import choose
from tu_eval.measure.config import flag_of
from tu_eval.measure.leaks import LeakCheck, Writing, prepare
from tu_eval.suites.prompts import PARAPHRASED, Prompt, choose_prompts
from tu_eval.suites.sets import EvalSet


@dataclass(frozen=True)
class Material:
    """The tokenised forget rows, as each attack needs them."""

    tokenizer: Any
    context: int | None
    part: EvalSet
    asked: dict[str, list[Probe]]
    """by prompt; `plain` is always there"""
    leaks: LeakCheck | None
    texts: list[Example]
    """that relearning trains on; empty where it is not asked for"""
    identity: dict[str, Any]

    @property
    def plain(self) -> list[Probe]:
        return self.asked["plain"]


def load(config: AttackConfig, part: EvalSet, folders: dict[str, Path]) -> Material:
    """Tokenises the forget rows in every prompt, and what is relearned. The models must share tokenizer and
    template."""
    tokenizer = models.load_laid_out(config.model, folders["model"], config)
    own = [models.vocabulary_fingerprint(tokenizer), models.template_fingerprint(tokenizer)]
    contexts = []
    for role, folder in folders.items():
        other = models.load_laid_out(role, folder, config)
        if [models.vocabulary_fingerprint(other), models.template_fingerprint(other)] != own:
            raise ConfigError(f"--{role} {folder}: has another tokenizer or chat template than the model, so the numbers would not compare")
        contexts.append(models.context_length(folder))
    context = min((c for c in contexts if c is not None), default=None)
    sources = load_rows(part.data, limit=config.limit)
    prompts = choose_prompts(sources, config.prompts, config.question_columns) if "paraphrase" in config.attacks else [Prompt("plain")]
    asked = {p.name: probes(sources, p, tokenizer, context=context, long=config.long, facts=part.facts) for p in prompts}
    if "paraphrase" in config.attacks and not any(p.column for p in prompts):
        say(f"paraphrase: {without_secrets(part.data)} has no column {PARAPHRASED}; only prefixes and frames are tried")
    texts = _texts(config, [p.example for p in asked["plain"]], tokenizer, context) if "relearn" in config.attacks else []
    read = [(e.id, e.input_ids) for e in (*(p.example for made in asked.values() for p in made), *texts)]
    for role, folder in folders.items():
        models.require_rows(f"{flag_of(config, role)} {folder}", folder, read)
    identity = {
        "limit": config.limit,
        "tokenizer_fingerprint": models.tokenizer_fingerprint(tokenizer),
        "template_fingerprint": own[1],
        "data_fingerprint": data_fingerprint(p.example for made in asked.values() for p in made),
        "fact_tokens": hash_json([p.facts for made in asked.values() for p in made]),
        "prompts": [asdict(p) for p in prompts],
        "relearned_fingerprint": data_fingerprint(texts) if texts else None,
    }
    check = None
    if config.secrets is not None:
        writing = Writing(config.samples, config.temperature, config.max_new_tokens, config.seed)
        check = prepare(config.secrets, sources, tokenizer, writing, context=context, long=config.long, templates=config.prompts,
                        columns=config.question_columns)  # fmt: skip
    return Material(tokenizer, context, part, asked, check, texts, identity)


def _texts(config: AttackConfig, forget: Sequence[Example], tokenizer: Any, context: int | None) -> list[Example]:
    """What relearning trains on: related text, or some of the forget rows."""
    if config.relearn_on is not None:
        try:
            related = load_rows(config.relearn_on, keys=Keys(text=config.relearn_text_key))
        except DataError as error:
            raise DataError(f"relearn_on: {str(error).split('; see --')[0]}; raw text needs --set relearn_text_key=COLUMN") from None
        return make_examples(related, tokenizer, context=context, long=config.long)
    if config.relearn_rows >= len(forget):
        raise ConfigError(
            f"relearn_rows {config.relearn_rows}: there are {len(forget)} forget rows, and none would be left to look at; "
            "use fewer with --set relearn_rows=N, or train on other text with --set relearn_on=DATA"
        )
    chosen = choose([e.id for e in forget], config.relearn_rows, config.seed)
    return [e for e in forget if e.id in chosen]
