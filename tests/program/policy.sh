#!/bin/sh
# --policy fast: refused by name where a level has no faster linears; elsewhere other bits, and every output says so.
set -u
. "$2/tests/program/support.sh"
golden=$root/tests/data/hymba-tiny/golden.safetensors
text=$data/heldout.txt

good pack "$model" --uniform bf16 -o bf16.klens
good pack "$model" --uniform w4g32 -o w4.klens

plain=""
for level in ref avx2 avx512_vnni; do
  if [ -z "$plain" ] && "$klens" doctor --isa "$level" >out 2>err; then plain=$level; fi
done
[ -n "$plain" ] || die "no level without faster linears runs here"
refused="policy fast on level $plain: expected a level with faster linears (compiled in: .*), found none of them here"
bad 1 "$refused" logits bf16.klens --ids "$golden" -o no.safetensors --isa "$plain" --policy fast
bad 1 "$refused" eval bf16.klens --text "$text" --windows 1 --isa "$plain" --policy fast
bad 1 "$refused" generate bf16.klens --prompt hello --isa "$plain" --policy fast
bad 1 "$refused" bench model bf16.klens --isa "$plain" --policy fast
[ ! -e no.safetensors ] || die "a refused call left its output"
good doctor --isa "$plain"
grep -q "^--policy fast: $refused" out || die "doctor does not say that $plain has no faster linears"
bad 2 'policy.*faster' logits bf16.klens --ids "$golden" -o no.safetensors --policy faster

levels=""
for level in avx512_bf16 amx_int8; do
  "$klens" doctor --isa "$level" >out 2>err || continue
  grep -q '^--policy fast: bf16' out || die "doctor does not say what fast is on $level"
  levels="$levels $level"

  good logits bf16.klens --ids "$golden" -o default.safetensors --isa "$level" --json
  if grep -q 'policy' out; then die "an exact run speaks of its policy"; fi
  good logits bf16.klens --ids "$golden" -o exact.safetensors --isa "$level" --policy exact
  cmp -s default.safetensors exact.safetensors || die "exact is not the default"
  good logits bf16.klens --ids "$golden" -o fast.safetensors --isa "$level" --policy fast
  grep -q '^policy fast: \([1-9][0-9]*\) of \1 linears$' out || die "logits does not say that every linear is fast"
  grep -aq 'policy fast: ' fast.safetensors || die "the file of logits does not name the policy"
  bytes=$(wc -c <exact.safetensors)
  tail -c $((bytes - 4096)) exact.safetensors >exact.tail
  tail -c $((bytes - 4096)) fast.safetensors >fast.tail
  if cmp -s exact.tail fast.tail; then die "fast gave the bits of exact"; fi
  good logits bf16.klens --ids "$golden" -o fast.safetensors --isa "$level" --policy fast --json
  grep -q '"policy":"fast"' out || die "the JSON of logits does not name the policy"

  # Nothing in this model is of bf16: the exact kernels, and the output says so.
  good logits w4.klens --ids "$golden" -o exact.safetensors --isa "$level"
  good logits w4.klens --ids "$golden" -o fast.safetensors --isa "$level" --policy fast
  grep -q '^policy fast: 0 of [1-9][0-9]* linears$' out || die "logits counts fast linears where there are none"
  tail -c $((bytes - 4096)) exact.safetensors >exact.tail
  tail -c $((bytes - 4096)) fast.safetensors >fast.tail
  cmp -s exact.tail fast.tail || die "integer weights are not exact under the policy fast"

  # The reference of eval runs exactly: a model against itself shows what the policy costs.
  good eval bf16.klens w4.klens --against bf16.klens --text "$text" --windows 2 --no-speed --isa "$level" \
    --policy fast -o eval.json
  grep -q 'threads, policy fast$' out || die "eval does not name the policy"
  grep -q '^bf16: policy fast: [1-9]' out || die "eval does not count the fast linears of bf16"
  grep -q '^w4: policy fast: 0 of' out || die "eval does not count the fast linears of w4"
  grep -q '"policy": "fast"' eval.json || die "eval.json does not name the policy"
  awk '/"kl_pq":/ { v = $2 + 0; if (n++ == 0 && v > 0 && v < 1e-4) ok = 1 } END { exit !ok }' eval.json ||
    die "KL of fast to exact is not small and above 0"
  good eval bf16.klens --against bf16.klens --text "$text" --windows 2 --no-speed --isa "$level" -o eval.json
  if grep -q 'policy' out eval.json; then die "an exact eval speaks of its policy"; fi
  awk '/"kl_pq":/ { if ($2 + 0 != 0) wrong = 1; n++ } END { exit !(n == 1 && !wrong) }' eval.json ||
    die "KL of a model to itself is not 0"

  good generate bf16.klens --prompt 'The adventure' --tokens 8 --isa "$level" --policy fast
  grep -q 'policy fast: [1-9]' err || die "generate does not name the policy"
  good generate bf16.klens --prompt 'The adventure' --tokens 8 --isa "$level" --policy fast --json
  grep -q '"policy":"fast"' out || die "the JSON of generate does not name the policy"
  good bench model bf16.klens --formats bf16,f16 --repeats 1 --isa "$level" --policy fast -o timings.json
  grep -q 'bf16 fast.*f16$' out || die "bench model does not say which column is fast"
  grep -q 'policy fast: [1-9]' out || die "bench model does not name the policy"
  grep -q '"policy": "fast"' timings.json || die "timings.json does not name the policy"
  checks=$((checks + 14))
done
if [ -z "$levels" ]; then
  echo "skipped: this CPU has no level with faster linears ($checks checks of the refusal passed)"
  exit 77
fi
echo "levels:$levels"
done_with
