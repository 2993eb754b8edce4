import os
import signal

import pytest

from tu_train.stopping.interrupts import Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_acts_as_before(number, capsys):
    def before(*_):
        raise InterruptedError

    old = signal.signal(number, before)
    try:
        with Stopping() as stop:
            assert not stop.asked
            os.kill(os.getpid(), number)
            assert stop.asked
            assert signal.Signals(number).name in capsys.readouterr().err
            with pytest.raises(InterruptedError):
                os.kill(os.getpid(), number)
    finally:
        signal.signal(number, old)


def test_of_several_ranks_a_signal_that_comes_doubled_is_one(capsys):
    def before(*_):
        raise InterruptedError

    old = signal.signal(signal.SIGTERM, before)
    try:
        with Stopping(doubled=60.0) as stop:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked and len(capsys.readouterr().err.splitlines()) == 1
            stop._first -= 61
            with pytest.raises(InterruptedError):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, old)


def test_who_is_told_inside_is_told_by_a_signal_or_an_error_that_came_before():
    told, old = [], signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with Stopping() as stop:
            with stop.ending(lambda: told.append(1)):
                os.kill(os.getpid(), signal.SIGTERM)
            with stop.ending(lambda: told.append(2)):
                pass
        assert told == [1, 2] and stop.error is None
        stop.fail(ValueError("x"))
        assert stop.asked and str(stop.error) == "x"
    finally:
        signal.signal(signal.SIGTERM, old)


def test_handlers_are_put_back_without_a_signal():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with Stopping():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
