"""A small Ray cluster in the processes of this machine."""

import pytest


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
