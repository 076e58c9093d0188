"""The one exception that is the user's to read: the command line prints its message on one line and exits with 2."""


class UserError(ValueError):
    """Something the caller can mend: a wrong value, a damaged file, a missing connection.

    The message is one line that says what is wrong and what to do about it.
    """
