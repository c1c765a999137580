"""SIGTERM and SIGINT as a request to end, honoured after the current step.

::

    with Signals() as signals:
        ...
        if signals.received:
            save()
            signals.leave()

The first signal is only noted. A second one, of either kind, ends the process at once. The
handlers that were there before are restored on the way out, and one of the user's own is called
when all is saved. Only the main thread of a process may handle signals; in others nothing is
installed. A signal that the process ignores stays ignored.

A training that ends in an error after a signal leaves all the same, unless the user has a handler:
without the one here, the process would not have come so far.

A training within another one, as a callback may run it, does not leave: that would end the
callback in the middle. It is saved, continues to its end, and the outer one leaves after that.

Ctrl-C in a terminal reaches all processes. Those that this one has forked, to draw batches, ignore
it once, as the step that runs may need their batch; they end as this one ends. One that reads the
output, such as ``tee``, ends too: what is printed from then on goes nowhere, and is no error.
"""

import contextlib
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from types import FrameType
from typing import Any
from typing import NoReturn

from kerastrain.errors import Preempted

_HANDLED = (signal.SIGTERM, signal.SIGINT)
_NOTED = b"\nkerastrain: %s: saving after this step, then leaving. Once more ends at once.\n"
# Seconds that a signal may come after the end of what reads the output.
_LATER = 0.2


class Interrupted(Exception):
    """A signal came during a validation: it is left, and begun again after a resume."""


class Signals:
    """Notes the first signal.

    Attributes:
        received: its number, or None; None also for a training within another one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._process = os.getpid()  # those that it forks have its handlers
        self._has_ignored_one = False  # of those: whether one has been ignored
        self._before: dict[int, Any] = {}
        self._outer: Signals | None = None
        self._seen_of_outer: int | None = None
        self._handler: Callable[..., Any] | None = None  # the user's own for what was received
        self._outputs: list[_Output] = []

    def __enter__(self) -> "Signals":
        if threading.current_thread() is not threading.main_thread():
            return self
        owners = [getattr(signal.getsignal(number), "__self__", None) for number in _HANDLED]
        outer = [owner for owner in owners if isinstance(owner, Signals)]
        if outer and outer[0].is_of_this_process():
            self._outer = outer[0]
            self._seen_of_outer = self._outer.received
            return self
        for number in _HANDLED:
            before = signal.getsignal(number)
            # None: not installed by Python, and not to be restored.
            if before not in (None, signal.SIG_IGN):
                self._before[number] = before
                signal.signal(number, self._note)
        self._outputs = [_Output(name, self) for name in ("stdout", "stderr")]
        return self

    def __exit__(self, *error: Any) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
        for output in self._outputs:
            output.take_away()
        self._outputs = []

    def is_of_this_process(self) -> bool:
        """Whether it was not the process that has forked this one which installed it."""
        return os.getpid() == self._process

    def is_noted_by_outer(self) -> bool:
        """Whether the training around this one has noted a signal since this was asked last."""
        if self._outer is None or self._outer.received == self._seen_of_outer:
            return False
        self._seen_of_outer = self._outer.received
        return True

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.is_of_this_process() and number == signal.SIGINT and not self._has_ignored_one:
            self._has_ignored_one = True
            return
        if self.received is not None or not self.is_of_this_process():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        before = self._before.get(number)
        if callable(before) and before is not signal.default_int_handler:
            self._handler = before
        with contextlib.suppress(OSError):  # print may be interrupted, and nobody may read it
            os.write(2, _NOTED % signal.Signals(number).name.encode())

    @property
    def is_nobodys(self) -> bool:
        """Whether one was received that the user has no handler for."""
        return self.received is not None and self._handler is None

    def hand_on(self) -> None:
        """Calls the user's own handler of what was received, once, if there was one."""
        handler, self._handler = self._handler, None
        if handler is not None:
            handler(self.received, inspect.currentframe())

    def leave(self) -> NoReturn:
        """Ends what was asked to end, after the user's own handler.

        Raises:
            KeyboardInterrupt: after SIGINT, which Python ends with status 130.
            Preempted: a `SystemExit`, after SIGTERM, with status 143.
        """
        for output in self._outputs:
            output.flush()
        self.__exit__()
        self.hand_on()
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        assert self.received is not None  # nobody leaves without a signal
        raise Preempted(128 + self.received)


class _Output:
    """``sys.stdout`` or ``sys.stderr``, of which nobody may be left to read after a signal."""

    def __init__(self, name: str, signals: Signals) -> None:
        self._name, self._signals = name, signals
        self._stream = getattr(sys, name)
        if self._stream is not None:
            setattr(sys, name, self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of a copy that has no stream yet
            raise AttributeError(name)
        return getattr(self._stream, name)

    def take_away(self) -> None:
        """Puts the stream back, unless another one has taken this one's place."""
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self._stream)

    def write(self, text: str) -> int | None:
        """As the stream's."""
        return self._unless_closed(self._stream.write, text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As the stream's."""
        return self._unless_closed(self._stream.writelines, lines)

    def flush(self) -> None:
        """As the stream's."""
        if self._stream is not None:
            self._unless_closed(self._stream.flush)

    def _unless_closed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except BrokenPipeError:
            deadline = time.monotonic() + _LATER
            while self._signals.received is None and time.monotonic() < deadline:
                time.sleep(0.01)  # the one to this process may be on its way
            if self._signals.received is None:
                raise
            self._let_it_go_nowhere()
            return None

    def _let_it_go_nowhere(self) -> None:
        """What is left in buffers would fail again, at the latest when the process ends."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()
