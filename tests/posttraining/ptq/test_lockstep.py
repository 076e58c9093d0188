"""Runs in step: who goes on when, and what ends them."""

from threading import active_count

import pytest

from switchq.posttraining.ptq.lockstep import Lockstep, pause


def spelling(word: str, log: list[str]) -> None:
    for letter in word:
        log.append(letter)
        pause()
    log.append(".")


def test_runs_stand_together_at_each_pause() -> None:
    log: list[str] = []
    for _ in Lockstep([lambda word=word: spelling(word, log) for word in ("abc", "xyz")]):
        log.append("|")
    assert "".join(log) == "ax|by|cz|.."


@pytest.mark.parametrize("place", [0, 1])
def test_an_error_of_a_run_is_the_drivers_and_ends_the_others(place: int) -> None:
    log: list[str] = []

    def failing() -> None:
        pause()
        raise ZeroDivisionError

    tasks = [lambda: spelling("abc", log)]
    tasks.insert(place, failing)
    before = active_count()
    with pytest.raises(ZeroDivisionError):
        for _ in Lockstep(tasks):
            pass
    assert log in (["a"], ["a", "b"])
    assert active_count() == before


def test_a_driver_that_stops_unwinds_the_runs() -> None:
    left: list[str] = []

    def tidy(name: str) -> None:
        try:
            pause()
        finally:
            left.append(name)

    before = active_count()
    steps = iter(Lockstep([lambda: tidy("a"), lambda: tidy("b")]))
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert left == ["a", "b"]
    assert active_count() == before


def test_no_runs_take_no_turn() -> None:
    assert list(Lockstep([])) == []


def test_only_a_run_can_pause() -> None:
    with pytest.raises(AssertionError, match="only a run"):
        pause()
