"""The rule that ends training early."""

import pytest

from shared.errors import ConfigError
from tu_train.stopping.rule import Rule, parse_stop


@pytest.mark.parametrize(
    ("text", "rule", "holds", "fails"),
    [
        ("forget_probability<0.05", ("forget_probability", "<", 0.05), 0.04, 0.05),
        (" forget_fact_nll >= 2e1 ", ("forget_fact_nll", ">=", 20.0), 20.0, 19.9),
        ("retain_nll<=1", ("retain_nll", "<=", 1.0), 1.0, 1.1),
        ("forget_paraphrase_nll>-1.5", ("forget_paraphrase_nll", ">", -1.5), -1.4, -1.5),
    ],
)
def test_a_rule_is_read_once_and_says_whether_it_holds(text, rule, holds, fails):
    found = parse_stop(text)
    assert found == Rule(text, *rule)
    assert found.holds(holds) and not found.holds(fails)


@pytest.mark.parametrize("text", ["forget_nll", "forget_nll=1", "forget_nll<", "forgot_nll<1", "forget_nll<1e999", "forget_nll<.e"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ConfigError, match="--stop-when"):
        parse_stop(text)
