"""The exception that scripts report as a single line, with exit code 2."""


class UserError(ValueError):
    """A user's mistake; the message says what is wrong, the value, and what is allowed."""
