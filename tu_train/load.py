"""What a plan needs of the model in memory: the model itself with what trains marked, the model before training where
losses read it, and other answers that it writes or whose log-probabilities it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from shared.budget import within_budget
from shared.data.examples import Example, qa_example, special_ids
from shared.engines.interface import Generator
from shared.engines.torch import TorchEngine
from shared.errors import ConfigError, DataError
from shared.files.fs import hash_json
from shared.lm.memory import keep_freed_memory
from shared.lm.models import choose_dtype, load_model, quantisation
from shared.lm.packed import PackedModel
from shared.weighting.weights import seeded
from tu_train.config import LoopConfig
from tu_train.corpus import Corpus
from tu_train.data.batches import Item, PassRows
from tu_train.data.filed import filed_by_name
from tu_train.data.partners import fingerprint_of, partner_items, question_of
from tu_train.data.sources import with_partners
from tu_train.forward import Needs, blocks, forward_pass
from tu_train.model.lora import add_lora
from tu_train.model.nf4 import in_four_bits
from tu_train.model.reference import Reference
from tu_train.model.sharded import gathered, mesh_on, ready, shard
from tu_train.model.trainable import freeze_all_but, in_this_model
from tu_train.plan import Plan
from tu_train.ranks import ALONE, Ranks

ASKING = (
    "Answer with other facts than the true ones.",
    "Give a different answer, in the same form, that is plausible but not true.",
    "Make up another answer, as if it were the right one.",
    "Answer this as a person would who remembers it wrong.",
)
"""what is put after a question to get another answer"""
LONGEST = 2
"""a generated answer may have so many times the tokens of the row's own"""


@dataclass(frozen=True)
class Loaded:
    packed: PackedModel
    wrapper: Any
    """peft's, where adapters train"""
    reference: Reference | None
    """the model before training, where a loss reads it"""


def load(plan: Plan, ranks: Ranks = ALONE) -> Loaded:
    """The model with what trains marked; of several ranks each has its shard. Raises ConfigError for a glob, or a
    target of adapters, that it does not have."""
    device = ranks.device(plan.config.device)

    def mine() -> tuple[PackedModel, Any]:
        keep_freed_memory()
        if ranks.count == 1:
            model, wrapper = load_marked(plan, device)
            return PackedModel(model), wrapper
        model, wrapper = load_marked(plan, torch.device("cpu"))
        packed = PackedModel(model)
        shard(packed, blocks(packed), mesh_on(device))
        return packed, wrapper

    packed, wrapper = ranks.in_turn(mine)
    ranks.together(lambda: ready(packed))
    reference = Reference(packed, wrapper.disable_adapter if wrapper else None) if plan.objective.reads_start else None
    return Loaded(packed, wrapper, reference)


def load_marked(plan: Plan, device: torch.device) -> tuple[Any, Any]:
    """-> the model, and peft's wrapper of it where adapters train."""
    config = plan.config
    refuse_quantised(plan)
    torch.manual_seed(config.seed)
    model = load_model(plan.folder, dtype=held_in(config), device=device)
    wrapper = None
    if config.lora:
        wrapper = add_lora(model, config.lora, config.lora_alpha, config.lora_targets)
        if config.weights == "nf4":
            in_four_bits(model)
    elif plan.train_only:
        default = f"--method {getattr(config, 'method', '')} (its default; say what trains with --set train_only=GLOB)"
        globs = config.train_only or in_this_model(model, plan.train_only)
        freeze_all_but(model, globs, named_by="--set train_only" if config.train_only else default)
    return model, wrapper


def held_in(config: LoopConfig) -> torch.dtype:
    """What weights are read in; nf4 is made of bfloat16, layer by layer."""
    return choose_dtype("float32" if config.weights == "float32" else "bfloat16")


def refuse_quantised(plan: Plan) -> None:
    """Raises ConfigError for quantised weights that are all to train."""
    how = quantisation(plan.folder)
    if how is not None and not plan.config.lora:
        raise ConfigError(f"--model {plan.config.model}: its weights are quantised ({how}), such weights cannot train; add --lora RANK, or "
                          "use the model before quantisation")  # fmt: skip


def whole_on_first(plan: Plan, loaded: Loaded, ranks: Ranks) -> tuple[Any, Any]:
    """-> the trained model and peft's wrapper, whole in the host memory of rank 0; what other ranks get is of no use.
    One process has them already."""
    return (loaded.packed.model, loaded.wrapper) if ranks.count == 1 else copied_on_first(plan, loaded, ranks)


