#!/bin/sh
# The whole job on the bundled model, from a bare Debian or Ubuntu machine: installs what is missing, builds the program, measures
# every component, plans for the bytes of uniform w4 and of uniform w3g32, specialises both plans, evaluates everything on four
# texts, and ends with the table and the path of report.html. About six minutes on two cores the first time.
#
#   sh examples/quickstart.sh [OUT]      results go to OUT (default: out/ beside README.md); run again, it builds nothing anew
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$root"
. cmake/packages.sh

build=$root/build-release
model=examples/models/hymba-tiny
data=examples/data
start=$(date +%s)

step() { printf '\n[%4d s] %s\n' $(($(date +%s) - start)) "$1"; }

step "packages"
klens_install build

# The strongest level of this CPU is all that runs here; `sh tests/run.sh` builds every level.
level=ref
if grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo; then
  level=avx2
  if grep -qw avx_vnni /proc/cpuinfo; then level=avx_vnni; fi
  if grep -qw avx512bw /proc/cpuinfo && grep -qw avx512vl /proc/cpuinfo && grep -qw avx512dq /proc/cpuinfo; then
    level=avx512
    if grep -qw avx512_vnni /proc/cpuinfo; then level=avx512_vnni; fi
  fi
fi

step "build: the program klens for level $level (log: $out/build.log)"
# shellcheck disable=SC2046
if ! { cmake -S . -B "$build" $(klens_configure_options) -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O2 -DKLENS_BUILD_TESTS=OFF -DKLENS_BUILD_BENCH=OFF \
             -DKLENS_LEVELS=$level &&
       cmake --build "$build" -j "$(klens_jobs)" --target klens_program; } >"$out/build.log" 2>&1; then
  grep -m 20 -E 'error|Error' "$out/build.log" >&2 || tail -n 20 "$out/build.log" >&2
  exit 1
fi
klens=$build/bin/klens
"$klens" doctor

step "uniform formats: one packed file each"
for format in f32 f16 w8 w4 w4g32 w3g32; do
  "$klens" pack $model --uniform "$format" -o "$out/$format.klens"
done

step "measure: KL of every component in every format on 16 windows of the calibration text"
"$klens" measure $model --text $data/calibration.txt --tokens 4096 -o "$out/sensitivity.json"

step "audit: does the ranking agree with perplexity, measured on 8 windows of the held-out text?"
"$klens" audit "$out/sensitivity.json" $model --text $data/heldout.txt --windows 8 -o "$out/audit.json"

# The bytes of a uniform format are the budget of a plan.
payload_of() { "$klens" inspect "$1" --json | sed -n 's/.*"payload_bytes": *\([0-9]*\).*/\1/p' | head -n 1; }
for format in w4 w3g32; do
  bytes=$(payload_of "$out/$format.klens")
  step "plan: at most the $bytes bytes of uniform $format"
  "$klens" plan "$out/sensitivity.json" --bytes "$bytes" --model $model --text $data/calibration.txt --windows 24 \
    -o "$out/plan-$format.json" --header "$out/plan-$format.hpp" --frontier "$out/frontier.json"
  "$klens" pack $model --plan "$out/plan-$format.json" -o "$out/plan-$format.klens"
  step "build: the model compiled for this plan"
  "$klens" build --plan "$out/plan-$format.json" -o "$out/specialised-$format"
done

step "evaluate: every file on 48 windows of the held-out, two foreign, and the selection text"
"$klens" eval "$out/f32.klens" "$out/f16.klens" "$out/w8.klens" "$out/w4.klens" "$out/w4g32.klens" "$out/w3g32.klens" \
  "$out/plan-w4.klens" "$out/plan-w3g32.klens" --against $model \
  --text $data/heldout.txt --text $data/wikitext.txt --text $data/shakespeare.txt --text $data/calibration.txt \
  --windows 48 -o "$out/eval.json" | tee "$out/table.txt"

step "the specialised programs: the same file, the same bits, their speed"
for format in w4 w3g32; do
  program=$out/specialised-$format/build/specialised
  "$program" speed "$out/plan-$format.klens"
  "$program" eval "$out/plan-$format.klens" --text $data/heldout.txt --tokens 12288
  ids=tests/data/hymba-tiny/golden.safetensors
  "$klens" logits "$out/plan-$format.klens" --ids $ids -o "$out/generic.safetensors"
  "$program" logits "$out/plan-$format.klens" --ids $ids -o "$out/specialised.safetensors"
  cmp "$out/generic.safetensors" "$out/specialised.safetensors"
  echo "logits on 200 tokens: equal to the generic program's, byte for byte"
done

step "report"
"$klens" report "$out" -o "$out/report.html"
printf '\nDone in %d s. The page: %s\n' $(($(date +%s) - start)) "$out/report.html"
