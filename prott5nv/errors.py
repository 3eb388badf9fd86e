"""The one exception type for mistakes that a user can mend."""


class ProtT5nvError(ValueError):
    """Bad input, file or setting; the message is one line that names the place and the remedy."""
