"""Downloads of large files: interrupted ones are resumed, and the publisher's checksum is verified."""

from __future__ import annotations

import errno
import gzip
import http.client
import os
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.atomic import publish, write_text
from prott5nv.io.checksum import file_checksum
from prott5nv.io.exclusive import lock_or_refuse, open_own
from prott5nv.io.output import check_no_link
from prott5nv.io.source import read_small

_BLOCK = 1 << 20
_METALINK = "RELEASE.metalink"
_TIMEOUT = 60  # seconds without any data
_ATTEMPTS = 6  # number of consecutive attempts without new data
_FIRST_PAUSE = 1.0  # seconds after such an attempt; doubled each time


class Download(NamedTuple):
    """A downloaded file.

    Attributes
    ----------
    path : Path
    release : str or None
        Name of the release if the publisher gives one, such as ``2026_03`` for UniProt.
    md5 : str or None
        The publisher's checksum, with which the file agrees; None if the publisher gives none.
    """

    path: Path
    release: str | None
    md5: str | None


class _Published(NamedTuple):
    """What the publisher states about a file, beside it."""

    release: str | None = None
    md5: str | None = None


class _Version(NamedTuple):
    """The version of a file on the server: its strong ETag or its date, and its size in bytes, where they are known."""

    validator: str | None
    size: int | None


def is_address(source: str | os.PathLike) -> bool:
    """Return whether a source is a web address.

    Examples
    --------
    >>> is_address("https://ftp.uniprot.org/pub/databases/uniprot/uniref/uniref50/uniref50.fasta.gz")
    True
    """
    return str(source).startswith(("http://", "https://"))


def download(address: str, folder: Path) -> Download:
    """Download a file into a folder under its own name.

    The file gets its name when it is complete and its checksum is correct. Until then it is ``NAME.partial``. The same
    call resumes such a file, also after a kill, if the server still has the same version. If the connection breaks, the
    download reconnects and continues. UniProt publishes checksums and the release beside its files, in
    ``RELEASE.metalink``. For other servers there is a warning; then only the size is checked, or the end of the gzip
    data if the server does not state the size. An existing file of the final name is checked in the same way.

    Parameters
    ----------
    address : str
        ``http`` or ``https``.
    folder : Path

    Returns
    -------
    Download

    Raises
    ------
    ProtT5nvError
        If the server refuses, the connection keeps breaking, the checksum is wrong, an existing file is not the
        server's, or another process downloads the same file.
    """
    url_path = urlsplit(address).path
    name = Path(url_path).name
    if not name or url_path.endswith("/"):
        raise ProtT5nvError(f"{address}: this is the address of a folder; give that of a file")
    path, partial = folder / name, folder / f"{name}.partial"
    check_no_link(path)
    try:
        published = _read_metalink(address)
        if path.exists():
            _check_existing(address, path, published)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(partial):
                _fetch(address, partial)
                _check(address, partial, published)
                publish(partial, path)
                _version_file(partial).unlink(missing_ok=True)
    except HTTPError as error:
        raise ProtT5nvError(f"{address}: the server answers {error.code} {error.reason}") from None
    except OSError as error:
        raise ProtT5nvError(f"{error.filename or address}: {error.strerror or error}") from None
    return Download(path, *published)


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Create the partial file if it is missing, and lock it, so that two processes do not write to it."""
    try:
        descriptor = open_own(str(partial), os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ProtT5nvError(f"{partial}: this is a symbolic link; delete it") from None
        raise
    try:
        lock_or_refuse(descriptor, partial, f"{partial}: another process downloads this file")
        yield
    finally:
        os.close(descriptor)


def _fetch(address: str, partial: Path) -> None:
    pause, failures = _FIRST_PAUSE, 0
    largest = partial.stat().st_size  # a part of another version is deleted, which is no progress
    while True:
        try:
            if _fetch_rest(address, partial):
                return
            reason = "the connection was lost before the end of the file"
        except HTTPError as error:
            if error.code < 500:
                raise
            reason = f"{error.code} {error.reason}"
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        except OSError as error:
            if error.errno is not None:  # an error of our disk; network errors have a reason instead
                raise
            reason = str(getattr(error, "reason", error))
        if (size := partial.stat().st_size) > largest:
            pause, failures, largest = _FIRST_PAUSE, 0, size
            continue
        failures += 1
        if failures == _ATTEMPTS:
            raise ProtT5nvError(f"{address}: {reason}; the same command resumes the download")
        time.sleep(pause)
        pause *= 2


def _fetch_rest(address: str, partial: Path) -> bool:
    """Append the missing part, and return whether the file is complete."""
    start, known = partial.stat().st_size, _read_version(partial)
    headers = {}
    if start and known.validator:
        # If the file on the server has changed, the server answers with the whole new file.
        headers = {"Range": f"bytes={start}-", "If-Range": known.validator}
    try:
        response = urlopen(Request(address, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        size = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if error.code == 416 and size and int(size[1]) == start == (known.size or start):  # the file is complete
            return True
        if error.code == 416:  # the file on the server is shorter now
            partial.write_bytes(b"")
            return False
        raise
    with response:
        version, first = _version_of(response)
        if response.status == 206 and (first != start or not _is_same(version, known)):
            partial.write_bytes(b"")  # this is a part of another version
            return False
        if response.status != 206:
            start = 0
            # Without the old version, nobody appends to what the old file leaves if this process is killed now.
            _version_file(partial).unlink(missing_ok=True)
        total = version.size
        with (
            open(partial, "ab" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=partial.stem, disable=None) as progress,
        ):
            if not start:
                _write_version(partial, version)
            while block := response.read(_BLOCK):
                file.write(block)
                progress.update(len(block))
            file.flush()
            os.fsync(file.fileno())
            size_now = file.tell()
        if total is not None:
            return size_now == total
        return not _is_cut_gzip(partial)


def _version_of(response: HTTPResponse) -> tuple[_Version, int]:
    """Return the version of the file in a response, and the position of the response's first byte in the file."""
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    if response.status == 206:
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return _Version(validator, int(part[2]) if part else None), int(part[1]) if part else -1
    length = response.headers.get("Content-Length")
    return _Version(validator, int(length) if length and length.isdecimal() else None), 0


