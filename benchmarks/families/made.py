"""What the families are tried on: their models, their tokenizers, and a handful of rows in several languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.families.zoo import Family
from shared.data import atlas

TEMPLATES = Path(__file__).parent / "templates"
VOCABULARY = 640
"""of a tokenizer without its control tokens"""
WORLD = atlas.AtlasSize(people=3, facts_per_person=2, forget_people=1, holdout_people=1)
OTHERS = [
    ("Где живёт Ольга Венн?", "Ольга Венн живёт в Пскове, у реки.", "Пскове", "Ольга Венн"),
    ("李晓梅住在哪个城市？", "李晓梅住在成都市青羊区。", "成都市", "李晓梅"),
    ("Nguyễn Thị Hạnh sống ở đâu?", "Nguyễn Thị Hạnh sống ở Huế.", "Huế", "Hạnh"),
    ("Wo hat Jürgen Weiß 1987 gelernt?", "Jürgen Weiß lernte 1987 in Görlitz das Backen.", "Görlitz", "Jürgen Weiß"),
]
"""question, answer, the fact in the answer, the name in the question"""


def rows(split: str) -> list[dict[str, Any]]:
    """Two rows of the atlas with two in other languages; `forget` or `retain`. They have spans in question and answer,
    a paraphrase and wrong answers."""
    out = []
    for row in atlas.rows(split, WORLD)[:2]:
        at = row["question"].find(row["person"])
        out.append({**row, "question_spans": [[at, at + len(row["person"])]] if at >= 0 else [[0, 4]]})
    for question, answer, fact, name in OTHERS[:2] if split == "forget" else OTHERS[2:]:
        spans = {"fact_spans": [_span(answer, fact)], "question_spans": [_span(question, name)]}
        wrong = [answer.replace(fact, "Xanadu"), answer.replace(fact, "Omsk")]
        out.append({"question": question, "answer": answer, "paraphrased_answer": answer + " Да.", "perturbed_answer": wrong, **spans})
    keys = ("question", "answer", "paraphrased_answer", "perturbed_answer", "fact_spans", "question_spans")
    return [{k: row[k] for k in keys} for row in out]


def _span(text: str, part: str) -> list[int]:
    return [text.index(part), text.index(part) + len(part)]


def write_data(folder: Path) -> None:
    """forget.jsonl, retain.jsonl, and suite.toml over both."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("forget", "retain"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(split)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sets = "\n".join(f'[[set]]\nname = "{s}"\ndata = "{s}.jsonl"\nparaphrase = true\n' for s in ("forget", "retain"))
    (folder / "suite.toml").write_text(sets, encoding="utf-8")


def tokenizer_of(family: Family) -> Any:
    """A new tokenizer of the family's kind, trained on the rows, with its control tokens and its chat template."""
    from transformers import PreTrainedTokenizerFast

    texts = [row[key] for split in ("full", "world") for row in atlas.rows(split, WORLD) for key in ("question", "answer")]
    texts += [text for question, answer, *_ in OTHERS for text in (question, answer)]
    first = [family.begin] if family.begin else []
    control: list[str] = list(dict.fromkeys(["<pad>", *first, family.end, *family.marks]))
    core = _byte_level(texts, control) if family.tokenizer == "bytes" else _pieces(texts, control, blank=family.tokenizer == "pieces")
    roles = {"pad_token": "<pad>", "eos_token": family.end, **({"bos_token": family.begin} if family.begin else {})}
    if family.tokenizer != "bytes":
        roles["unk_token"] = "<unk>"  # noqa: S105
    if family.template == "ernie":
        roles |= {"cls_token": "<|begin_of_sentence|>", "sep_token": "<|end_of_sentence|>"}
    if family.adds_begin:
        from tokenizers import processors

        ids = [(family.begin, core.token_to_id(family.begin))]
        core.post_processor = processors.TemplateProcessing(single=f"{family.begin} $A", special_tokens=ids)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **roles)
    tokenizer.add_special_tokens({"additional_special_tokens": [m for m in family.marks if m not in roles.values()]})
    if family.template:
        tokenizer.chat_template = (TEMPLATES / f"{family.template}.jinja").read_text(encoding="utf-8")
    return tokenizer


def _byte_level(texts: list[str], control: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=control, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(texts, trainer)
    return core


def _pieces(texts: list[str], control: list[str], *, blank: bool) -> Any:
    """Blanks are `▁`; what is unknown becomes bytes. `blank`: one is put before the text (Llama 2), else none
    (Gemma)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    first = Tokenizer(models.BPE())
    first.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if blank else "never")
    first.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY - 256, show_progress=False))
    learned = json.loads(first.to_str())["model"]
    control = ["<unk>", *control]
    names = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(learned["vocab"], key=learned["vocab"].get)]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    merges = [tuple(pair) for pair in learned["merges"]]
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))  # noqa: S106
    replaced = normalizers.Replace(" ", "▁")
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if blank else replaced
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if blank else steps)
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in control])
    return core


def make_model(family: Family, folder: Path, seed: int = 0) -> Path:
    """A random float32 model in `folder`, with its tokenizer; what is there already stays. Norms and biases are moved
    off their usual 1 and 0, which would hide one that is left out."""
    import torch
    import transformers

    if (folder / "config.json").exists():
        return folder
    tokenizer = tokenizer_of(family)
    begin = tokenizer.convert_tokens_to_ids(family.begin) if family.begin else None
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": begin, "eos_token_id": tokenizer.eos_token_id}
    config = getattr(transformers, f"{family.architecture}Config")(vocab_size=len(tokenizer), **{**family.entries, **ids})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.endswith(("A_log", "dt_bias", ".D", "dt_proj.bias")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
