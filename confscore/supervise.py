"""A job in a process of its own, so that somebody is left to say how it ended.

Ray ends a driver on the spot when its cluster is gone, with the exit status 1, and the kernel ends one that takes too
much memory. Neither leaves time for a sentence, and a scheduler would take 1 for "done with failed rows". So the
command line starts the job as a child, and hears from it through a pipe what its exit status means.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

VERDICT = "CONFSCORE_VERDICT_FD"
"""Environment variable of the child: where it writes its exit status when it knows it."""
STOPPING = b"confscore: stopping; what was scored is kept, and the same command goes on from there\n"
INTERRUPTED = "interrupted before the run was committed; run the same command again"
_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGINT, signal.SIGTERM)
_stopped = threading.Event()
_own = threading.Event()
"""Set while an interrupt of this process's own is under way."""
_LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec nothing may wait for a lock of another thread


def run_as_child(arguments: Sequence[str], stdout: int | None = None) -> int | None:
    """Run ``confscore`` with arguments in a child process, passing signals on.

    Parameters
    ----------
    arguments : sequence of str
        Of the command line.
    stdout : int, optional
        The file descriptor that its standard output goes to; by default to this process's.

    Returns
    -------
    int or None
        Its exit status; ``None`` where it ended without a verdict, and the reason has been printed.
    """
    raise_if_stopped()
    listen, speak = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "confscore", *arguments],
        env=os.environ | {VERDICT: str(speak)},
        pass_fds=(speak,),
        stdout=stdout,
        process_group=0,  # an interrupt from a terminal reaches it once, through this process
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - it only calls the kernel
    )
    os.close(speak)

    stopped = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if not stopped:
            # Said before the child has ended: ``ray job stop`` kills both of them after a few seconds.
            os.write(sys.stderr.fileno(), STOPPING)
        stopped = True
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _STOPS}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with os.fdopen(listen, "rb") as verdicts:
        os.set_blocking(verdicts.fileno(), False)  # a process that the child left behind may hold the other end
        verdict = verdicts.read(1)
        if verdict:
            return verdict[0]
    if stopped:
        print(f"confscore: {INTERRUPTED}", file=sys.stderr)
        return None
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
    print(
        f"confscore: the job's process was ended from outside ({how}): its cluster is gone, or the machine is out of "
        "memory; nothing was published, and what was scored is kept, so run the same command again",
        file=sys.stderr,
    )
    return None


def verdict_of_child() -> int | None:
    """Return where a child of :func:`run_as_child` tells its verdict; ``None`` in any other process.

    What the child starts is not a child of this kind, so it is asked once. From here on a stop is an interrupt.
    """
    told = os.environ.pop(VERDICT, None)
    if told is None:
        return None
    for number in _STOPS:
        signal.signal(number, interrupt_once)
    return int(told)


def interrupt_once(number: int, frame: FrameType | None) -> None:
    """Interrupt what is done, and note it: a library may take the interrupt, and go on.

    A scheduler's second stop must not disturb the end; a person's second one interrupts that, too.
    """
    if number == signal.SIGINT and _own.is_set():
        _own.clear()
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else signal.default_int_handler)
    _stopped.set()
    raise KeyboardInterrupt


def interrupt_work() -> None:
    """Interrupt the main thread from another one. It is no stop: what comes after the work goes on."""
    _own.set()
    _thread.interrupt_main()


@contextmanager
def stoppable() -> Iterator[None]:
    """Take a scheduler's stop for an interrupt, so that what is open is closed and a sentence says so."""
    _own.clear()  # an interrupt of its own that came to nothing must not take the next stop for itself
    before = {number: signal.signal(number, interrupt_once) for number in _STOPS}
    try:
        yield
    except KeyboardInterrupt:
        _stopped.clear()  # heard of: whoever goes on after this does so knowing
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def is_stopped() -> bool:
    """Say whether there was a stop that nobody has told of yet."""
    return _stopped.is_set()


def raise_if_stopped() -> None:
    """Interrupt again what has been stopped: a library may have caught the first interrupt, and gone on."""
    if is_stopped():
        raise KeyboardInterrupt


def tell_verdict(where: int, status: int) -> None:
    """Tell the parent the exit status, whatever the end of this process makes of it."""
    os.write(where, bytes([status]))


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
