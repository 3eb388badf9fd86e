"""The limit of oneDNN's cache."""

from __future__ import annotations

import os
import subprocess
import sys

from prott5nv import limit_onednn_cache

NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def test_both_caches_are_limited_and_a_users_value_is_kept(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "7")
        monkeypatch.delenv(name)
    monkeypatch.setenv(NAMES[1], "100")
    limit_onednn_cache()
    assert [os.environ[name] for name in NAMES] == ["5", "100"]


def test_it_imports_no_pytorch():
    code = "import sys, prott5nv; prott5nv.limit_onednn_cache(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