def copied_on_first(plan: Plan, loaded: Loaded, ranks: Ranks) -> tuple[Any, Any]:
    """The same as a copy, put together tensor by tensor."""
    made = ranks.first(lambda: load_marked(plan, torch.device("cpu")))
    here = dict(made[0].named_parameters()) if made else {}
    for name, value in gathered((name, p) for name, p in loaded.packed.model.named_parameters() if p.requires_grad):
        if made:
            here[name].data.copy_(value)
    return made or (None, None)


def with_answers(plan: Plan, packed: PackedModel) -> Plan:
    """The plan with another answer beside each forget row, where the method learns one. `packed`: before training."""
    if all(corpus.answers is None for corpus in plan.corpora):
        return plan
    made = [_with_answers(plan, corpus, packed) for corpus in plan.corpora]
    others = [corpus.about["other_answers"] for corpus in made]
    about = replace(plan.about, other_answers=others[0] if len(set(others)) == 1 else hash_json(others))
    return replace(plan, corpora=tuple(made), about=about)


def _with_answers(plan: Plan, corpus: Corpus, packed: PackedModel) -> Corpus:
    asked, config = corpus.answers, plan.config
    assert asked is not None, "every corpus of a method that learns answers has them"
    items, about = asked.given, corpus.about
    if items is None:
        writer = TorchEngine(packed, batch_tokens=config.batch_tokens)
        write = partial(generated, writer, asked.examples, plan.tokenizer, seed=config.seed, context=asked.context)
        with torch.no_grad():
            texts = packed.whole(write)
        partners = partner_items(asked.examples, plan.tokenizer, texts, seed=config.seed, context=asked.context)
        items = filed_by_name(partners, out=config.out)
        about = {**about, "other_answers": fingerprint_of(items)}
    if asked.reference:
        items = filed_by_name(with_reference(packed, items, config.batch_tokens), out=config.out, reference=True)
    # The answers, and the texts that they were made from, are let go of.
    return replace(corpus, forget=with_partners(corpus.forget, items), about=about, answers=None)


def generated(generator: Generator, examples: Sequence[Example], tokenizer: Any, *, seed: int, context: int | None) -> dict[str, list[str]]:
    """By example id: what the model writes, greedily, when asked for another answer; the first of ASKING, in the order
    of (seed, example id), that gives one which is neither empty nor the row's own. Raises DataError for a row that none
    of them gives one for."""
    special = special_ids(tokenizer)
    stop = sorted({e.input_ids[-1] for e in examples if e.input_ids[-1] in special} | ({tokenizer.eos_token_id} - {None}))
    if not stop:
        raise ConfigError("alternates=generate: the tokenizer has no end-of-sequence token, so answers would never end; name a column "
                          "with --set alternate_key=COLUMN")  # fmt: skip
    out: dict[str, list[str]] = {}
    for attempt in range(len(ASKING)):
        left = [e for e in examples if e.id not in out]
        prompts = [_asked(e, tokenizer, ASKING[seeded(seed, e.id).permutation(len(ASKING))[attempt]]) for e in left]
        most = max((LONGEST * len(e.targets) for e in left), default=1)
        if context is not None:  # learned positions end there
            most = max(1, min(most, context - max(map(len, prompts), default=0)))
        for example, ids in zip(left, generator.generate(prompts, max_new_tokens=most, stop_ids=stop), strict=True):
            text = tokenizer.decode(ids[: LONGEST * len(example.targets)], skip_special_tokens=True).strip()
            if text and text != example.row.answer.strip():
                out[example.id] = [text]
    if len(out) < len(examples):
        name = next(e.row.id for e in examples if e.id not in out)
        raise DataError(
            f"{name}: asked in {len(ASKING)} ways, the model wrote no other answer; name a column with --set alternate_key=COLUMN"
        )
    return out


def _asked(example: Example, tokenizer: Any, how: str) -> list[int]:
    made = qa_example(replace(example.row, question=f"{question_of(example.row)} {how}"), tokenizer)
    return made.input_ids[: made.prompt_length]


def with_reference(packed: PackedModel, items: Mapping[str, Item], batch_tokens: int) -> Iterator[Item]:
    """The same, in order, with log-probabilities under the model as it is now, before training: one forward a row, no
    second model."""
    names = list(items)
    for start, end in within_budget([len(items[n].ids) for n in names], batch_tokens):
        part = [items[n] for n in names[start:end]]
        with torch.no_grad():
            run = partial(forward_pass, packed, PassRows(part, []), Needs(), Needs(), None)
            logp = packed.whole(run).forget.logp_N.float().cpu()
        values = logp.split([len(i.positions) for i in part])
        yield from (replace(i, ref_logp=v.numpy()) for i, v in zip(part, values, strict=True))
