"""Copies of input files that are in an object store, such as ``s3://bucket/proteins/``, in the folder of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file
from prott5nv.io.inputs import InputFiles, input_files, is_protein_file, is_remote, parts
from prott5nv.io.progress import Progress

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

_BLOCK = 1 << 24  # bytes that are read at once


class _RemoteFile(NamedTuple):
    store: FileSystem
    info: FileInfo
    copy: Path


def with_local_copies(source: str | InputFiles, folder: Path) -> str | InputFiles:
    """Copy the remote files of an input to a folder. A copy that is complete already is kept.

    Parameters
    ----------
    source : str or InputFiles
        The input. Its parts with an address such as ``s3://bucket/file.fasta.gz`` are remote. A remote folder stands
        for its FASTA, CSV, TSV and Parquet files, as a local one does.
    folder : Path
        Folder of the copies. It is created if it is needed. The copy of a file that has changed since has another
        place in it.

    Returns
    -------
    str or InputFiles
        The input with the copies in place of the remote files.

    Raises
    ------
    ProtT5nvError
        If the kind of the address is unknown, or a file is missing or cannot be read.
    OSError
        If a copy cannot be written.
    """
    if not any(is_remote(part) for part in parts(source)):
        return source
    paths: list[str] = []
    files: list[_RemoteFile] = []
    for part in parts(source):
        if is_remote(part):
            found = _find(str(part), folder)
            files += found
            paths += [str(file.copy) for file in found]
        else:
            paths.append(str(part))
    progress = Progress(sum(file.info.size for file in files), "bytes of input files")
    for file in files:
        _copy(file, progress)
    progress.close()
    return input_files(paths)


def _find(address: str, folder: Path) -> list[_RemoteFile]:
    """List the files of an address, and choose where to copy them."""
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSelector, FileSystem, FileType

    try:
        store, path = FileSystem.from_uri(address)
        info = store.get_file_info(path)
        if info.type == FileType.Directory:
            files = [each for each in store.get_file_info(FileSelector(path)) if each.type == FileType.File]
            files = sorted((each for each in files if is_protein_file(each.base_name)), key=lambda each: each.path)
        else:
            files = [info] if info.type == FileType.File else []
    except (OSError, ArrowInvalid, NotImplementedError) as error:
        raise ProtT5nvError(f"{address}: {' '.join(str(error).split())}") from None
    if not files:
        raise ProtT5nvError(f"{address}: there is no such file, or no file of proteins in this folder")
    scheme = address.partition("://")[0]
    return [_RemoteFile(store, each, folder / _version(scheme, each) / each.base_name) for each in files]


def _version(scheme: str, info: FileInfo) -> str:
    """Return a name for a file that is another one if the file changes."""
    return hashlib.sha256(f"{scheme} {info.path} {info.size} {info.mtime_ns}".encode()).hexdigest()[:16]


def _copy(file: _RemoteFile, progress: Progress) -> None:
    if file.copy.is_file() and file.copy.stat().st_size == file.info.size:
        progress.update(file.info.size)
        return
    file.copy.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file.copy) as work, open(work, "wb") as target:
        try:
            # Without `compression=None`, a file whose name ends in .gz would be decompressed.
            source = file.store.open_input_stream(file.info.path, compression=None)
        except OSError as error:
            raise ProtT5nvError(f"{file.info.path}: {' '.join(str(error).split())}") from None
        with source:
            while block := source.read(_BLOCK):
                target.write(block)
                progress.update(len(block))
