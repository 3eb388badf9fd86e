"""Runs a function with a Hydra configuration: its folder, quoting of values, log output, errors in one line."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, NoReturn, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prott5nv.assets import config_folder
from prott5nv.cli.log import is_verbose, log_training
from prott5nv.cli.overrides import (
    differs_between_jobs,
    is_multirun,
    quote,
    quote_texts,
    refuse_unknown_flags,
    refuse_unknown_settings,
    text_settings,
)
from prott5nv.errors import ProtT5nvError
from prott5nv.io.table import write_table
from prott5nv.io.text import printable
from prott5nv.settings import describe, flat

logger = logging.getLogger(__name__)

#: Name of the table of all jobs in the folder of a sweep.
SWEEP_TABLE = "runs.csv"


class Score(NamedTuple):
    """What a job has reached: a metric, its usual value, and the value that Hydra's sweepers optimize."""

    metric: str
    value: float
    objective: float


class Program(NamedTuple):
    """A program whose settings Hydra composes.

    Attributes
    ----------
    run : callable
        Takes the composed configuration and does the work of a job. Returns None if nothing was scored.
    check : callable
        Takes the composed configuration and raises a ProtT5nvError if `run` cannot use it. ``--multirun`` checks all
        jobs before the first one starts.
    config_name : str
        File in :func:`config_folder`, without its suffix.
    register : callable
        Registers the types of the configuration in Hydra's ``ConfigStore``.
    config : type
        Dataclass of all settings.
    folder : str
        Name of the setting that decides the folder of the results.
    """

    run: Callable[[DictConfig], Score | None]
    check: Callable[[DictConfig], object]
    config_name: str
    register: Callable[[], None]
    config: type
    folder: str


def run(program: Program, arguments: Sequence[str] | None = None) -> None:
    """Run a program with the configuration that the command line composes.

    Settings of text, such as paths, take any text without quoting for Hydra. Each job of ``--multirun`` writes to its
    own folder. A table of all jobs is printed at the end, and written to the folder of the sweep after each job.

    A user's error ends the process with exit code 2 and one line on standard error. ``HYDRA_FULL_ERROR=1`` shows the
    traceback instead. Ctrl-C ends it with exit code 130 and one line.

    Parameters
    ----------
    program : Program
    arguments : sequence of str, optional
        Overrides and flags for Hydra, instead of those in ``sys.argv``.
    """
    quiet()
    program.register()
    full_error = os.environ.get("HYDRA_FULL_ERROR", "0")
    process_arguments = sys.argv
    given = sys.argv[1:] if arguments is None else list(arguments)
    launch = _Launch(program, given, show_traceback=full_error == "1" or is_verbose())
    try:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its errors itself, over many lines
        launch.run()
    finally:
        os.environ["HYDRA_FULL_ERROR"] = full_error
        sys.argv = process_arguments
        HydraConfig.instance().cfg = None  # NeMo would take a later run of this process for one of Hydra's


class _Launch:
    """The work of :func:`run`: all jobs of one command line."""

    def __init__(self, program: Program, given: Sequence[str], show_traceback: bool) -> None:
        self.program = program
        self.given = given
        self.show_traceback = show_traceback
        self.process_arguments = sys.argv
        self.hydra_arguments = [sys.argv[0], *quote_texts(given, text_settings(program.config))]
        self.jobs: list[Job] = []

    def run(self) -> None:
        with self._errors_in_one_line():
            refuse_unknown_flags(self.given, self.program.config)
            if _are_jobs_known(self.given):
                with TemporaryDirectory() as folder:
                    checks = [*_without_callbacks(self.hydra_arguments), f"hydra.sweep.dir={quote(folder)}"]
                    self._call_hydra(self._check, checks)
            try:
                self._call_hydra(self._run_job, self.hydra_arguments)
            finally:  # also if a later job fails
                if self.jobs:
                    print(job_table(self.jobs))
                    print(f"table of the runs: {self.jobs[0].table}")

    def _call_hydra(self, task: Callable[[DictConfig], float | None], arguments: list[str]) -> None:
        sys.argv = arguments  # Hydra reads nothing else
        decorate = hydra.main(
            version_base="1.3", config_path=str(config_folder()), config_name=self.program.config_name
        )
        decorate(task)()

    def _check(self, cfg: DictConfig) -> None:
        with self._errors_in_one_line(_name_of_job(self.given)):
            configure_logging()
            _prepare(cfg, self.program, self.given)
            self.program.check(cfg)

    def _run_job(self, cfg: DictConfig) -> float | None:
        self._check(cfg)
        with self._errors_in_one_line(_name_of_job(self.given)):
            if _in_sweep():
                folder, settings = OmegaConf.select(cfg, self.program.folder), " ".join(_differing(self.given))
                logger.info("\nrun %d: %s  %s", HydraConfig.get().job.num + 1, folder, settings)
            # Lightning starts the processes of further devices with the command line of this one.
            sys.argv = self.process_arguments
            score = self.program.run(cfg)
            if _in_sweep():
                self.jobs.append(_finished_job(cfg, self.program, score))
                _write_job_table(self.jobs)
            return None if score is None else score.objective

    @contextmanager
    def _errors_in_one_line(self, job: str = "") -> Iterator[None]:
        try:
            yield
        except (ProtT5nvError, HydraException, OmegaConfBaseException) as error:
            if self.show_traceback:
                raise
            _exit(2, f"error: {printable(job + describe(error, self.program.config))}")
        except KeyboardInterrupt:
            _exit(130, "stopped")


def _exit(code: int, message: str) -> NoReturn:
    if _is_first_process_of_machine():
        print(f"prott5nv: {message}", file=sys.stderr)
    sys.exit(code)


