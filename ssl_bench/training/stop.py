"""A signal asks the loop to stop; it does so at the end of a step, with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType

from ssl_bench import screen

TOLD = "stopping at the end of this step, with a checkpoint; Ctrl-C again stops at once"


class Stop:
    """Remembers a request to stop; the loop acts on it at the end of a step. A second Ctrl-C stops at once.

    `told`: what to say on the first Ctrl-C, "" where the loop says it.
    """

    def __init__(self, told: str = TOLD) -> None:
        self.asked, self.told = False, told
        wanted = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
        self.before = {s: signal.signal(s, self) for s in wanted}  # nohup's ignored SIGHUP stays ignored

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT and self.told:
            screen.say(self.told)
        self.asked = True

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
