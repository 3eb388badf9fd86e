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
        self.checksum = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
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
                self.answer(206 if start else 200, content[start:], server.most)

            def answer(self, status, content, most=None):
                self.send_response(status)
                self.send_header("ETag", server.version)
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
    return hashlib.md5(content).hexdigest()


def test_the_download_continues_after_a_lost_connection(server, tmp_path):
    server.most, server.checksum = 1_000_000, md5(CONTENT)
    path, release = download(server.address, tmp_path)
    assert path.read_bytes() == CONTENT and release == "2026_04"
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
    assert provenance["release"] == "2026_04"
    assert provenance["source_sha256"] == hashlib.sha256(FASTA).hexdigest()
