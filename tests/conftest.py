"""Fixtures that several test modules use."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path

import hypothesis
import pytest

# The models of the tests are too small to profit from a second thread. On a busy machine, threads that wait for each
# other make them many times slower. Child processes inherit this, and PyTorch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent

# In the FLIP files below, the labels depend on the residues, so that a model can learn them.
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
STRUCTURE = {letter: "H" if letter in "AELMQKRH" else "E" if letter in "VIYCWFT" else "C" for letter in LETTERS}
LOCATIONS = ("Cell.membrane", "Cytoplasm", "Nucleus")

# The same examples in every run, and no limit on their duration, which depends on the load of the machine.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None)
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def plain_logging():
    """Commands print what the package logs, also after their end; undo this for the next test."""
    logger = logging.getLogger("prott5nv")
    logger.handlers, logger.propagate, logger.disabled = [], True, False
    logger.setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)


def pytest_collection_modifyitems(config, items):
    """Measure the coverage of fast tests only, because measuring makes a test take half as long again."""
    if config.pluginmanager.hasplugin("_cov"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker("no_cover")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """Device of a computation. A test with this fixture runs on a GPU, too, with the same tolerances."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep the embeddings of fine-tuning out of the user's cache."""
    os.environ["PROTT5NV_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of genuine checkpoints and corpora beside the repository; without it, tests that need it are skipped."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder of genuine checkpoints and corpora beside the repository")
    return folder


@pytest.fixture(scope="session")
def nemo1(shared) -> Path:
    """Folder of small checkpoints that NeMo 1.x wrote."""
    return shared / "fixtures" / "nemo1_tiny"


@pytest.fixture(scope="session")
def truth(nemo1) -> dict:
    """Outputs of NeMo 1.x for these checkpoints: arrays by name."""
    import numpy as np

    with np.load(nemo1 / "groundtruth.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def examples() -> Path:
    """Folder of the example proteins of the repository."""
    return REPOSITORY / "examples"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of the smallest preset with random weights."""
    import torch

    from prott5nv import ModelConfig, ProtT5
    from prott5nv.checkpoint import save_nemo

    torch.manual_seed(0)
    model = ProtT5(ModelConfig.preset("tiny", init_method_std=0.2))
    path = tmp_path_factory.mktemp("tiny_checkpoint") / "tiny.nemo"
    save_nemo(path, model.config, model.state_dict())
    return path


def flip_proteins(count: int, seed: int) -> list[tuple[str, str]]:
    """Ids like those of the Protein Data Bank, and random sequences. The last five exceed the model's length."""
    rng = random.Random(seed)
    lengths = [rng.randint(15, 60) for _ in range(count - 5)] + [530] * 5
    return [(f"{i}abc-{rng.choice('AB')}", "".join(rng.choices(LETTERS, k=length))) for i, length in enumerate(lengths)]


def set_fields(number: int) -> str:
    """The header fields of FLIP that put a fifth of the proteins into the test set and a fifth into validation."""
    return f"SET={'test' if number % 5 == 4 else 'train'} VALIDATION={number % 5 == 3}"


def write_fasta(path: Path, records) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">{header}\n{body}\n" for header, body in records))


@pytest.fixture(scope="session")
def flip_source(tmp_path_factory) -> Path:
    """A folder with the layout of FLIP: one folder per task."""
    folder = tmp_path_factory.mktemp("flip_source")
    known = flip_proteins(40, seed=1)

    structure = folder / "secondary_structure"
    write_fasta(structure / "sequences.fasta", known)
    labels = [(f"{name} {set_fields(i)}", "".join(map(STRUCTURE.get, s))) for i, (name, s) in enumerate(known)]
    write_fasta(structure / "sampled.fasta", labels)
    write_fasta(structure / "mask.fasta", [(name, "0" + "1" * (len(s) - 1)) for name, s in known])

    conservation = folder / "conservation"
    write_fasta(conservation / "sequences.fasta", known)
    degrees = [
        (f"{n} {set_fields(i)}", "".join(str(1 + LETTERS.index(c) % 9) for c in s)) for i, (n, s) in enumerate(known)
    ]
    write_fasta(conservation / "sampled.fasta", degrees[2:])  # two sequences have no labels

    def target(sequence: str) -> float:
        return 40 + 100 * sequence.count("K") / len(sequence)

    def location(sequence: str) -> str:
        return LOCATIONS[min(2, 40 * sequence.count("L") // len(sequence))]

    write_fasta(
        folder / "scl" / "mixed_soft_reconstructed.fasta",
        [(f"{n} TARGET={location(s)} {set_fields(i)}", s) for i, (n, s) in enumerate(known)],
    )
    write_fasta(
        folder / "meltome" / "mixed_split.fasta",
        [(f"{n} TARGET={target(s):.3f} {set_fields(i)} SPECIES=Homo_sapiens", s) for i, (n, s) in enumerate(known)],
    )
    rng = random.Random(2)
    wild_type = "MQYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"
    variants = [wild_type[:38] + "".join(rng.choices(LETTERS, k=3)) + wild_type[41:] for _ in range(40)]
    rows = [
        f"{s},{s[38:41].count('A') + 0.5},{'test' if i % 5 == 4 else 'train'},{i % 5 == 3}"
        for i, s in enumerate(variants)
    ]
    (folder / "gb1").mkdir()
    for split in ("two_vs_rest", "sampled"):
        (folder / "gb1" / f"{split}.csv").write_text("\n".join(["sequence,target,set,validation", *rows]) + "\n")
    return folder


@pytest.fixture(scope="session")
def flip_data(flip_source, tmp_path_factory) -> Path:
    """The folder that ``prott5nv prepare flip`` writes from ``flip_source``."""
    from prott5nv.flip.prepare import FLIP, prepare

    folder = tmp_path_factory.mktemp("flip")
    for task in FLIP:
        prepare(task, flip_source, folder)
    return folder
