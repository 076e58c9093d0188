"""Whether something works on this machine: it is tried out once in every process."""

from collections.abc import Callable
from functools import cache, wraps


def trial(works: Callable[[], bool]) -> Callable[[], bool]:
    """Decorate a function that runs an operator, or machine code, and says whether it did what it should.

    Its answer is kept. An operator that is missing and code that cannot be made (an AttributeError or a RuntimeError,
    which covers what PyTorch and LLVM raise) count as a no.
    """

    @cache
    @wraps(works)
    def answer() -> bool:
        try:
            return works()
        except (AttributeError, RuntimeError):
            return False

    return answer
