"""Figures in sentences, and commands to be copied."""

import shlex


def count_of(number: int, what: str) -> str:
    """For example `1 question`, `1,000 questions`, `2 batches`."""
    ending = "" if number == 1 else "es" if what.endswith(("ch", "ss", "sh", "x")) else "s"
    return f"{number:,} {what}{ending}"


def command_line(*words: object) -> str:
    """A command as a shell takes it: words with blanks and the like in quotes."""
    return shlex.join(map(str, words))
