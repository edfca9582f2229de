#!/bin/sh
# The on-device table of the KL Lens paper, redone on a published checkpoint: FP32, FP16, uniform w8 and w4, the ten plans
# p01 to p10 of the paper's segments, and for each of them the knapsack's plan (k01 to k10) of at most the same bytes.
# One row each: perplexity, KL to FP32, bytes, decoded tokens per second. Needs a network, curl and unzip; or, with --local,
# neither: a folder of yours (or the bundled model) and the texts of examples/data.
#
#   sh examples/real-checkpoint.sh NAME [--local DIR] [--out OUT]
#     NAME   mamba-130m-hf mamba2-130m hymba-1.5b-base falcon-h1-0.5b lfm2-1.2b; with --local any
#     KLENS=PROGRAM   the program klens (default: build-release/bin/klens, which examples/quickstart.sh builds)
#     TOKENS=16384    measured tokens      WINDOWS=0   windows of 256 tokens evaluated (0: the whole text)
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
klens=${KLENS:-$root/build-release/bin/klens}
tokens=${TOKENS:-16384}
windows=${WINDOWS:-0}
usage() { sed -n 's/^#   sh /usage: sh /p' "$0" >&2; exit 2; }

name=${1:-}
[ -n "$name" ] || usage
shift
local_model="" out=$root/out/$name
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --local) local_model=$2 ;;
    --out) out=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[ -x "$klens" ] || { echo "no program klens at $klens: sh examples/quickstart.sh builds it, or set KLENS" >&2; exit 1; }
mkdir -p "$out"

hub=https://huggingface.co
fetch() { # URL FILE: nothing where the file is there already; a part that broke off is never taken for the whole
  [ -s "$2" ] || { curl -fL --retry 3 -o "$2.part" "$1" && mv "$2.part" "$2"; }
}

if [ -n "$local_model" ]; then
  model=$local_model
  selection=$root/examples/data/calibration.txt
  heldout=$root/examples/data/wikitext.txt
else
  tokenizer=""
  case $name in
    mamba-130m-hf) repository=state-spaces/mamba-130m-hf ;;
    mamba2-130m) repository=state-spaces/mamba2-130m tokenizer=EleutherAI/gpt-neox-20b ;;
    hymba-1.5b-base) repository=nvidia/Hymba-1.5B-Base ;;
    falcon-h1-0.5b) repository=tiiuae/Falcon-H1-0.5B-Base ;;
    lfm2-1.2b) repository=LiquidAI/LFM2-1.2B ;;
    *) usage ;;
  esac
  model=$out/model
  mkdir -p "$model"
  fetch "$hub/$repository/resolve/main/config.json" "$model/config.json"
  fetch "$hub/${tokenizer:-$repository}/resolve/main/tokenizer.json" "$model/tokenizer.json"
  # One file of weights; where there is none, the parts that the index names; else the original format.
  if ! fetch "$hub/$repository/resolve/main/model.safetensors" "$model/model.safetensors"; then
    if fetch "$hub/$repository/resolve/main/model.safetensors.index.json" "$model/model.safetensors.index.json"; then
      for part in $(grep -o 'model-[0-9]*-of-[0-9]*\.safetensors' "$model/model.safetensors.index.json" | sort -u); do
        fetch "$hub/$repository/resolve/main/$part" "$model/$part"
      done
    else
      fetch "$hub/$repository/resolve/main/pytorch_model.bin" "$model/pytorch_model.bin"
    fi
  fi
  fetch "$hub/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip" "$out/wikitext.zip"
  [ -s "$out/wikitext-2-raw/wiki.test.raw" ] || unzip -oq "$out/wikitext.zip" -d "$out"
  selection=$out/wikitext-2-raw/wiki.valid.raw
  heldout=$out/wikitext-2-raw/wiki.test.raw
fi

# The paper's two bit widths, every component; then its ten plans.
"$klens" measure "$model" --text "$selection" --tokens "$tokens" --formats w8,w4 -o "$out/sensitivity.json"
"$klens" plan "$out/sensitivity.json" --method segments -o "$out/plan.json"

value() { sed -n "s/.*\"$1\": *\([^,}]*\).*/\1/p" "$2" | head -n 1; }
header='row       perplexity       +-   KL to FP32        bytes  tokens/s'
echo "$header" >"$out/table.txt"
echo "$header"
row() { # NAME, then what klens pack is told: packed, evaluated, written down, and removed, since thirty files fill a disk
  label=$1
  shift
  "$klens" pack "$model" "$@" -o "$out/$label.klens" >"$out/$label.log"
  "$klens" eval "$out/$label.klens" --against "$model" --text "$heldout" --windows "$windows" -o "$out/$label.eval.json" >>"$out/$label.log"
  bytes=$(value bytes "$out/$label.eval.json")
  printf '%-6s %13.4f %8.4f %12.6f %12d %9.1f\n' "$label" "$(value ppl "$out/$label.eval.json")" "$(value ppl_se "$out/$label.eval.json")" \
    "$(value kl_pq "$out/$label.eval.json")" "$bytes" "$(value decode_tokens_per_second "$out/$label.eval.json")" | tee -a "$out/table.txt"
  rm "$out/$label.klens"
}

row FP32 --uniform f32
row FP16 --uniform f16
row w8 --uniform w8
row w4 --uniform w4
for i in 01 02 03 04 05 06 07 08 09 10; do
  row "p$i" --plan "$out/plan.p$i.json"
  "$klens" plan "$out/sensitivity.json" --bytes "$bytes" -o "$out/knapsack.$i.json" >"$out/knapsack.$i.log"
  row "k$i" --plan "$out/knapsack.$i.json"
done
echo "the table: $out/table.txt"
