"""Fine-tuning on FLIP, the benchmark of ProtT5nv, and on tables of a user's own.

Where things are:

==================================  =====================================================================
From FLIP's files to one table      ``files.py`` (what FLIP offers), ``prepare.py`` (the table of a task)
From a table to a task              ``tasks.py``: proteins, targets and sets
From proteins to rows of features   ``features.py``: one-hot, cached embeddings, or an encoder in training
From rows to scores                 ``heads.py``; ``adapters.py`` selects what is trained in the encoder
Training and prediction             ``train.py``
Scores with intervals               ``metrics.py``; ``baselines.py`` trains models without an encoder
The whole run                       ``finetune.py``, by the settings in ``config.py``
The saved model                     ``predictor_file.py`` (format), ``predictor.py`` and ``predict.py`` (use)
Runs side by side                   ``report.py``, ``plots.py``, ``published.py``
==================================  =====================================================================

To add a head:

1. Write a class in ``heads.py``, derived from ``_ResidueHead`` or ``_ProteinHead``, and add it to ``HEADS``.
2. Write a dataclass of its settings in ``config.py``, and add it to ``HeadConfig`` under the head's name.
3. Add default values of the settings to ``conf/task/base.yaml``.

To add a task:

1. If FLIP has its files, describe them in ``prepare.FLIP``. Any other CSV table works as it is.
2. Add ``conf/task/NAME.yaml`` with the split, the head and the training settings that differ from ``base.yaml``.
"""

from __future__ import annotations

from importlib.util import find_spec

from prott5nv.errors import ProtT5nvError

_REQUIRED = ("hydra", "peft", "torchmetrics", "sklearn", "matplotlib", "safetensors", "jinja2")


def require_extra() -> None:
    """Raise an error in one line if packages for fine-tuning are missing, before any of them is imported.

    Raises
    ------
    ProtT5nvError
        Names the missing packages and how to install them.
    """
    missing = [name for name in _REQUIRED if find_spec(name) is None]
    if missing:
        raise ProtT5nvError(f"fine-tuning needs {', '.join(missing)}: pip install 'prott5nv[finetune]'")
