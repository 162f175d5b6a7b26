"""A child process that leads a session and process group of its own, and the certain end of all that is in it.

A signal goes to the whole group, so that what the child has started dies with it; only what makes a session of its
own escapes. Nothing here depends on an event loop's way with children: whether a process has ended is asked, not
told, so it is the same in every thread and on every backend, and no thread waits for it.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

_REAPING = 0.25
"""Seconds that a killed process may take to be gone before a thread of its own waits for it."""

_REAPING_IN_THREAD = 5.0
"""Seconds until even that thread gives up: the process hangs in the kernel."""

_AT_EXIT = 0.1
"""Seconds that the interpreter's exit waits for killed processes, so that none is left as a zombie."""

_live: dict[ProcessGroup, None] = {}


class ProcessGroup:
    """A process that was started as the leader of a new group, and the group.

    Args:
        command: the program and its arguments, or a line for the shell.
        options: what `subprocess.Popen` takes.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, command: Sequence[Any] | str, **options: Any) -> None:
        self._process = subprocess.Popen[bytes](command, start_new_session=True, **options)
        self._gone = False
        self.killed_at_exit = False
        """The interpreter is exiting: whoever waits for this process in a daemon thread has nothing to go on with."""
        _live[self] = None

    @property
    def pid(self) -> int:
        """The leader's process id, which is the group's."""
        return self._process.pid

    @property
    def pipes(self) -> tuple[Any, Any, Any]:
        """Our ends of the leader's stdin, stdout and stderr, where pipes were asked for."""
        return self._process.stdin, self._process.stdout, self._process.stderr

    @property
    def returncode(self) -> int | None:
        """The leader's exit status, a negative signal number if one killed it; None while it runs."""
        return self._process.poll()

    def runs(self) -> bool:
        """Whether the leader or anything else in the group still runs. Reaps what has ended."""
        if self._gone:
            return False
        if self._process.poll() is None:
            return True
        with suppress(ChildProcessError):
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass  # orphans come to us where this process is the container's first
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            pass
        except PermissionError:
            return True
        else:
            if _has_members(self.pid):
                return True
            self.kill()  # whoever was born while we looked
        self._gone = True
        _live.pop(self, None)
        return False

    async def wait(self) -> int:
        """Wait until the leader has ended, and return its exit status. A cancel changes nothing.

        One that the interpreter's exit has killed is waited for for ever.
        """
        if self._process.poll() is None:
            try:
                descriptor = os.pidfd_open(self.pid)
            except (AttributeError, OSError):  # not Linux, an old one, or forbidden
                await self._until(lambda: self._process.poll() is not None)
            else:
                try:
                    await anyio.wait_readable(descriptor)
                finally:
                    os.close(descriptor)
        if self.killed_at_exit:
            await anyio.sleep_forever()
        return self._process.wait()

    async def end(self, grace: float) -> None:
        """TERM to the group, KILL when `grace` (seconds) is over or at a second cancel, and reap the leader.

        It is shielded from cancels. A native one cuts the grace short, and goes on when the group is dead.
        """
        if not self.runs():
            return
        self._signal(signal.SIGTERM)
        cancel: BaseException | None = None
        try:
            # The last one is for a cancel that comes together with the end of the grace.
            for patience in (grace, _REAPING, _REAPING):
                try:
                    await self._ended(patience)
                except GeneratorExit:  # the event loop is closed: nothing can be awaited any more
                    raise
                except BaseException as error:  # noqa: BLE001 - it goes on when the group is dead
                    cancel = error
                self.kill()
                if not self.runs():
                    break
            if cancel is not None:
                raise cancel
        finally:
            del cancel  # its traceback refers to this frame
            self.drop()

    def kill(self) -> None:
        """KILL to the group, from any thread; waits for nothing."""
        self._signal(signal.SIGKILL)

    def drop(self) -> None:
        """`kill`, and have a thread reap the leader if it is not dead yet."""
        self.kill()
        if self.runs():
            with suppress(RuntimeError):  # no thread can be made at the interpreter's exit; init reaps it
                threading.Thread(target=self._reap, args=(_REAPING_IN_THREAD,), daemon=True).start()

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        self._gone = True
        self._process.poll()  # not our child: marks it as ended, for this process only
        for pipe in self.pipes:
            if pipe is not None:
                pipe.close()

    async def _ended(self, patience: float) -> None:
        try:
            scope = anyio.move_on_after(patience, shield=True)
        except anyio.NoEventLoopError:  # closed; a task group makes this of the GeneratorExit
            return
        with scope:
            await self._until(lambda: not self.runs())

    async def _until(self, condition: Any) -> None:
        for pause in _pauses():
            if condition():
                return
            await anyio.sleep(pause)

    def _reap(self, patience: float) -> None:
        until = time.monotonic() + patience
        for pause in _pauses():
            if not self.runs() or time.monotonic() > until:
                return
            time.sleep(pause)

    def _signal(self, number: signal.Signals) -> None:
        if not self._gone:
            with suppress(
                ProcessLookupError, PermissionError
            ):  # nobody is left; or nobody but zombies, on macOS
                os.killpg(self.pid, number)

    @staticmethod
    def end_all() -> None:
        """At the interpreter's exit: KILL to all that live."""
        groups = list(_live)
        for group in groups:
            group.killed_at_exit = True
            group.kill()
        until = time.monotonic() + _AT_EXIT
        for group in groups:
            group._reap(until - time.monotonic())

    @staticmethod
    def forget_all() -> None:
        """In a forked child: they are all the parent's."""
        for group in list(_live):
            group.forget()
        _live.clear()


def _pauses() -> Iterator[float]:
    """Seconds between two looks: a killed process is gone in less than a millisecond, others take their time."""
    pause = 0.0005
    while True:
        yield pause
        pause = min(pause * 2, 0.02)


def _has_members(group: int) -> bool:
    """Whether a process other than zombies is in a group that is there, though its leader has been reaped.

    An orphan stays a zombie until init looks, which in some containers it does late or never.
    """
    found = looked = False
    try:
        entries = [entry.name for entry in Path("/proc").iterdir()]
    except OSError:
        return True
    for entry in entries:
        if entry.isdecimal() and int(entry) > group:  # its children are younger than the leader
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123 - a Path costs more than the reading
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            looked = True
            found = found or (int(fields[2]) == group and fields[0] not in (b"Z", b"X"))
    return found if looked else True


atexit.register(ProcessGroup.end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ProcessGroup.forget_all)
