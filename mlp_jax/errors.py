"""The ways in which a command ends without its result."""


class UserError(Exception):
    """A mistake in what the user asked for or gave: one or two lines say what, and how to fix it.

    The commands print it without a traceback and exit with status 2.
    """


class RunError(Exception):
    """A run that cannot go on: one or two lines say why, and what to try.

    The commands print it without a traceback and exit with status 1.
    """


class NoResultError(RunError):
    """A run that went as its config says and came to nothing, such as one that diverged."""
