"""The one exception this package raises for bad input."""


class InputError(ValueError):
    """Something a user gave is wrong: an argument, a file, an array.

    The message says what is wrong, where (name of the argument, path of the file, index), and what to do about it. The
    command line prints it without a traceback and exits with status 2; in Python it is an ordinary `ValueError`.
    """
