#!/bin/sh
# Every command once, on the bundled model.
set -u
. "$2/tests/program/support.sh"

good doctor
grep -q '<- chosen' out || die "doctor names no chosen level"
good doctor --json
good inspect "$model" --context 1024
grep -q 'model.layers.7.moe.experts.0.down_proj' out || die "inspect lists no components"
for command in doctor inspect measure audit compare plan pack build eval generate bench report logits tokenize; do
  good "$command" --help
done
for command in doctor inspect measure audit compare plan pack build eval generate report logits tokenize; do
  "$klens" "$command" --help | grep -q 'Example: ' || die "$command --help has no example"
done

printf 'It was the best of times' | "$klens" tokenize "$model" >ids || die "tokenize"
"$klens" tokenize "$model" --decode <ids >back || die "tokenize --decode"
[ "$(cat back)" = "It was the best of times" ] || die "tokenize does not go back and forth"

good measure "$model" --text "$data/calibration.txt" --tokens 512 --formats w8,w4,w2g32,a8 --components 'x_proj|embed' -o partial.json
good audit "$root/tests/data/hymba-tiny/lens.json"
good compare "$root/tests/data/hymba-tiny/lens.json" "$root/tests/data/hymba-tiny/lens.json"
good measure "$model" --text "$data/calibration.txt" --tokens 512 --formats w4g32,w2g32 -o sensitivity.json
good plan sensitivity.json --bpw 4.2 --model "$model" --text "$data/calibration.txt" --windows 4 -o plan.json --header plan.hpp --frontier frontier.json
grep -q '<- chosen' out || die "plan shows no contenders"
good plan sensitivity.json --ppl +5% -o ppl.json
good plan sensitivity.json --ram 64MiB --context 512 --model "$model" -o ram.json
good plan sensitivity.json --method segments -o segments.json
[ -s segments.p01.json ] && [ -s segments.p10.json ] || die "segments wrote no ten plans"
good pack "$model" --plan plan.json -o plan.klens
good pack "$model" --uniform w4g32 -o w4g32.klens
good eval plan.klens w4g32.klens --against "$model" --text "$data/heldout.txt" --text "$data/wikitext.txt" --windows 4 -o eval.json
grep -q 'not shown\|shown' out || die "eval prints no verdict"
good report . -o report.html
grep -q '</html>' report.html || die "the page is not whole"
if grep -q 'http' report.html; then die "the page refers to the network"; fi
good generate plan.klens --prompt 'The adventure' --tokens 24 --temperature 0.8 --top-k 40 --top-p 0.95 --seed 7
cp out first
good generate plan.klens --prompt 'The adventure' --tokens 24 --temperature 0.8 --top-k 40 --top-p 0.95 --seed 7
cmp -s out first || die "the same seed gave another text"
good logits "$model" --ids "$root/tests/data/hymba-tiny/golden.safetensors" --hidden --greedy 8 -o logits.safetensors
[ -s logits.safetensors ] || die "no logits"
good bench model w4g32.klens --formats w4g32,w2g32,f16 --repeats 1 -o timings.json
good bench model --like mamba-130m --formats w2 --states scan=s8 --threads 1 --repeats 1 --prefill 1 --prompts 0 --decode 8 --json
grep -q '"states": "scan=s8"' out || die "bench model does not name its states"
good plan sensitivity.json --latency 1s --timings timings.json -o latency.json
good bench kernels --rows 64 --cols 64 --tokens 16 --formats w4g32,w8a8 --repeats 1
done_with
