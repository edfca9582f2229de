#!/bin/sh
# Every family of tests/data/families through the whole program: inspect, measure, plan, pack, eval, generate; the packed plan
# is another model than the checkpoint, the one in f32 the same to the last bit, and three plans become programs of their own.
set -u
. "$2/tests/program/support.sh"

# The models are random and know 93 tokens: a tokenizer of single characters for them.
awk 'BEGIN {
  printf "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,"
  printf "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0"
  all = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,;:!?-()"
  for (i = 1; i <= length(all); ++i) printf ",\"%s\":%d", substr(all, i, 1), i
  printf ",\"\\n\":%d},\"merges\":[]}}\n", length(all) + 1
}' >tokenizer.json
head -c 1400 "$data/calibration.txt" | LC_ALL=C tr -cd '\12\40-\176' >text.txt

built=0
for folder in "$root"/tests/data/families/*/; do
  name=$(basename "$folder")
  mkdir "$name"
  cp "$folder/config.json" "$folder/model.safetensors" tokenizer.json "$name/"
  good inspect "$name" --context 64
  good measure "$name" --text text.txt --tokens 512 --formats w8,w4,w2g32 -o "$name.sensitivity.json"
  # Experts: how many tokens each took, over all of them as many as the router chose.
  used=$(sed -n 's/.*"num_experts_per_tok": *\([0-9]*\).*/\1/p' "$folder/config.json")
  sed -n 's/^"routing": \[\(.*\)\],$/\1/p' "$name.sensitivity.json" | tr '}' '\n' | sed -n 's/.*"tokens": \[\(.*\)\].*/\1/p' >routing
  case $name in
    jamba* | granitemoehybrid | nemotron_h.*)
      [ -s routing ] || die "$name: no routing counts"
      awk -F, -v all=$((512 * used)) '{ n = 0; for (i = 1; i <= NF; ++i) n += $i; if (n != all) exit 1 }' routing || die "$name: routing counts: $(cat routing)"
      ;;
    *) [ ! -s routing ] || die "$name: routing counts without experts" ;;
  esac
  good plan "$name.sensitivity.json" --bpw 9 --model "$name" --text text.txt --windows 2 -o "$name.json" --header "$name.hpp"
  good pack "$name" --plan "$name.json" -o "$name.klens"
  good pack "$name" --uniform f32 -o "$name.f32.klens"
  # f32 is the model itself: KL 0 to the last bit, the same greedy tokens and logits; the plan is not.
  good eval "$name.f32.klens" "$name.klens" --against "$name" --text text.txt --windows 2 --no-speed -o "$name.eval.json"
  sed -n 's/.*"kl_pq": *\([^,]*\),.*/\1/p' "$name.eval.json" >kl
  [ "$(head -n 1 kl)" = 0.0 ] || die "$name: packed in f32, KL $(head -n 1 kl)"
  [ "$(wc -l <kl)" -eq 2 ] && [ "$(tail -n 1 kl)" != 0.0 ] || die "$name: KL of the plan: $(cat kl)"
  for file in "$name" "$name.f32.klens" "$name.klens"; do
    good logits "$file" --ids "$folder/golden.safetensors" --greedy 8 -o "$file.safetensors"
  done
  cmp -s "$name.safetensors" "$name.f32.klens.safetensors" || die "$name: packed in f32 it gives other logits"
  if cmp -s "$name.safetensors" "$name.klens.safetensors"; then die "$name: the plan changed nothing"; fi
  good generate "$name.klens" --prompt 'It was the' --tokens 8 --json
  whole=$(sed -n 's/.*"ids":\[\([0-9,]*\)\].*/\1/p' out)
  good generate "$name.klens" --prompt 'It was the' --tokens 3 --session "$name.session" --json
  part=$(sed -n 's/.*"ids":\[\([0-9,]*\)\].*/\1/p' out)
  good generate "$name.klens" --tokens 5 --session "$name.session" --json
  rest=$(sed -n 's/.*"ids":\[\([0-9,]*\)\].*/\1/p' out)   # none where the first ended the text
  [ "$part${rest:+,$rest}" = "$whole" ] || die "$name: two runs do not make what one makes ($whole)"
  built=$((built + 1))
done
[ "$built" -ge 21 ] || die "only $built families"

# For llama-quantize: a line per tensor, one for all experts of a layer and role. Two of jamba's four layers have experts.
good plan jamba.sensitivity.json --bpw 9 -o types.json --tensor-types types.txt
[ "$(wc -l <types.txt)" -eq 30 ] || die "$(wc -l <types.txt) lines of types for jamba"
[ "$(sed -n 's/^^blk\\.[0-9]\\.ffn_\([a-z]*\)_exps\\.weight$=.*/\1/p' types.txt | sort | uniq -c | tr -d '\n ')" = 2down2gate2up ] || \
  die "experts in the types for jamba: $(cat types.txt)"

# Three plans compiled into programs of their own (most of this test's time), with experts, shared blocks, Mamba-3: the same bits.
for name in jamba zamba2 mamba3.norm; do
  program=of_${name%.norm}
  good build --plan $name.json --name "$program" -o specialised_$name --threads 1
  specialised_$name/build/$program logits $name.klens --ids "$root/tests/data/families/$name/golden.safetensors" -o specialised.safetensors \
    >out 2>err || die "the specialised program of $name"
  good logits $name.klens --ids "$root/tests/data/families/$name/golden.safetensors" -o generic.safetensors
  cmp -s generic.safetensors specialised.safetensors || die "the specialised program of $name gives other bits"
  checks=$((checks + 1))
done
done_with
