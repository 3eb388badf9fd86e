"""Fine-tuning on FLIP, the benchmark of ProtT5nv, and on tables of a user's own.

Where things are:

==================================  =====================================================================
From FLIP's files to one table      ``files.py``, ``labelled_rows.py`` and ``prepare.py``
From a table to a task              ``tasks.py``: proteins, targets and sets
From proteins to rows of features   ``features.py``: one-hot, cached embeddings, or an encoder in training
From rows to scores                 ``heads.py``; ``adapters.py`` selects what is trained in the encoder
Training and prediction             ``train.py``
Scores with intervals               ``metrics.py``; ``baselines.py`` trains models without an encoder
The whole run                       ``finetune.py``, by the settings in ``config.py``; ``api.py`` calls it from Python
The saved model                     ``predictor_file.py`` (format), ``predictor.py`` and ``predict.py`` (use)
Runs side by side                   ``report.py``, ``plots.py``, ``published.py``
==================================  =====================================================================

To add a head, write a class in ``heads.py``. Derive it from ``ResidueHead`` (one output per residue), ``MeanHead`` (one
output per protein, from the mean of its rows, which alone is cached then) or ``ProteinHead`` (one output per protein,
from all rows). Outside this package, :func:`prott5nv.register_head` adds it. Inside:

1. Add it to ``HEADS``.
2. Write a dataclass of its settings in ``config.py``, and add it to ``HeadConfig`` under the head's name.
3. Add default values of the settings to ``conf/task.yaml``, and the name to the comment of ``name`` there.

To add a task:

1. If FLIP has its files, describe them in ``prepare.FLIP``. Any other CSV table works as it is.
2. Add ``conf/task/NAME.yaml`` with the split, the head and the training settings that differ from ``conf/task.yaml``.
"""
