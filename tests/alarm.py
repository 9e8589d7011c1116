"""An exception at a moment of one's choice, for the tests of what interrupts leave behind."""

import signal

import pytest

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer here")


class Stop(BaseException):
    pass


class Alarm:
    """Raises `Stop` once, after some time, unless the block ends before."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        self.armed = True
        self.before = signal.signal(signal.SIGALRM, self.ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def ring(self, *_):
        if self.armed:
            self.armed = False
            raise Stop

    def __exit__(self, kind, *_):
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        return kind is Stop
