"""Loading without transformers' reports, where what they report is expected and checked for."""

from contextlib import contextmanager


@contextmanager
def quiet_transformers():
    """No load reports (a head that starts random is expected and checked for) and no bars for small files."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
