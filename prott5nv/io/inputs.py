"""Several files or folders as one input."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from prott5nv.errors import ProtT5nvError
from prott5nv.io.source import is_read_once, source_name
from prott5nv.io.text import counted

#: Suffixes of the files that are read from a folder; the text formats may end in ``.gz`` as well.
TEXT_SUFFIXES = (".fasta", ".fa", ".faa", ".fas", ".csv", ".tsv")
_SUFFIXES = (*TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES), ".parquet")
_LISTING = ".skipped.tsv"  # what commands write beside their output


class InputFiles(tuple[str, ...]):
    """Files that are read one after the other as one input. Make one with :func:`input_files`.

    Examples
    --------
    >>> InputFiles(["a.fasta", "b.fasta"]).name
    '2 files (a.fasta ... b.fasta)'
    """

    @property
    def name(self) -> str:
        """Name of the whole input in messages."""
        return f"{counted(len(self), 'file')} ({self[0]} ... {self[-1]})"


#: The input of a command: a file, a pipe, ``-`` for standard input, or several of these.
Input: TypeAlias = "str | os.PathLike[str] | InputFiles"


def input_files(paths: Iterable[str | os.PathLike[str]]) -> str | InputFiles:
    """Check that files and folders exist, and return them as one input.

    Parameters
    ----------
    paths : iterable of str or PathLike
        Files, pipes, ``-``, addresses in object stores, and folders. A folder stands for its FASTA, CSV, TSV and
        Parquet files in alphabetical order, without those in its subfolders.

    Returns
    -------
    str or InputFiles
        A single file stays as it is.

    Raises
    ------
    ProtT5nvError
        If a file does not exist or is given twice, or a folder has no file of proteins.
    """
    files: list[str] = []
    for path in paths:
        if is_remote(path):
            files.append(str(path))
        elif os.path.isdir(path):
            files += _files_in(Path(path))
        elif str(path) != "-" and not os.path.exists(path):
            raise ProtT5nvError(f"{path}: No such file or directory{_hint(str(path))}")
        else:
            files.append(str(path))
    seen: dict[str, str] = {}
    for file in files:
        real = os.path.realpath(file)
        if real in seen and not is_read_once(file):
            other = "" if file == seen[real] else f", also as {seen[real]}"
            raise ProtT5nvError(f"{file}: this file is given twice{other}")
        seen[real] = file
    return files[0] if len(files) == 1 else InputFiles(files)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Return whether an input is the address of a file or folder in an object store, such as ``s3://bucket/file``.

    Parameters
    ----------
    path : str or PathLike
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(path)) is not None


def is_protein_file(name: str) -> bool:
    """Return whether a file of this name is read when its folder is the input.

    Parameters
    ----------
    name : str
    """
    return name.lower().endswith(_SUFFIXES) and not name.endswith(_LISTING) and not name.startswith(".")


def parts(source: Input) -> list[str | os.PathLike[str]]:
    """Return the files of an input.

    Parameters
    ----------
    source : str, PathLike or InputFiles
        The input.
    """
    return list(source) if isinstance(source, InputFiles) else [source]


def input_name(source: Input) -> str:
    """Return the name of an input for messages.

    Parameters
    ----------
    source : str, PathLike or InputFiles
        The input.
    """
    return source.name if isinstance(source, InputFiles) else source_name(source)


def reads_once(source: Input) -> bool:
    """Return whether a part of an input can be read only once; see :func:`prott5nv.io.source.is_read_once`.

    Parameters
    ----------
    source : str, PathLike or InputFiles
        The input.
    """
    return any(map(is_read_once, parts(source)))


def _hint(name: str) -> str:
    """Return what to do if the name of a missing file is a sequence."""
    if not re.fullmatch("[A-Z]{10,}", name):
        return ""
    return "; to use a sequence, write it to a FASTA file: a line >name, and the sequence below it"


def _files_in(folder: Path) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ProtT5nvError(f"{folder}: {error.strerror}") from None
    files = [str(folder / name) for name in names if is_protein_file(name)]
    if not files:
        raise ProtT5nvError(f"{folder}: this folder has no file whose name ends in {', '.join(_SUFFIXES)}")
    for file in files:
        if not os.path.isfile(file):
            raise ProtT5nvError(f"{file}: this is no plain file; give its name, if you want to read it")
    return files
