"""The error for what users can fix, and warnings that name the user's line."""

from __future__ import annotations

import sys
import warnings


class ProtT5nvError(ValueError):
    """Invalid input, file or setting.

    The message is one line that names the file, record or setting, and where possible the remedy.
    """


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning for the line that called the package, and not for a line in it.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    level, frame = 2, sys._getframe(1)  # 2 is the caller of this function
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
