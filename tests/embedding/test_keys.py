"""The register of keys: duplicates, memory, and a full disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prott5nv.embedding.keys import KeyRegister, Owner


def test_the_first_owner_of_a_key_is_returned():
    register = KeyRegister()
    owners = {f"Q{number * 7919 % 20_011:06}": Owner(f"protein {number}", number) for number in range(20_011)}
    assert all(register.claim(key, owner) is None for key, owner in owners.items())
    assert all(register.claim(key, Owner("other", 0)) == owners[key] for key in list(owners)[::1000])
    assert register.claim("q000000", Owner("other case", 0)) is None
    assert register.claim("Q000000 ", Owner("other end", 0)) is None


CLAIM_MANY = """
import resource
from prott5nv.embedding.keys import KeyRegister, Owner

def claim(count):
    register = KeyRegister()
    for number in range(count):
        register.claim(f"UniRef50_A0A{number * 7919 % 1000003}", Owner(f"UniRef50_A0A{number}", number))
"""


def test_memory_does_not_grow_with_the_number_of_keys():
    code = f"""{CLAIM_MANY}
peaks = []
for count in 10_000, 100_000:
    claim(count)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 8  # MB; a dictionary would take 25 MB


def test_a_full_disk_is_reported_in_one_line():
    resource = pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", f"{CLAIM_MANY}\nclaim(50_000)"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20,) * 2),
    )
    assert "ProtT5nvError: no room for the list of ids in the folder of temporary files" in done.stderr
