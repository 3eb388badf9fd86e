"""Runs a function with a Hydra configuration: its folder, quoting of values, log output, errors in one line."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

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
    quote_texts,
    refuse_unknown_flags,
    refuse_unknown_settings,
    text_settings,
)
from prott5nv.errors import ProtT5nvError
from prott5nv.io.text import printable
from prott5nv.settings import describe


def run(
    function: Callable[[DictConfig], float | None],
    config_name: str,
    register: Callable[[], None],
    config: type,
    folder: str,
    measure: str,
    arguments: Sequence[str] | None = None,
) -> None:
    """Run a function with the configuration that the command line composes.

    Settings of text, such as paths, take any text without quoting for Hydra. Each job of ``--multirun`` writes to its
    own folder, and a table of all jobs is printed at the end.

    A user's error ends the process with exit code 2 and one line on standard error. ``HYDRA_FULL_ERROR=1`` shows the
    traceback instead. Ctrl-C ends it with exit code 130 and one line.

    Parameters
    ----------
    function : callable
        Takes the composed configuration. What it returns is the result of a job, which Hydra's sweepers optimize.
    config_name : str
        File in :func:`config_folder`, without its suffix.
    register : callable
        Registers the types of the configuration in Hydra's ``ConfigStore``.
    config : type
        Dataclass of all settings.
    folder : str
        Name of the setting that decides the folder of the results.
    measure : str
        What the function returns, for the table of ``--multirun``.
    arguments : sequence of str, optional
        Overrides and flags for Hydra, instead of those in ``sys.argv``.
    """
    quiet()
    register()
    full_error = os.environ.get("HYDRA_FULL_ERROR", "0")
    show_traceback = full_error == "1" or is_verbose()
    process_arguments = sys.argv
    given = sys.argv[1:] if arguments is None else list(arguments)
    jobs: list[Job] = []

    def guarded(cfg: DictConfig | None = None) -> float | None:
        try:
            if cfg is None:
                refuse_unknown_flags(given, config)
                main()
                if jobs:
                    print(job_table(jobs, measure))
                return None
            # Lightning starts the processes of further devices with the command line of this one.
            sys.argv = process_arguments
            configure_logging()
            refuse_missing_values(cfg)
            is_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
            if is_multirun and not differs_between_jobs(given, folder):
                OmegaConf.update(cfg, folder, f"{OmegaConf.select(cfg, folder)}-{HydraConfig.get().job.num}")
            refuse_unknown_settings(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)), config)
            result = function(cfg)
            if is_multirun:
                overrides = [each for each in HydraConfig.get().overrides.task if not each.startswith(f"{folder}=")]
                jobs.append(Job(str(OmegaConf.select(cfg, folder)), overrides, result))
            return result
        except (ProtT5nvError, HydraException, OmegaConfBaseException) as error:
            if show_traceback:
                raise
            if _is_first_process_of_machine():
                print(f"prott5nv: error: {printable(describe(error, config))}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            if _is_first_process_of_machine():
                print("prott5nv: stopped", file=sys.stderr)
            sys.exit(130)

    main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)(guarded)
    try:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its errors itself, over many lines
        sys.argv = [sys.argv[0], *quote_texts(given, text_settings(config))]  # Hydra reads nothing else
        guarded()
    finally:
        os.environ["HYDRA_FULL_ERROR"] = full_error
        sys.argv = process_arguments
        HydraConfig.instance().cfg = None  # NeMo would take a later run of this process for one of Hydra's


class Job(NamedTuple):
    """A finished job of ``--multirun``: its folder, its overrides, and what its function returned."""

    folder: str
    overrides: list[str]
    result: float | None


def job_table(jobs: Sequence[Job], measure: str) -> str:
    """Return a table of the jobs, with the overrides in which they differ.

    >>> print(job_table([Job("a", ["lr=1", "seed=3"], 17.25), Job("b", ["lr=2", "seed=3"], None)], "perplexity"))
    perplexity  run  settings
        17.250  a    lr=1
             -  b    lr=2
    """
    common = set.intersection(*(set(job.overrides) for job in jobs))
    width = max(len("run"), *(len(job.folder) for job in jobs))
    lines = [f"{measure}  {'run':<{width}}  settings"]
    for job in jobs:
        result = "-" if job.result is None else f"{job.result:.3f}"
        settings = " ".join(override for override in job.overrides if override not in common)
        lines.append(f"{result:>{len(measure)}}  {job.folder:<{width}}  {settings}".rstrip())
    return "\n".join(lines)


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
    sections: list[tuple[str, object]] = [("", OmegaConf.to_container(cfg, resolve=False))]
    while sections:
        name, value = sections.pop()
        if value == "???":
            raise ProtT5nvError(f"{name} has no value: add {name}=VALUE")
        if isinstance(value, dict):
            sections += [(f"{name}.{key}" if name else key, inner) for key, inner in reversed(value.items())]


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
