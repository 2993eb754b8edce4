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


def test_handlers_are_put_back_without_a_signal():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with Stopping():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
