"""Check that computed numbers are finite, so that NaN and infinity never reach an output."""

from __future__ import annotations

import numpy as np

from prott5nv.errors import ProtT5nvError


def check_finite(values: np.ndarray, name: str, precision: str) -> None:
    """Raise an error if a model computed NaN or infinity.

    Parameters
    ----------
    values : ndarray, dtype=float32
        Numbers of any shape.
    name : str
        Name of the protein.
    precision : str
        Precision of the computation: ``fp32``, ``bf16`` or ``fp16``.

    Raises
    ------
    ProtT5nvError
        If a value is not finite.

    Examples
    --------
    >>> check_finite(np.array([0.5, np.inf]), "P69905", "fp16")
    Traceback (most recent call last):
    prott5nv.errors.ProtT5nvError: P69905: the model computed NaN or infinity in fp16; choose --precision bf16 or fp32
    """
    if not np.isfinite(values).all():
        raise not_finite(name, precision)


def not_finite(name: str, precision: str) -> ProtT5nvError:
    """Return the error for a protein for which a model computed NaN or infinity.

    Parameters
    ----------
    name : str
        Name of the protein.
    precision : str
        Precision of the computation: ``fp32``, ``bf16`` or ``fp16``.

    Returns
    -------
    ProtT5nvError
    """
    remedy = {
        "fp16": "choose --precision bf16 or fp32",
        "bf16": "choose --precision fp32",
        "fp32": "the weights of the model are probably damaged",
    }[precision]
    return ProtT5nvError(f"{name}: the model computed NaN or infinity in {precision}; {remedy}")
