"""Errors that are answered with one line instead of a traceback."""


class UserError(Exception):
    """A mistake in the input: one line with what was found, expected, and to do."""


class StuckError(Exception):
    """An environment's thread does not come back: one line that names it.

    The thread cannot be ended from outside, so the process must end by `os._exit`.
    """
