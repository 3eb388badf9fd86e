import socket
from pathlib import Path

import pytest
from helpers.forked import server
from helpers.ranks import run_rank


@pytest.fixture(scope="session")
def training_data(tmp_path_factory, examples) -> Path:
    """The example proteins, as ``prott5nv prepare uniref50`` splits them."""
    from prott5nv.data.prepare import prepare

    folder = tmp_path_factory.mktemp("prepared") / "examples"
    prepare(examples / "proteins.fasta", folder, validation=4, test=4)
    return folder


@pytest.fixture
def cfg(training_data):
    """The configuration of a tiny run without dropout."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from prott5nv.assets import config_folder
    from prott5nv.pretraining.presets import register

    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose(
            "pretrain",
            overrides=[
                "model=tiny",
                f"model.data.dataset_path={training_data}",
                "model.data.num_workers=0",
                "model.global_batch_size=8",
                "model.micro_batch_size=8",
                "model.hidden_dropout=0",
                "model.attention_dropout=0",
                "trainer.max_steps=3",
            ],
        )
    OmegaConf.resolve(cfg)
    return cfg


@pytest.fixture(scope="session")
def on_ranks():
    """Return a function that calls another one in several gloo processes and returns their results, by rank.

    The processes are forked from one that has only imported NeMo, because a process that has used PyTorch's threads
    cannot be forked.
    """
    context = server()

    def call(size, function, *arguments):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        results = context.Queue()
        processes = [
            context.Process(target=run_rank, args=(rank, size, port, function, arguments, results))
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        try:
            returned = [results.get(timeout=1000) for _ in range(size)]
        finally:
            for process in processes:
                process.kill()
        for rank, _, failure in returned:
            assert failure is None, f"rank {rank}: {failure}"
        return [value for _, value, _ in sorted(returned, key=lambda item: item[0])]

    return call
