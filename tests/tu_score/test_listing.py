from shared.weighting.importance import SIGNALS
from tu_score.config import PLANS
from tu_score.listing import COLUMNS


def test_every_signal_and_span_plan_has_a_line_that_says_what_it_is_and_where_it_comes_from(run_cli):
    code, out, _ = run_cli("tu-score", "list")
    head, *lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and tuple(head) == COLUMNS
    assert [(line[0], line[1]) for line in lines] == [*(("signal", n) for n in SIGNALS), *(("span plan", n) for n in PLANS)]
    assert all(line[2] and line[3] == "token-unlearn" for line in lines)
