"""Exception type for errors that users can fix."""


class ProtT5nvError(ValueError):
    """Invalid input, file or setting.

    The message is one line that names the file, record or setting, and where possible the remedy.
    """
