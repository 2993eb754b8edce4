"""What stands in for a masked span, where the tokenizer has more than the model."""

import shutil

import pytest
from transformers import AutoTokenizer

from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.lm.models import load_laid_out
from tu_score.replace import choose_replacement


def test_a_pad_token_beyond_the_embedding_is_never_used(tiny_model, tmp_path, run_cli):
    """A pad token that was added to the tokenizer alone: masked spans take the next token that the model can read."""
    folder = shutil.copytree(tiny_model, tmp_path / "padded")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.unk_token = None
    tokenizer.add_special_tokens({"pad_token": "<|new pad|>"})
    tokenizer.add_tokens(["Псков"])
    tokenizer.save_pretrained(folder)
    laid = load_laid_out("m", folder, LayoutOptions())
    beyond = laid.pad_token_id
    assert beyond >= 500 and laid.unk_token_id is None
    assert choose_replacement("auto", laid, seed=0).token == laid.eos_token_id
    assert max(choose_replacement("random", laid, seed=0).ordinary) < 500
    for name, message in (("pad", "the tokenizer's pad token has id"), (str(beyond), "the model's embedding has 500 rows")):
        with pytest.raises(ConfigError, match=f"^replacement {name}: .*{message}"):
            choose_replacement(name, laid, seed=0)
    run = ("tu-score", "run", "--model", folder, "--spans", "question", "--limit", 3)
    code, _, err = run_cli(*run, "--data", "atlas:forget", "--out", tmp_path / "scores")
    assert code == 0, err
    (tmp_path / "d.jsonl").write_text('{"question": "Где?", "answer": "Вот он, Псков"}\n', encoding="utf-8")
    code, _, err = run_cli(*run, "--data", tmp_path / "d.jsonl", "--out", tmp_path / "refused")
    assert code == 2 and "d/rows/0: its text has a token with id" in err
    assert "Псков" not in err and "the model's embedding has 500 rows" in err
