"""The exception for mistakes that the user can fix."""


class RMTError(Exception):
    """An error that the user can fix. Its message is one line that names the file or option and the remedy.

    The command line prints that line on stderr and exits with code 1. Any other exception that escapes is a bug.
    """
