#!/usr/bin/env bash
# Run all GPU tests and all GPU benchmarks, in less than 8 minutes and without a network, and print one table at the end:
#
#     benchmarks/gpu.sh
#
# PYTHON is the interpreter to use, by default python. The exit code is 1 if a test or a benchmark failed.
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
    if ! timeout --kill-after=5 "$seconds" "$@" 2>&1 | tee "$folder/$name.log"; then
        echo "failed: $name" | tee -a "$folder/failures"
        failed=1
    fi
}

step tests 150 "$python" -m pytest -m gpu -n 4 -p no:cacheprovider tests
step embed 90 "$python" benchmarks/embed.py --proteins 20000
for option in "" --compile; do
    step "pretrain$option" 70 "$python" benchmarks/pretrain.py --proteins 672 $option
    step "pretrain-small$option" 60 "$python" benchmarks/pretrain.py --preset builtin --proteins 384 $option \
        model.hidden_size=448 model.ffn_hidden_size=1792 model.num_attention_heads=14 model.num_layers=5
done

echo
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)')
echo "$gpu, commit $commit, $(date -u +%F), tests: $(tail -n 1 "$folder/tests.log")"
cat "$folder"/{pretrain,embed}*.log | grep -E '^\||residues/s$|of the recipe' || true
cat "$folder/failures" 2>/dev/null
exit "$failed"
