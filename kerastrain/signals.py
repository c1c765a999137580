"""SIGTERM and SIGINT as a wish to end, to be granted at the next step.

::

    with Signals() as signals:
        ...
        if signals.received:
            save()
            signals.leave()

The first signal is only noted. A second one, of either kind, ends the process at once. The
handlers that were there before are put back on the way out. Only the main thread of a process
may handle signals; in others nothing is installed. A signal that the process was told to ignore
stays ignored.

Ctrl-C in a terminal reaches all processes. Those that this one has forked, to draw batches, ignore
it once, as the step that runs may need their batch; they end as this one ends.
"""

import os
import signal
import threading
from typing import NoReturn

from kerastrain.errors import Preempted

_HANDLED = (signal.SIGTERM, signal.SIGINT)
_NOTED = b"\nkerastrain: %s: saving after this step, then leaving. Once more ends at once.\n"


class Signals:
    """Notes the first signal.

    Attributes:
        received: its number, or None.
    """

    def __init__(self):
        self.received: int | None = None
        self._process = os.getpid()  # those that it forks have its handlers
        self._is_told = False  # of those: whether one has been ignored
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in _HANDLED:
                before = signal.getsignal(number)
                # None: not installed by Python, and not to be put back.
                if before not in (None, signal.SIG_IGN):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _note(self, number, frame):
        if os.getpid() != self._process and number == signal.SIGINT and not self._is_told:
            self._is_told = True
            return
        if self.received is not None or os.getpid() != self._process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        os.write(2, _NOTED % signal.Signals(number).name.encode())  # print may be interrupted

    def leave(self) -> NoReturn:
        """Ends what was asked to end.

        Raises:
            KeyboardInterrupt: after SIGINT, which Python ends with status 130.
            Preempted: a `SystemExit`, after SIGTERM, with status 143.
        """
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise Preempted(128 + self.received)
