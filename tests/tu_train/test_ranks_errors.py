"""An error of one rank, of whatever kind, is told to the others before anything else is asked of them."""

import pytest

from shared.errors import ConfigError
from tu_train.ranks import Ended, Several, joined


class Told(Several):
    """One of two ranks; what the other one tells is given."""

    def __init__(self, number, other):
        super().__init__(number, 2, 0, None)
        self.other, self.told = other, []

    def gather(self, value):
        self.told.append(value)
        return [value, self.other] if self.leads else [self.other, value]


def fail():
    raise MemoryError


@pytest.mark.parametrize("number", [0, 1])
def test_an_error_that_no_user_can_mend_is_told_and_stays_what_it_is(number):
    ranks = Told(number, None)
    with pytest.raises(MemoryError):
        ranks.together(fail)
    assert ranks.told == ["MemoryError"]


def test_the_others_end_with_it():
    with pytest.raises(ConfigError, match="rank 1: MemoryError"):
        Told(0, "MemoryError").together(lambda: None)
    with pytest.raises(Ended):
        Told(1, "MemoryError").together(lambda: None)


def test_a_number_of_ranks_alone_is_refused(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2 but RANK, MASTER_ADDR, MASTER_PORT not set"), joined():
        pass
