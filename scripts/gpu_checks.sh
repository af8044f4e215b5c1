#!/usr/bin/env bash
# All checks of docs/gpu_todo.md that run unattended: bash scripts/gpu_checks.sh [OUTPUT_FOLDER]
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-outputs/gpu_checks}
python=${PYTHON:-python3}
mkdir -p "$out"
failed=0

check() { # NAME COMMAND...
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  if "$@" >"$out/$name.log" 2>&1; then
    echo "   passed in $((SECONDS - start)) s"
  else
    echo "   FAILED, see $out/$name.log"
    failed=1
  fi
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"' || exit 2
check doctor "$python" -m torch_utils.doctor build=true
# From here on a missing kernel is an error, not a warning.
export MATE3D_OPS=kernels
check gpu_tests "$python" -m pytest -q -m gpu
check bench_ops "$python" benchmarks/bench_ops.py device=cuda dtypes=float32,float16,bfloat16 runs=15 \
  output="$out/bench_ops.json"
for side in 64 128; do
  check "bench_generator_$side" "$python" benchmarks/bench_generator.py device=cuda \
    neural_resolution=$side output="$out/bench_generator_$side.json"
done
check bench_training "$python" benchmarks/bench_training.py device=cuda runs=3 \
  variants=exact,fast,subset,bf16 output="$out/bench_training.json"
for name in small_cat demo_cat; do
  check "bench_memory_$name" "$python" benchmarks/bench_memory.py device=cuda experiment=$name \
    output="$out/memory_$name.json"
done
for side in 64 128; do
  check "bench_memory_ffhq_mask_512_$side" "$python" benchmarks/bench_memory.py device=cuda \
    experiment=ffhq_mask_512 neural_resolution=$side batch_sizes=1,2,4 \
    output="$out/memory_ffhq_mask_512_${side}px.json"
done
check bench_edit_demo "$python" benchmarks/bench_edit.py device=cuda output="$out/bench_edit_demo.json"
check bench_edit_face512 "$python" benchmarks/bench_edit.py device=cuda preset=face512 \
  neural_resolution=64 output="$out/bench_edit_face512.json"
check demo_edit "$python" -m scripts.edit experiment=demo_cat_ears device=cuda output="$work/demo"
check data "$python" -m scripts.prepare_data num_images=64 resolution=128 output="$work/cats.zip"
check training "$python" -m scripts.train experiment=demo_cat device=cuda data="$work/cats.zip" \
  output="$work/run" warm_start.num_field_steps=200 warm_start.num_image_steps=50 train.total_kimg=0.2
check cats64 "$python" -m scripts.prepare_data num_images=2000 resolution=64 num_workers=8 \
  output="$work/cats64.zip"
check small_cat "$python" -m scripts.train experiment=small_cat device=cuda data="$work/cats64.zip" \
  output="$work/small" train.total_kimg=16 train.num_workers=4
check nccl "$python" -m torch.distributed.run --nproc-per-node gpu -m scripts.train \
  experiment=demo_cat debug=tiny device=cuda data="$work/cats.zip" output="$work/nccl"
check orbit_demo "$python" benchmarks/bench_orbit.py device=cuda output="$out/orbit_demo.json"
check orbit_face512 "$python" benchmarks/bench_orbit.py device=cuda preset=face512 frames=20 \
  output="$out/orbit_face512.json"
cp "$work/demo/receipt.json" "$out/demo_receipt.json"
cp "$work/run/stats.jsonl" "$out/training_stats.jsonl"
cp "$work/small/stats.jsonl" "$out/small_cat_stats.jsonl"
cp "$work/small/summary.html" "$out/small_cat_summary.html"
exit $failed
