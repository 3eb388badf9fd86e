"""The rule for outputs that every command applies before its work begins.

- An existing output is replaced only on request.
- Only one process writes an output at a time.
- An output that is also an input is refused, and so is a name that is given for two outputs.
- A folder or a device in place of a file is refused, and so is a file in a folder without permission to write.
- A suffix that means another format is refused.
- Tables in CSV can be written to standard output or to a pipe.

:mod:`prott5nv.io.atomic` then writes the output so that it appears complete or not at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import check_replaceable
from prott5nv.io.work_folders import end_interrupted, reserved

# Suffixes of formats that the package or its neighbours write. A file of another format must not get such a name.
_FORMATS = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".xlsx": "Excel",
    ".json": "JSON",
    ".parquet": "Parquet",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".npy": "NumPy",
    ".npz": "NumPy",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".pkl": "pickle",
    ".safetensors": "safetensors",
    ".nemo": "NeMo",
    ".fasta": "FASTA",
    ".fa": "FASTA",
    ".html": "HTML",
    ".png": "PNG",
    ".jpg": "JPEG",
    ".svg": "SVG",
    ".pdf": "PDF",
    ".gz": "gzip",
    ".zip": "zip",
}


@contextmanager
def reserved_outputs(
    outputs: Iterable[str | os.PathLike[str] | None],
    inputs: Iterable[str | os.PathLike[str] | None] = (),
    *,
    overwrite: bool = False,
) -> Iterator[None]:
    """Check outputs, and keep other processes from writing them until the block ends.

    Without this, two runs that start when there is no output both pass the check, and one replaces the output of the
    other.

    Parameters
    ----------
    outputs, inputs, overwrite
        As for :func:`check_outputs`.

    Raises
    ------
    ProtT5nvError
        As for :func:`check_outputs`, or if another process is writing one of the outputs.
    """
    files = [output for output in outputs if output is not None and not is_stream(output)]
    read = list(inputs)
    check_outputs(files, read, overwrite=overwrite)
    with ExitStack() as stack:
        for output in files:
            stack.enter_context(reserved(output))
        check_outputs(files, read, overwrite=overwrite)  # another run may have finished since the first check
        yield


def check_outputs(
    outputs: Iterable[str | os.PathLike[str] | None],
    inputs: Iterable[str | os.PathLike[str] | None] = (),
    *,
    overwrite: bool = False,
) -> None:
    """Check that outputs can be written without losing another file.

    If a command was killed while it gave several outputs their names, the others get their names first.

    Parameters
    ----------
    outputs : iterable of str or PathLike
        Files to write. None and streams (see :func:`is_stream`) are ignored.
    inputs : iterable of str or PathLike
        Files that are read. None and names without a file are ignored.
    overwrite : bool, default False
        Whether existing outputs may be replaced.

    Raises
    ------
    ProtT5nvError
        If an output is a folder or a device, is also an input, is given twice, exists and `overwrite` is false, or is
        in a folder without permission to write.
    """
    read = [Path(path) for path in inputs if path is not None and os.path.exists(path)]
    names: set[str] = set()
    for output in outputs:
        if output is None or is_stream(output):
            continue
        check_replaceable(output)
        if (name := os.path.realpath(output)) in names:
            raise ProtT5nvError(f"{output}: this name is given for two outputs; choose another for one of them")
        names.add(name)
        folder = os.path.dirname(name)
        end_interrupted(Path(folder))
        if os.path.isdir(folder) and not os.access(
            folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids
        ):
            raise ProtT5nvError(f"{output}: you have no permission to write to the folder {folder}")
        if not os.path.exists(output):
            continue
        if any(os.path.samefile(output, path) for path in read):
            raise ProtT5nvError(f"{output}: this file is also an input; choose another name for the output")
        if not overwrite:
            raise ProtT5nvError(f"{output}: exists already; choose another name, or replace it with --overwrite")


def check_no_link(path: str | os.PathLike[str]) -> None:
    """Check that a name that the user has not given, such as that of a list beside an output, is no link.

    Parameters
    ----------
    path : str or PathLike
        Name of a file to write.

    Raises
    ------
    ProtT5nvError
        If it is a symbolic link, which would lead to another file.
    """
    if os.path.islink(path):
        raise ProtT5nvError(f"{path}: this is a link; remove it, or choose another output")


def check_unlinked(folder: str | os.PathLike[str]) -> None:
    """Check that no file in the folder of a run is a symbolic link through which the run would write elsewhere.

    Parameters
    ----------
    folder : str or PathLike
        The folder. It need not exist, and it may itself be a link, such as one that users make to a larger disk. Links
        within the folder are allowed.

    Raises
    ------
    ProtT5nvError
        If a file or folder in it is a link to the outside, or if thousands of folders are in each other.
    """
    inside = os.path.join(os.path.realpath(folder), "")
    try:
        for parent, subfolders, names in os.walk(folder):
            for name in subfolders + names:
                path = os.path.join(parent, name)
                if os.path.islink(path) and not os.path.realpath(path).startswith(inside):
                    raise ProtT5nvError(f"{path}: this is a link, and the run would write through it; remove it")
    except RecursionError:  # until Python 3.12
        raise ProtT5nvError(f"{folder}: its folders are nested too deeply; remove them") from None


def check_format(path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> None:
    """Check that the suffix of an output does not mean a format that is not written.

    Parameters
    ----------
    path : str or PathLike
        File to write.
    suffixes : tuple of str
        Suffixes of the formats that can be written, in lower case. Unknown suffixes, and names without one, are
        allowed as well.

    Raises
    ------
    ProtT5nvError
        If the suffix is that of another format, or differs from a suffix in `suffixes` by upper and lower case only.

    Examples
    --------
    >>> check_format("scores.csv", (".csv",))
    >>> check_format("scores.npy", (".csv",))
    Traceback (most recent call last):
    prott5nv.errors.ProtT5nvError: scores.npy: .npy means NumPy, not the format to write; the name must end in .csv
    """
    suffix = Path(path).suffix
    if suffix in suffixes or suffix.lower() not in _FORMATS:
        return
    if suffix.lower() in suffixes:
        raise ProtT5nvError(f"{path}: write the suffix {suffix} in lower case: {suffix.lower()}")
    raise ProtT5nvError(
        f"{path}: {suffix} means {_FORMATS[suffix.lower()]}, not the format to write; the name must end in "
        f"{' or '.join(suffixes)}"
    )


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether an output is standard output (``-`` or ``/dev/stdout``) or a pipe, which cannot be replaced."""
    if is_standard_output(path):
        return True
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Return whether an output is ``-`` or ``/dev/stdout``."""
    return os.fspath(path) in ("-", "/dev/stdout")
