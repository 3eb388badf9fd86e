"""Whether answers wait to be sent."""

import signal
import socket
import subprocess
import sys

import pytest
from helpers.waiting import wait_until

from prott5nv.scale.delivery import has_unsent_bytes

ANSWER = 30_000_000  # bytes, more than the system's queues hold
SERVER = """
import asyncio, sys

class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"x" * int(sys.argv[2]))
        asyncio.get_running_loop().call_later(0.1, lambda: print("written", flush=True))

async def serve():
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(600)

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(serve())
else:
    asyncio.run(serve())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the tables of Linux")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_paused_program_still_has_bytes_to_send(loop):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    server = subprocess.Popen([sys.executable, "-c", SERVER, loop, str(ANSWER)], stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline())
        assert not has_unsent_bytes(port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert server.stdout.readline() == "written\n"
            received = 0
            server.send_signal(signal.SIGSTOP)
            client.settimeout(2)
            with pytest.raises(TimeoutError):
                while True:
                    received += len(client.recv(1 << 20))
            assert 0 < received < ANSWER  # The system's queues are empty, and the program holds the remainder.
            assert has_unsent_bytes(port)
            server.send_signal(signal.SIGCONT)
            while received < ANSWER:
                received += len(client.recv(1 << 20))
            wait_until(lambda: not has_unsent_bytes(port), 60)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
