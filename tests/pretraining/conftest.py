from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def training_data(tmp_path_factory, examples) -> Path:
    """The example proteins as ``prott5nv prepare uniref50`` splits them."""
    from prott5nv.data.uniref50 import prepare

    folder = tmp_path_factory.mktemp("prepared") / "examples"
    prepare(examples / "proteins.fasta", folder, validation=4, test=4)
    return folder
