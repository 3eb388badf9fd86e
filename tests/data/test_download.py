"""Downloads from a server that loses connections, changes its file or sends wrong data."""

import gzip
import hashlib
import json
import random
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from prott5nv.data import download as module
from prott5nv.data.download import download
from prott5nv.errors import ProtT5nvError

CONTENT = random.Random(0).randbytes(3_000_000)
FASTA = gzip.compress("".join(f">UniRef50_P{number}\nMSLKRAVLGG\n" for number in range(100)).encode())


class Server:
    """Serves one file and its metalink; it closes each connection after at most `most` bytes."""

    def __init__(self):
        self.content, self.version, self.most, self.ranges, self.requests = CONTENT, "v1", None, True, []
        self.shift, self.length, self.metalink_status = 0, True, 200
        self.checksum = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/RELEASE.metalink" and server.metalink_status != 200:
                    return self.send_error(server.metalink_status)
                if self.path == "/RELEASE.metalink" and server.checksum:
                    return self.answer(200, server.metalink().encode())
                if self.path != "/uniref50.fasta.gz":
                    return self.send_error(404)
                server.requests.append(self.headers.get("Range"))
                content, start = server.content, 0
                requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                if requested and server.ranges and self.headers["If-Range"] == server.version:
                    start = int(requested[1])
                    if start >= len(content):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(content)}")
                        return self.end_headers()
                first = start + server.shift if start else 0
                place = f"bytes {first}-{len(content) - 1}/{len(content)}"
                self.answer(206 if start else 200, content[start:], server.most, place if start else None)

            def do_HEAD(self):
                self.answer(200, server.content, 0)

            def answer(self, status, content, most=None, place=None):
                self.send_response(status)
                self.send_header("ETag", server.version)
                if place:
                    self.send_header("Content-Range", place)
                if server.length:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:most])

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/uniref50.fasta.gz"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def metalink(self):
        return (
            f'<metalink><version>2026_04</version><files><file name="other"><verification><hash type="md5">{"0" * 32}'
            '</hash></verification></file><file name="uniref50.fasta.gz"><size>1</size><verification>'
            f'<hash type="md5">{self.checksum}</hash></verification></file></files></metalink>'
        )


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_the_download_continues_after_a_lost_connection(server, tmp_path):
    server.most, server.checksum = 1_000_000, md5(CONTENT)
    path, release, checksum = download(server.address, tmp_path)
    assert path.read_bytes() == CONTENT and (release, checksum) == ("2026_04", md5(CONTENT))
    assert server.requests == [None, "bytes=1000000-", "bytes=2000000-"]
    assert [file.name for file in tmp_path.iterdir()] == ["uniref50.fasta.gz"]


def test_the_next_call_resumes_the_download(server, tmp_path):
    server.most = 0
    (tmp_path / "uniref50.fasta.gz.partial").write_bytes(CONTENT[:700_000])
    (tmp_path / "uniref50.fasta.gz.partial.version").write_text("v1")
    with pytest.raises(ProtT5nvError, match="connection was lost before the end of the file; the same command resumes"):
        download(server.address, tmp_path)
    server.most = None
    assert download(server.address, tmp_path).path.read_bytes() == CONTENT
    assert set(server.requests) == {"bytes=700000-"}


def test_a_complete_partial_file_gets_its_name(server, tmp_path):
    (tmp_path / "uniref50.fasta.gz.partial").write_bytes(CONTENT)
    (tmp_path / "uniref50.fasta.gz.partial.version").write_text("v1")
    assert download(server.address, tmp_path).path.read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["another release", "a server without ranges"])
def test_parts_of_two_versions_are_never_combined(server, tmp_path, change):
    (tmp_path / "uniref50.fasta.gz.partial").write_bytes(b"x" * 700_000)
    (tmp_path / "uniref50.fasta.gz.partial.version").write_text("v0" if change == "another release" else "v1")
    server.ranges = change == "another release"
    assert download(server.address, tmp_path).path.read_bytes() == CONTENT


def test_a_file_with_a_wrong_checksum_is_deleted(server, tmp_path):
    server.checksum = md5(b"something else")
    with pytest.raises(ProtT5nvError, match=f"checksum of the downloaded file is {md5(CONTENT)}"):
        download(server.address, tmp_path)
    assert not (tmp_path / "uniref50.fasta.gz").exists() and not (tmp_path / "uniref50.fasta.gz.partial").exists()


def test_a_complete_file_is_not_downloaded_again(server, tmp_path):
    download(server.address, tmp_path)
    assert download(server.address, tmp_path).release is None
    assert len(server.requests) == 1


def test_a_part_that_begins_elsewhere_is_not_appended(server, tmp_path):
    server.most, server.shift = 1_000_000, 5
    with pytest.raises(ProtT5nvError, match="connection was lost"):
        download(server.address, tmp_path)
    server.most, server.shift = None, 0
    assert download(server.address, tmp_path).path.read_bytes() == CONTENT


