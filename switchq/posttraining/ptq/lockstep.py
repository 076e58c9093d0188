"""Runs that wait for each other at the same places, made of code that knows nothing of waiting: a model's forward.

A run is a function that calls, somewhere deep inside, `pause`. All runs are taken to their first pause, one after the
other; then whoever drives them has the word; then all go on to their next pause:

    steps = Lockstep([partial(forward, batch) for batch in batches])
    for _ in steps:     # all forwards stand at their first pause, at their second, ...
        ...

Each run has a thread, since nothing else keeps a call stack, but only one thread ever goes on at a time: nothing runs
at once, and the order is always the same.
"""

from collections.abc import Callable, Generator, Sequence
from threading import Semaphore, Thread, current_thread


class _Stopped(BaseException):
    """Unwinds a run that nobody waits for any more; no handler of errors takes it for one."""


class _Run(Thread):
    """One run; it and its driver hand each other the word."""

    def __init__(self, task: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._task = task
        self._to_run, self._to_driver = Semaphore(0), Semaphore(0)
        self._stopped = False
        self._error: BaseException | None = None
        self.ended = False

    def run(self) -> None:
        try:
            self._wait()
            self._task()
        except _Stopped:
            pass
        except BaseException as error:  # the driver raises it
            self._error = error
        finally:
            self.ended = True
            self._to_driver.release()

    def step(self) -> None:
        """To the next pause, or the end; by the driver."""
        self._to_run.release()
        self._to_driver.acquire()
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        """Let the driver go on; by the run."""
        self._to_driver.release()
        self._wait()

    def stop(self) -> None:
        """End the run where it stands; by the driver."""
        self._stopped = True
        self._to_run.release()
        self.join()

    def _wait(self) -> None:
        self._to_run.acquire()
        if self._stopped:
            raise _Stopped


class Lockstep:
    """Runs in step, to be iterated over once: a turn for each time that they all stand at a pause.

    Whatever ends the loop, a run's error or the driver's own, ends all runs where they stand.

    Args:
        tasks: what to run; each pauses as often as the others.
    """

    def __init__(self, tasks: Sequence[Callable[[], object]]) -> None:
        self._runs = [_Run(task) for task in tasks]

    def __iter__(self) -> Generator[None, None, None]:
        for run in self._runs:
            run.start()
        try:
            while going := [run for run in self._runs if not run.ended]:
                for run in going:
                    run.step()
                if not going[0].ended:
                    yield
        finally:
            for run in self._runs:
                run.stop()


def pause() -> None:
    """Wait, inside a run, until all others stand here too and the driver has had its turn."""
    run = current_thread()
    assert isinstance(run, _Run), "only a run of a Lockstep can pause"
    run.pause()
