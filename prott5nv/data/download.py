"""Downloads of large files: interrupted ones are resumed, and the publisher's checksum is verified."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import publish

_BLOCK = 1 << 20
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
    """

    path: Path
    release: str | None


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
    ``RELEASE.metalink``; for other servers, only the size is checked. An existing file of the final name is used as it
    is.

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
        If the server refuses, the connection keeps breaking, or the checksum is wrong.
    """
    name = Path(urlsplit(address).path).name
    path, partial = folder / name, folder / f"{name}.partial"
    try:
        metalink = _metalink(address)
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _fetch(address, partial)
            _check(address, partial, metalink)
            publish(partial, path)
            _validator_file(partial).unlink(missing_ok=True)
    except HTTPError as error:
        raise ProtT5nvError(f"{address}: the server answers {error.code} {error.reason}") from None
    except OSError as error:
        raise ProtT5nvError(f"{error.filename or address}: {error.strerror or error}") from None
    release = re.search(r"<version>\s*([^<\s]+)\s*</version>", metalink)
    return Download(path, release and release[1])


def _fetch(address: str, partial: Path) -> None:
    pause, failures = _FIRST_PAUSE, 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
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
        if partial.exists() and partial.stat().st_size > before:
            pause, failures = _FIRST_PAUSE, 0
            continue
        failures += 1
        if failures == _ATTEMPTS:
            raise ProtT5nvError(f"{address}: {reason}; the same command resumes the download")
        time.sleep(pause)
        pause *= 2


def _fetch_rest(address: str, partial: Path) -> bool:
    """Append the missing part, and return whether the file is complete."""
    validator_file = _validator_file(partial)
    start = partial.stat().st_size if partial.exists() and validator_file.exists() else 0
    headers = {}
    if start:
        # If the file on the server has changed, the server answers with the whole new file.
        headers = {"Range": f"bytes={start}-", "If-Range": validator_file.read_text()}
    try:
        response = urlopen(Request(address, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        size = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if error.code == 416 and size and int(size[1]) == start:  # the file is complete
            return True
        raise
    with response:
        if response.status != 206:
            start = 0
        if validator := response.headers.get("ETag") or response.headers.get("Last-Modified"):
            validator_file.write_text(validator)
        else:
            validator_file.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            open(partial, "ab" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=partial.stem, disable=None) as progress,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                progress.update(len(block))
            file.flush()
            os.fsync(file.fileno())
            return total is None or file.tell() == total


def _validator_file(partial: Path) -> Path:
    """Return the file that holds the server's version of a partial file."""
    return partial.with_name(f"{partial.name}.version")


def _metalink(address: str) -> str:
    """Read UniProt's list of files and checksums beside this file; return an empty text if there is none."""
    try:
        with urlopen(urljoin(address, "RELEASE.metalink"), timeout=_TIMEOUT) as response:
            return response.read(_BLOCK).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _check(address: str, partial: Path, metalink: str) -> None:
    name = re.escape(Path(urlsplit(address).path).name)
    entry = re.search(rf'<file name="{name}">.*?<hash type="md5">\s*([0-9a-f]{{32}})\s*</hash>', metalink, re.DOTALL)
    if entry is None:
        return
    checksum = hashlib.md5(usedforsecurity=False)
    with open(partial, "rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    if checksum.hexdigest() != entry[1]:
        partial.unlink()
        raise ProtT5nvError(
            f"{address}: the checksum of the downloaded file is {checksum.hexdigest()}, but the publisher gives "
            f"{entry[1]}; the same command downloads it again"
        )
