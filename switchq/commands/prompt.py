"""What every command that continues a prompt checks of it."""

from switchq.errors import UserError


def check_prompt(prompt: str) -> None:
    """Refuse a prompt with bytes that are no text, which no tokenizer takes.

    Raises:
        UserError: it is not valid UTF-8.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("--prompt is not valid UTF-8: give it as text in that encoding") from None
