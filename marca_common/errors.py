"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Something the user can mend: a bad file, value, config or checkpoint.

    The message is one line that names the place, the value found and what was expected.
    Entry points print it and leave with exit code 2; notebooks see an ordinary exception.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
