from tu_eval.attacks.config import NAMES
from tu_eval.listing import COLUMNS
from tu_eval.results.columns import KINDS, LONE, OVERALL
from tu_eval.suites.suites import KNOWN


def test_every_suite_metric_and_attack_has_a_line_that_says_what_it_is_and_where_it_comes_from(run_cli):
    code, out, _ = run_cli("tu-eval", "list")
    head, *lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and tuple(head) == COLUMNS
    for kind, names in {"suite": KNOWN, "metric": (*KINDS, *OVERALL, *LONE), "attack": NAMES}.items():
        assert {line[1] for line in lines if line[0] == kind} == set(names)
    assert all(line[2] and line[3] == "token-unlearn" for line in lines)
