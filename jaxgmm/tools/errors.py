"""The errors that are for users, about their arguments, configs and files.

Their classes tell them from bugs: the command line prints one line for them, and the traceback of anything else.
"""


class UserError(ValueError):
    """A value, a config, or a file that can't be used: the message says what was given, and the way out."""


class UserTypeError(TypeError):
    """An argument of the wrong type: the message says what was given, and the way out."""
