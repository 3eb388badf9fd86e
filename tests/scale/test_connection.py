"""The connection to Ray."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest

from prott5nv.cli.serve import _Stop
from prott5nv.scale.cluster import connected, starts_ray


@pytest.fixture
def fake_ray(monkeypatch):
    """A module in place of Ray, which prints as Ray does when it starts and records the applications of Ray Serve."""
    ray = SimpleNamespace(addresses=[], is_initialized=lambda: False, shutdown=lambda: None)
    applications = set()
    ray.serve = SimpleNamespace(
        applications=applications,
        start=lambda **settings: None,
        run=lambda application, name, route_prefix: applications.add(name),
        delete=applications.remove,
    )

    def init(address, **settings):
        ray.addresses.append(address)
        os.write(2, b"[I 1 1] logging.cc:303: Set ray log level from environment variable to 3\nanother line\n")

    ray.init = init
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", SimpleNamespace(RayError=RuntimeError))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return ray


def test_ray_is_started_without_an_address_or_a_connection(fake_ray, monkeypatch):
    assert starts_ray(None) and not starts_ray("auto")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not starts_ray(None)
    with connected(None, 0), connected("auto", 0):
        assert fake_ray.addresses == ["10.0.0.1:6379", "auto"]
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(fake_ray, "is_initialized", lambda: True)
    assert not starts_ray(None)


@pytest.mark.parametrize("level", ["fatal", None])
def test_only_the_line_about_the_log_level_is_dropped(level, fake_ray, monkeypatch, capfd):
    if level:
        monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", level)
    else:
        monkeypatch.delenv("RAY_BACKEND_LOG_LEVEL", raising=False)
    with connected("local", 0):
        lines = capfd.readouterr().err.splitlines()
    assert lines[-1] == "another line" and len(lines) == (1 if level else 2)


def test_sigterm_ends_a_server_in_order_while_it_starts(fake_ray, monkeypatch):
    def init(address, **settings):
        signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("Ray's handler was called"))

    monkeypatch.setattr(fake_ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end, _Stop(), connected("local", 0):
            signal.raise_signal(signal.SIGTERM)
        assert end.value.code == 0
        with pytest.raises(SystemExit) as end, _Stop():
            sys.exit(signal.SIGTERM)  # as Ray's handler does while Ray starts
        assert end.value.code == 0
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def server(fake_ray, monkeypatch):
    """The module of the server, without an application."""
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from prott5nv.scale import server

    monkeypatch.setattr(server, "require_extra", lambda *_: None)
    monkeypatch.setattr(server, "_resources", lambda options: {})
    monkeypatch.setattr(server, "_application", lambda options, resources: None)
    monkeypatch.setattr(server, "_described", lambda model: None)
    return server


@pytest.mark.parametrize("cluster", ["option", "RAY_ADDRESS", "connected before", None])
def test_a_server_deletes_its_application_from_a_cluster(cluster, server, fake_ray, monkeypatch):
    if cluster == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    elif cluster == "connected before":
        monkeypatch.setattr(fake_ray, "is_initialized", lambda: True)
    options = server.ServeOptions(port=0, address="10.0.0.1:6379" if cluster == "option" else None)
    with pytest.raises(KeyError), server.serving(options):
        assert fake_ray.serve.applications == {"prott5nv"}
        raise KeyError
    # A Ray that was started here ends, and its applications with it.
    assert fake_ray.serve.applications == (set() if cluster else {"prott5nv"})
    assert fake_ray.addresses == {None: ["local"], "connected before": []}.get(cluster, ["10.0.0.1:6379"])
