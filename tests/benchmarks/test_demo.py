"""`make demo` from its first step to the verdict, with a tiny random model in place of the embedded one."""

import shlex
import sys

from benchmarks import demo
from tests.test_commands_of_pages import take


def test_it_ends_at_the_verdict_and_goes_on_where_it_was_stopped(make_tiny, tmp_path, monkeypatch, capsys):
    small = make_tiny("Llama", seed=0, hidden_size=32, num_hidden_layers=2, intermediate_size=48, max_position_embeddings=256)
    monkeypatch.setattr("shared.lm.locate.smollm2_folder", lambda: small)
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path)])
    demo.main()
    said = capsys.readouterr().out
    commands = [shlex.split(line.partition(" > ")[0])[1:] for line in said.splitlines() if line.startswith("$ ")]
    assert len(commands) == 22 and commands[-1][:2] == ["tu-eval", "report"] and "finished earlier" not in said
    verdict = (tmp_path / "verdict.html").read_text(encoding="utf-8")
    assert all(f"{method}-{tokens}" in verdict for method in demo.METHODS for tokens in demo.TOKENS)
    demo.main()
    assert capsys.readouterr().out.count("finished earlier") == 20  # the two pages are made anew


def test_what_it_says_to_do_next_are_commands():
    lines = [line.strip() for line in demo.NEXT.splitlines() if line.startswith("  ")]
    assert len(lines) == 3
    for line in lines:
        take(line)
