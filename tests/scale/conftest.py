"""A small Ray cluster in the processes of this machine."""

from contextlib import nullcontext

import numpy as np
import pytest

from prott5nv import ProtT5nvError


@pytest.fixture(scope="session")
def ray(tmp_path_factory):
    """Ray with two CPUs. It is stopped after the last test."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")  # otherwise Ray writes a token to the home folder
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_raylet_start_wait_time_s", "120")  # on a busy machine
        ray.init(
            num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False,
            logging_level="ERROR",
        )  # fmt: skip
        yield ray
        ray.shutdown()


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of few residues."""
    job = pytest.importorskip("prott5nv.scale.job")
    monkeypatch.setattr(job, "residues_per_shard", lambda *_: 3000)


@pytest.fixture
def in_this_process(small_shards, monkeypatch):
    """Runs the actors in this process, and returns the numbers of the shards that they embedded."""
    from prott5nv.scale import job
    from prott5nv.scale.embed_shards import EmbedShards, describe

    embedded = []

    def embed(run, shard_job, numbers):
        actor = EmbedShards(shard_job)
        for number in numbers:
            result = actor({"shard": np.array([number])})
            if result["error"][0]:
                raise ProtT5nvError(result["error"][0])
            embedded.append(number)

    monkeypatch.setattr(job, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(job, "_resources", lambda request, actors: job._Resources(1, 0, 2, None))
    monkeypatch.setattr(job._Run, "_load", lambda run: describe(run.request))
    monkeypatch.setattr(job._Run, "_embed", embed)
    return embedded
