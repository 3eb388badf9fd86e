"""``prott5nv report``: compare fine-tuning runs."""

from __future__ import annotations

from pathlib import Path

import click

from prott5nv.cli import options
from prott5nv.extras import require_extra


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.overwrite
def command(folder: Path, overwrite: bool) -> None:
    """Compare the fine-tuning runs in DIR with each other, their baselines and published results.

    The command reads the results of prott5nv finetune in DIR and all folders below it. It writes four files to DIR:
    report.md and report.json hold the table of all scores, and report.png a figure of them, with several models side
    by side. Results of benchmarks/proteingym.py below DIR are shown, too. The page report.html adds
    confusion matrices, plots of predicted against measured values, learning curves and scores by protein length. The
    page needs no other file, so you can send it to others. The command needs the extra finetune.

    \b
    Examples:
      prott5nv report results/finetune
      prott5nv report results/finetune --overwrite
    """
    require_extra("finetune", "report")
    from prott5nv.flip.report import report

    for path in report(folder, overwrite=overwrite):
        options.report_written(path)
