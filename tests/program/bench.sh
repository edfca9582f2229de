#!/bin/sh
# klens bench kernels and its page: every row has a share of its limit, what falls short is listed with its reason.
set -u
. "$2/tests/program/support.sh"

good bench kernels --quick --rows 96 --cols 64 --tokens 16 --formats w4g32,w8a8,f32 --threads 1,2 -o run.json
linears=$(grep -c '"kind": "\(cold\|hot\|gemm\)"' run.json)
[ "$linears" -ge 18 ] || die "$linears rows of linears, not 3 formats x 3 kinds x 2 threads for each level"
sequences=$(grep -c '"kind": "sequence"' run.json)
[ "$sequences" -ge 100 ] || die "$sequences rows of sequence kernels"
# No upper bound: on a busy machine the peaks of short rounds can come out a hundred times too low.
shares=$(awk '/"share": [0-9]/ { v = $2 + 0; if (v > 0) n++ } END { print n + 0 }' run.json)
[ "$shares" -eq "$((linears + sequences))" ] || die "$shares of $linears + $sequences rows have a share above 0"
for key in memory_microseconds microseconds kernel_error; do
  found=$(awk -v key="\"$key\":" '$1 == key && $2 + 0 > 0 { n++ } END { print n + 0 }' run.json)
  [ "$found" -ge "$linears" ] || die "$found of $linears rows have $key above 0"
done
checks=$((checks + 4))

good bench table run.json -o page.md
for part in '^## What the machine does' '^## One token, weights from memory, 1 thread$' '^## Prefill, 2 threads$' '^## Rows that fall short' '^| w4g32 |'; do
  grep -q "$part" page.md || die "the page lacks $part"
  checks=$((checks + 1))
done

# A row that misses its figure is listed, with its reason where there is one.
row() { printf '{"kernel": "linear<w8a8>", "format": "w8a8", "level": "avx2", "kind": "hot", "rows": 1024, "cols": 1024, "tokens": 1, "threads": %d, "bytes": 1048576, "microseconds": 40, "limit": "L2", "share": %s, "rivals": []}' "$1" "$2"; }
printf '{"schema": "klens.bench/2", "levels": [], "rows": [%s, %s]}' "$(row 1 0.5)" "$(row 2 0.9)" >short.json
printf '{"linear<w8a8>/avx2": "two words per byte"}' >reasons.json
good bench table short.json
grep -q '2 rows are held to a figure, 1 fall short' out || die "one of two rows falls short, and the page does not say so"
grep -q 'hot` 1024x1024, 1 tokens, 1 threads: 50.0 % of its limit (L2), asked 85 %. not explained' out || die "the short row is not listed"
good bench table short.json --reasons reasons.json
grep -q 'asked 85 %. two words per byte' out || die "the reason is not given"
checks=$((checks + 3))

printf '{"schema": "klens.bench/1", "rows": []}' >old.json
bad 1 'klens.bench/2' bench table old.json
printf '[1, 2' >broken.json
bad 1 'broken.json' bench table broken.json
bad 2 'no.such' bench kernels --shapes no.such
bad 2 'lukewarm' bench kernels --kinds lukewarm
bad 2 'w9' bench kernels --formats w9
done_with
