"""Fine-tuning from Python, with the settings of the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prott5nv.assets import config_folder
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra
from prott5nv.flip.config import TABLES, FinetuneConfig, finetune_config, own_table_settings, register_configs
from prott5nv.io.source import refuse_spreadsheet

if TYPE_CHECKING:
    from prott5nv.flip.finetune import FinetuneRun


def finetune(
    task: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    mode: str = "frozen",
    level: str | None = None,
    label: str | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> FinetuneRun:
    """Train a predictor for a task, score it and its baselines, and save it; ``prott5nv finetune`` does the same.

    Parameters
    ----------
    task : str or PathLike
        A table of your own (.csv or .tsv, also with .gz), or the name of a FLIP task, such as ``gb1``.
    output_dir : str or PathLike, optional
        Folder for the results. The default is ``results/finetune/TASK-SPLIT-MODE``.
    model : str or PathLike, optional
        A ``.nemo`` file, or the folder or Hub name of a T5 model. The default is the built-in model.
    mode : {"frozen", "lora", "full"}
        What to train besides the head: nothing, adapters in the encoder, or the whole encoder.
    level : {"residue", "protein"}, optional
        Whether your own table has a target for every residue or for every protein.
    label : {"class", "number"}, optional
        Whether the targets in your own table are classes or numbers. A table that ``prott5nv prepare fasta`` wrote
        needs neither `level` nor `label`.
    overwrite : bool, default False
        Whether to replace results in `output_dir`.
    settings : mapping of str to object, optional
        Further settings by their names on the command line, such as ``{"task.training.epochs": 10}``.

    Returns
    -------
    FinetuneRun
        Folder, scores and validation score. ``Predictor.load(run.folder)`` predicts with the result.

    Raises
    ------
    ProtT5nvError
        If a setting, the table or the model is not valid; see :func:`prott5nv.flip.finetune.finetune`.
    """
    require_extra("finetune", "fine-tuning")
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from prott5nv.settings import describe

    values: dict[str, Any] = {"mode": mode, "overwrite": overwrite}
    given = {"output_dir": output_dir, "model.restore_encoder_path": model, "task.level": level, "task.label": label}
    values |= {name: os.fspath(value) for name, value in given.items() if value is not None}
    name = os.fspath(task)
    refuse_spreadsheet(name)
    if is_table := name.endswith(TABLES):
        table_settings = own_table_settings(name, level, label)
        if not table_settings:
            raise ProtT5nvError("a table of your own needs level='residue' or 'protein', and label='class' or 'number'")
        values |= table_settings
    register_configs()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            cfg = compose("finetune", [f"task={'custom' if is_table else name}"])
        for setting, value in {**values, **(settings or {})}.items():
            OmegaConf.update(cfg, setting, value, force_add=True)  # an unknown name is refused below
        config = finetune_config(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise ProtT5nvError(f"finetune: {describe(error, FinetuneConfig)}") from None
    from prott5nv.flip.finetune import finetune as run  # importing PyTorch takes a second

    return run(config)
