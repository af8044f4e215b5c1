"""The one exception that scripts turn into a single line and exit code 2."""


class UserError(ValueError):
    """Something a user can get wrong; the message says what, the value, and what is allowed."""
