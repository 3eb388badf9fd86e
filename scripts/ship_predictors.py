"""Make the ready predictors of the package for the built-in model, with the commands that the documentation gives.

    python scripts/ship_predictors.py FLIP [NAME=VALUE]...

FLIP is a folder or web address with the FLIP benchmark, as `prott5nv prepare flip --from` takes it. NAME=VALUE changes
a setting of fine-tuning. Run the script again whenever the built-in model is replaced. A run in results/predictors that
is complete and of the present model is used again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from prott5nv.assets import BUILTIN_MODEL, READY_PREDICTORS
from prott5nv.checkpoint.models import checksum
from prott5nv.flip.heads import make_head
from prott5nv.flip.predictor_file import read_predictor, save_predictor

TASKS = {"secondary_structure": "secondary_structure", "localization": "scl"}
CAVEATS = {"localization": " Its compartments are those of eukaryotic cells; it names one for any other protein, too."}
FOLDER = Path("results/predictors")
CARD = """# {name}: a ready predictor for the built-in model

`prott5nv predict {name} proteins.fasta -o out.csv` uses it. It is a demonstration, as the built-in model is.{caveat}

| | |
|---|---|
| predicts | {classes}, for each {level} |
| data | FLIP, {task}, {split}: {proteins} proteins for training / validation / test |
| training | `prott5nv finetune {task}`, encoder frozen, at most {epochs} epochs, the best of seeds {seeds} |
| accuracy on the test set, mean over the seeds | **{mean:.3f}** [{low:.3f}, {high:.3f}] (95 % interval over proteins) |
| encoder | the built-in model, SHA-256 {sha256} |
| licence | weights Apache 2.0; FLIP AFL-3.0 |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="FLIP", help="Folder or web address of the FLIP benchmark.")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="Settings of fine-tuning.")
    arguments = parser.parse_args()
    sha256 = checksum(BUILTIN_MODEL)
    for name, task in TASKS.items():
        run = FOLDER / name
        if not _is_complete(run, sha256):
            if not (FOLDER / "flip" / task).is_dir():
                _prott5nv("prepare", "flip", task, "--from", arguments.source, "-o", FOLDER / "flip")
            data: list[str | Path] = ["--data", FOLDER / "flip", "-o", run, "--overwrite"]
            _prott5nv("finetune", task, *data, "baselines=false", *arguments.settings)
        _ship(name, task, run, sha256)


def _is_complete(run: Path, sha256: str) -> bool:
    result = run / "result.json"
    return result.is_file() and json.loads(result.read_text())["model"]["sha256"] == sha256


def _prott5nv(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "prott5nv", *map(str, arguments)], check=True)


def _ship(name: str, task: str, run: Path, sha256: str) -> None:
    """Write the head alone, because its encoder is the built-in model, and its card."""
    parts = read_predictor(run / "model.safetensors")
    spec = parts.output_spec
    head = make_head(spec.level, parts.config.hidden_size, spec.num_outputs, **parts.head_settings)
    head.load_state_dict(parts.head)
    path = READY_PREDICTORS[name]
    save_predictor(path, None, head, parts.head_settings, spec, sha256)
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    facts = {**result, **result["results"]["encoder"]["all"]["accuracy"], "task": task, "name": name, "sha256": sha256}
    facts["caveat"] = CAVEATS.get(name, "")
    facts["classes"] = ", ".join(spec.classes)
    facts["proteins"] = " / ".join(f"{count:,}" for count in result["proteins"].values())
    facts["split"] += f" ({result['note']})" if result["note"] else ""
    configuration = result["configuration"]
    facts |= {"epochs": configuration["task"]["training"]["epochs"], "seeds": configuration["seeds"]}
    path.with_suffix(".md").write_text(CARD.format(**facts), encoding="utf-8")
    print(f"wrote {path}, {path.stat().st_size / 1e6:.2f} MB, test accuracy {facts['mean']:.3f}")


if __name__ == "__main__":
    main()
