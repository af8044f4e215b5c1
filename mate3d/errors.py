"""The exception that scripts report as a single line, with exit code 2."""


class UserError(ValueError):
    """A user's mistake; the message gives the problem, the value, and the allowed values."""