def _are_jobs_known(arguments: Sequence[str]) -> bool:
    """Return whether the command line is a sweep all of whose jobs are known before the first one.

    Sweepers other than Hydra's own choose values by the results of earlier jobs.
    """
    is_plain = all(not each.startswith(("-", "hydra/")) or is_multirun([each]) for each in arguments)
    return is_plain and is_multirun(arguments)


def _without_callbacks(arguments: Sequence[str]) -> list[str]:
    """Leave out Hydra's callbacks, which would take a check for a job."""
    return [each for each in arguments if "hydra.callbacks." not in each.partition("=")[0]]


def _in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _prepare(cfg: DictConfig, program: Program, given: Sequence[str]) -> None:
    """Give a job of a sweep its own folder, and refuse settings without a value and unknown ones."""
    refuse_missing_values(cfg)
    if _in_sweep() and not differs_between_jobs(given, program.folder):
        folder = f"{OmegaConf.select(cfg, program.folder)}-{HydraConfig.get().job.num}"
        OmegaConf.update(cfg, program.folder, folder)
    refuse_unknown_settings(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)), program.config)


def _name_of_job(given: Sequence[str]) -> str:
    """Return the beginning of an error message, which names the job by the settings that differ between the jobs."""
    differing = _differing(given) if _in_sweep() else []
    return f"the run with {' '.join(differing)}: " if differing else ""


def _differing(given: Sequence[str]) -> list[str]:
    """Return the overrides of this job whose values differ between the jobs of a sweep."""
    overrides = HydraConfig.get().overrides.task
    return [each for each in overrides if differs_between_jobs(given, each.partition("=")[0].lstrip("+"))]


class Job(NamedTuple):
    """A finished job of ``--multirun``: its folder, its overrides and their values, its score, and the table of all."""

    folder: str
    overrides: dict[str, str]
    score: Score | None
    table: Path


def _finished_job(cfg: DictConfig, program: Program, score: Score | None) -> Job:
    values = {}
    for override in HydraConfig.get().overrides.task:
        name, _, written = override.lstrip("+").partition("=")
        value = OmegaConf.select(cfg, name)
        values[name] = value if isinstance(value, str) else written  # without quotes for Hydra
    folder = values.pop(program.folder, str(OmegaConf.select(cfg, program.folder)))
    return Job(folder, values, score, Path(HydraConfig.get().sweep.dir) / SWEEP_TABLE)


def _write_job_table(jobs: Sequence[Job]) -> None:
    """Write the table of a sweep: the folder, the score and the overrides of each job."""
    metrics, names = _metrics(jobs), list(jobs[0].overrides)
    columns = ["run", *(metric.replace(" ", "_") for metric in metrics), *names]
    write_table(
        jobs[0].table,
        columns,
        [
            [
                job.folder,
                *(job.score.value if job.score and job.score.metric == metric else "" for metric in metrics),
                *(job.overrides.get(name, "") for name in names),
            ]
            for job in jobs
        ],
    )


def job_table(jobs: Sequence[Job]) -> str:
    """Return a table of the jobs, with the overrides in which they differ.

    >>> first = Job("a", {"lr": "1", "seed": "3"}, Score("perplexity", 17.25, 17.25), Path("runs.csv"))
    >>> print(job_table([first, Job("b", {"lr": "2", "seed": "3"}, None, Path("runs.csv"))]))
    perplexity  run  settings
        17.250  a    lr=1
             -  b    lr=2
    """
    common = set.intersection(*(set(job.overrides.items()) for job in jobs)) if len(jobs) > 1 else set()
    metrics = _metrics(jobs)
    width = max(len("run"), *(len(job.folder) for job in jobs))
    lines = ["  ".join([*metrics, f"{'run':<{width}}", "settings"])]
    for job in jobs:
        values = [
            (f"{job.score.value:.3f}" if job.score and job.score.metric == metric else "-").rjust(len(metric))
            for metric in metrics
        ]
        settings = " ".join("=".join(each) for each in job.overrides.items() if each not in common)
        lines.append("  ".join([*values, f"{job.folder:<{width}}", settings]).rstrip())
    return "\n".join(lines)


def _metrics(jobs: Sequence[Job]) -> list[str]:
    return list(dict.fromkeys(job.score.metric for job in jobs if job.score))


def refuse_missing_values(cfg: DictConfig) -> None:
    """Refuse a configuration in which a value is still ``???``.

    Parameters
    ----------
    cfg : DictConfig
        Composed configuration.

    Raises
    ------
    ProtT5nvError
        Names the first of these settings.
    """
    # OmegaConf's own error lacks the name of the setting while a debugger or coverage traces the program.
    for name, value in flat(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))).items():
        if value == "???":
            raise ProtT5nvError(f"{name} has no value: add {name}=VALUE")


def configure_logging() -> None:
    """Print what the package logs: information as plain lines on standard output, warnings on standard error.

    Of several processes that train together, only the first prints.
    """
    log_training(_is_first_process())


def quiet() -> None:
    """Hide the start-up messages of NeMo, Lightning and Megatron; their errors still show.

    This changes the warning filters and loggers of the whole process, so only a program may call it: a library that
    did so would hide the warnings of its user's own code.
    """
    warnings.filterwarnings("ignore")
    for name in ("nemo_logger", "nv_one_logger", "lightning", "lightning.pytorch", "megatron", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _is_first_process_of_machine() -> bool:
    """Return whether this process prints an error; the other processes of the machine have the same error."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def _is_first_process() -> bool:
    """Return whether this process is the first of the run, by what torchrun, Slurm or Lightning has set."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return _is_first_process_of_machine() and os.environ.get("NODE_RANK", "0") == "0"
