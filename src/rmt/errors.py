"""The one exception for a user's mistake."""


class RMTError(Exception):
    """Something the user can mend: its text is one line that names the file or option and the remedy.

    The command line prints that line on stderr and exits with code 1; everything else that escapes is our bug.
    """