def _is_same(version: _Version, known: _Version) -> bool:
    """Return whether a response belongs to the version of a partial file."""
    same_size = known.size is None or version.size == known.size
    return version.validator == known.validator and version.size is not None and same_size


def _is_cut_gzip(path: Path) -> bool:
    """Return whether gzip data end too early. Other data are never cut as far as anybody can tell."""
    with open(path, "rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return False
    try:
        with gzip.open(path) as stream:
            while stream.read(_BLOCK):
                pass
    except (EOFError, OSError, zlib.error):
        return True
    return False


def _version_file(partial: Path) -> Path:
    """Return the file that holds the server's version of a partial file."""
    return partial.with_name(f"{partial.name}.version")


def _write_version(partial: Path, version: _Version) -> None:
    lines = [version.validator or "", "" if version.size is None else str(version.size)]
    write_text(_version_file(partial), "\n".join(lines))


def _read_version(partial: Path) -> _Version:
    try:
        validator, _, size = read_small(_version_file(partial)).decode().partition("\n")
    except (OSError, UnicodeDecodeError, ProtT5nvError):
        return _Version(None, None)
    return _Version(validator or None, int(size) if size.isdecimal() else None)


def _read_metalink(address: str) -> _Published:
    """Read UniProt's list of files and checksums beside this file; a warning says if there is none."""
    name = Path(urlsplit(address).path).name
    try:
        with urlopen(urljoin(address, _METALINK), timeout=_TIMEOUT) as response:
            text = response.read(_BLOCK).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException) as error:
        reason = f"{_METALINK} cannot be read: {getattr(error, 'reason', None) or error}"
        text = ""
    else:
        reason = f"{_METALINK} does not list it"
    entry = re.search(
        rf'<file name="{re.escape(name)}">(?:(?!</file>).)*?<hash type="md5">\s*([0-9a-fA-F]{{32}})\s*</hash>',
        text,
        re.DOTALL,
    )
    release = re.search(r"<version>\s*([^<\s]+)\s*</version>", text)
    if entry is None:
        warn(f"{address}: there is no checksum of this file ({reason}); only its length is checked")
    return _Published(release and release[1], entry and entry[1].lower())


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return file_checksum(file, "md5")


def _check(address: str, partial: Path, published: _Published) -> None:
    """Delete a download whose checksum is not the publisher's."""
    if published.md5 is None or (md5 := _md5(partial)) == published.md5:
        return
    partial.unlink()
    raise ProtT5nvError(
        f"{address}: the checksum of the downloaded file is {md5}, but the publisher gives "
        f"{published.md5}; the same command downloads it again"
    )


def _check_existing(address: str, path: Path, published: _Published) -> None:
    """Refuse a file that was there before, unless it is the server's."""
    if published.md5 is not None:
        if (md5 := _md5(path)) != published.md5:
            raise ProtT5nvError(
                f"{path}: exists already with the checksum {md5}, but the publisher gives {published.md5}, perhaps "
                "because there is a new release; delete or rename the file"
            )
        return
    with urlopen(Request(address, method="HEAD"), timeout=_TIMEOUT) as response:
        size = _version_of(response)[0].size
    if size is not None and size != path.stat().st_size:
        raise ProtT5nvError(
            f"{path}: exists already with {path.stat().st_size:,} bytes, and the file on the server has {size:,}; "
            "delete or rename it"
        )
    if size is None and _is_cut_gzip(path):
        raise ProtT5nvError(f"{path}: exists already, and its gzip data are incomplete; delete it")