def test_a_part_of_a_file_of_another_length_is_not_appended(server, tmp_path):
    """A server whose ETag does not change with the file."""
    (tmp_path / "uniref50.fasta.gz.partial").write_bytes(b"x" * 700_000)
    (tmp_path / "uniref50.fasta.gz.partial.version").write_text(f"v1\n{len(CONTENT) + 1}")
    assert download(server.address, tmp_path).path.read_bytes() == CONTENT


def test_a_weak_etag_does_not_allow_to_resume(server, tmp_path):
    server.version, server.most = 'W/"v1"', 1_000_000
    with pytest.raises(ProtT5nvError, match="connection was lost"):
        download(server.address, tmp_path)
    assert set(server.requests) == {None}


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_missing_checksum_is_a_warning(server, tmp_path, status):
    server.metalink_status = status
    with pytest.warns(
        UserWarning, match=r"uniref50\.fasta\.gz: there is no checksum of this file \(RELEASE\.metalink cannot"
    ):
        assert download(server.address, tmp_path).md5 is None


def test_cut_gzip_data_without_a_length_are_not_complete(server, tmp_path):
    server.content, server.length, server.most, server.ranges = FASTA, False, 200, False
    with pytest.raises(ProtT5nvError, match="connection was lost before the end of the file"):
        download(server.address, tmp_path)
    server.most = None
    assert download(server.address, tmp_path).path.read_bytes() == FASTA


def test_an_existing_file_is_verified(server, tmp_path):
    path = tmp_path / "uniref50.fasta.gz"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(
        ProtT5nvError, match=r"exists already with 2,999,999 bytes, and the file on the server has 3,000,000"
    ):
        download(server.address, tmp_path)
    server.checksum = md5(CONTENT)
    path.write_bytes(b"x" * len(CONTENT))
    with pytest.raises(
        ProtT5nvError, match=f"exists already with the checksum .* but the publisher gives {md5(CONTENT)}"
    ):
        download(server.address, tmp_path)
    path.write_bytes(CONTENT)
    assert download(server.address, tmp_path) == (path, "2026_04", md5(CONTENT))
    server.checksum, server.length = None, False
    path.write_bytes(FASTA[:-10])
    with pytest.raises(ProtT5nvError, match="exists already, and its gzip data are incomplete"):
        download(server.address, tmp_path)


def test_a_planted_link_is_not_written_through(server, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "uniref50.fasta.gz.partial").symlink_to(tmp_path / "precious")
    with pytest.raises(ProtT5nvError, match="symbolic link; delete it"):
        download(server.address, tmp_path)
    (tmp_path / "uniref50.fasta.gz.partial").unlink()
    (tmp_path / "uniref50.fasta.gz").symlink_to(tmp_path / "nothing")
    with pytest.raises(ProtT5nvError, match="this is a link; remove it"):
        download(server.address, tmp_path)
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_two_downloads_of_one_file_do_not_mix(server, tmp_path):
    in_use = module._locked(tmp_path / "uniref50.fasta.gz.partial")
    with in_use, pytest.raises(ProtT5nvError, match="another process downloads this file"):
        download(server.address, tmp_path)
    assert download(server.address, tmp_path).path.read_bytes() == CONTENT


def test_the_address_of_a_folder_is_an_error(tmp_path):
    with pytest.raises(ProtT5nvError, match="this is the address of a folder"):
        download("http://127.0.0.1:9/uniref50/", tmp_path)


@pytest.mark.parametrize(
    "address, message", [("/nothing.gz", "answers 404"), ("http://127.0.0.1:9/x.gz", "Connection refused")]
)
def test_a_missing_file_or_server_is_an_error(server, tmp_path, address, message):
    address = server.address.rpartition("/")[0] + address if address.startswith("/") else address
    with pytest.raises(ProtT5nvError, match=message):
        download(address, tmp_path)


def test_prepare_downloads_a_web_address_and_records_the_release(server, tmp_path):
    server.content, server.checksum, server.most = FASTA, md5(FASTA), 200
    command = [sys.executable, "-m", "prott5nv", "prepare", "uniref50", server.address, "-o", str(tmp_path / "data")]
    done = subprocess.run([*command, "--val", "5", "--test", "5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    provenance = json.loads((tmp_path / "data" / "provenance.json").read_text())
    assert provenance["records_read"] == 100
    assert (provenance["source"], provenance["source_address"]) == ("uniref50.fasta.gz", server.address)
    assert (provenance["release"], provenance["publisher_md5"]) == ("2026_04", md5(FASTA))
    assert provenance["source_sha256"] == hashlib.sha256(FASTA).hexdigest()
