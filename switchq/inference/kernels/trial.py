"""Whether PyTorch has an operator on this machine: it is tried out once in every process."""

from collections.abc import Callable
from functools import cache, wraps


def trial(works: Callable[[], bool]) -> Callable[[], bool]:
    """Decorate a function that runs an operator and says whether it did what it should.

    Its answer is kept. Where the operator is missing (an AttributeError or a RuntimeError, of which NotImplementedError
    is one), the answer is no.
    """

    @cache
    @wraps(works)
    def answer() -> bool:
        try:
            return works()
        except (AttributeError, RuntimeError):
            return False

    return answer
