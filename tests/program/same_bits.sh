#!/bin/sh
# Equal work gives equal bytes: on every level of this machine, for 1, 2 and 3 threads.
set -u
. "$2/tests/program/support.sh"

"$klens" pack "$model" --uniform w4g32a8 -o mixed.klens >out 2>err || die "pack"
first=""
levels=""
for level in avx2 avx_vnni avx_vnni_int8 avx512 avx512_vnni avx512_bf16 amx_int8; do
  "$klens" doctor --isa "$level" >out 2>err || continue
  levels="$levels $level"
  for threads in 1 2 3; do
    "$klens" measure "$model" --text "$data/calibration.txt" --tokens 512 --formats w4g32,w8a8 --components 'in_proj' --isa "$level" --threads $threads -o "s.$level.$threads.json" >out 2>err ||
      die "measure on $level with $threads threads"
    "$klens" logits mixed.klens --ids "$root/tests/data/hymba-tiny/golden.safetensors" --greedy 8 --isa "$level" --threads $threads -o "l.$level.$threads.safetensors" >out 2>err ||
      die "logits on $level with $threads threads"
    [ -n "$first" ] || first=$level.$threads
    cmp -s "s.$first.json" "s.$level.$threads.json" || die "measurements differ: $first and $level.$threads"
    cmp -s "l.$first.safetensors" "l.$level.$threads.safetensors" || die "logits differ: $first and $level.$threads"
    checks=$((checks + 2))
  done
done
[ -n "$levels" ] || { echo "skipped: this CPU has none of the vector levels"; exit 77; }
echo "levels:$levels"
done_with
