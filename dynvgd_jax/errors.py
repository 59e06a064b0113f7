"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in the input: one line with what was found, expected, and to do."""
