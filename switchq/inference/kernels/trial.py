"""Whether something works on this machine: it is tried out once in every process."""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, cast

P = ParamSpec("P")


def trial(works: Callable[P, bool]) -> Callable[P, bool]:
    """Decorate a function that runs an operator and says whether it did what it should.

    Its answers are kept. Where the operator is missing (an AttributeError or a RuntimeError, of which
    NotImplementedError is one) or no machine code can be made, the answer is no.
    """

    @cache
    @wraps(works)
    def answer(*arguments: P.args, **options: P.kwargs) -> bool:
        try:
            return works(*arguments, **options)
        except (AttributeError, RuntimeError):
            return False

    return cast(Callable[P, bool], answer)
