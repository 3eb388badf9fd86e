#!/usr/bin/env bash
# Run all GPU tests and all GPU benchmarks, in less than 8 minutes and without a network, and print one table at the end:
#
#     benchmarks/gpu.sh
#
# PYTHON is the interpreter to use, by default python. TMPDIR is on the disk to measure, by default /tmp. The exit code is
# 1 if a test or a benchmark failed, or took longer than its share of the time.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python}
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} HF_HUB_OFFLINE=1
failed=0

# step NAME SECONDS COMMAND...: run a command, show its output, and keep it for the table.
step() {
    local name=$1 seconds=$2
    shift 2
    echo "== $name"
    if ! timeout --kill-after=2 "$seconds" "$@" 2>&1 | tee "$folder/$name.log"; then
        echo "failed: $name" | tee -a "$folder/failures"
        failed=1
    fi
}

# Names in the tables of the benchmarks, residues/s, and the fraction of the peak or of the disk's rate.
rows() {
    awk -F ' *[|] *' '
        FNR == 1 { in_table = 0 }
        !/^[|]/ { in_table = 0; next }
        /^[|]---/ { next }
        !in_table { in_table = 1; split("", column); for (i = 2; i < NF; i++) column[tolower($i)] = i; next }
        {
            fraction = ""
            for (name in column) if (name ~ /^fraction|^of peak$/) fraction = $(column[name])
            disk = ("mb/s" in column) ? $(column["mb/s"]) " (" $(column["disk, mb/s"]) ")" : ""
            print "| " $2 " | " $(column["residues/s"]) " | " fraction " | " disk " |"
        }' "$@"
}

data=$folder/data
mkdir "$data"
step data 20 env PYTHONPATH=benchmarks "$python" -c "
from pathlib import Path
from data import write_csv
for part, records in ('train', 20_000), ('val', 500):
    write_csv(Path('$data', part), records)"
step tests 115 "$python" -m pytest -m gpu -n 4 -p no:cacheprovider tests
step embed 80 "$python" benchmarks/embed.py --proteins 6000
step write 40 "$python" benchmarks/write.py --gb 2
small=(--preset builtin --proteins 384 model.hidden_size=448 model.ffn_hidden_size=1792 model.num_attention_heads=14
    model.num_layers=5)
step pretrain 60 "$python" benchmarks/pretrain.py --data "$data" --proteins 672 --compile --no-peer
step pretrain-small 55 "$python" benchmarks/pretrain.py --data "$data" --compile "${small[@]}"
run=(scripts/pretrain.py "model.data.dataset_path=$data" "exp_manager.exp_dir=$folder/results" trainer.val_check_interval=8
    trainer.limit_val_batches=1 trainer.max_steps=8)
step start 55 "$python" "${run[@]}" name=full
step start-builtin 35 "$python" "${run[@]}" name=builtin model=builtin

echo
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)')
echo "$gpu, commit $commit, $(date -u +%F), tests: $(tail -n 1 "$folder/tests.log")"
echo
echo "| measurement | residues/s | fraction of the peak or the disk's rate | MB/s (the disk's) |"
echo "|---|---|---|---|"
rows "$folder"/{pretrain,pretrain-small,embed,write}.log
echo
grep -hE 'residues/s$|of the recipe|of the GPU' "$folder"/{pretrain,start}*.log
cat "$folder/failures" 2>/dev/null
exit "$failed"
