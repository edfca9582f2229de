#!/bin/sh
# examples/real-checkpoint.sh on the bundled model, as small as it goes: every row is there and means what it says.
set -u
. "$2/tests/program/support.sh"

KLENS=$klens TOKENS=512 WINDOWS=2 sh "$root/examples/real-checkpoint.sh" hymba-tiny --local "$model" --out table >out 2>err || die "real-checkpoint.sh ended with status $?"
[ "$(wc -l <table/table.txt)" -eq 25 ] || die "the table has $(wc -l <table/table.txt) lines, not 25"
# FP32 is the reference; p10 quantizes the most; a knapsack's plan is never larger than the paper's of its number.
awk '
  NR == 1 { next }
  { ppl[$1] = $2; kl[$1] = $4; bytes[$1] = $5; speed[$1] = $6 }
  NF != 6 || $2 <= 1 || $5 <= 0 || $6 <= 0 { print "not a row: " $0; bad = 1 }
  END {
    if (kl["FP32"] != 0) { print "FP32 differs from itself"; bad = 1 }
    if (!(kl["w4"] > kl["w8"] && kl["w8"] > kl["FP16"] && kl["FP16"] >= 0)) {  # the bundled model is stored in FP16
      print "KL does not grow as bits go"; bad = 1 }
    if (!(bytes["w4"] < bytes["w8"] && bytes["w8"] < bytes["FP16"] && bytes["FP16"] < bytes["FP32"])) { print "bytes"; bad = 1 }
    if (!(bytes["p10"] < bytes["p01"])) { print "p10 is not smaller than p01"; bad = 1 }
    for (i = 1; i <= 10; ++i) {
      p = sprintf("p%02d", i); k = sprintf("k%02d", i)
      if (!(p in bytes) || !(k in bytes) || bytes[k] > bytes[p]) { print k " is larger than " p; bad = 1 }
    }
    exit bad
  }' table/table.txt >faults || die "$(cat faults table/table.txt)"
checks=$((checks + 25))
# Without a network nothing of it is a guess: an unknown name and a missing program are told.
if KLENS=$klens sh "$root/examples/real-checkpoint.sh" no-such-model >out 2>err; then die "an unknown name was taken"; fi
grep -q usage err || die "no usage for an unknown name"
if KLENS=no/such sh "$root/examples/real-checkpoint.sh" x --local "$model" --out table >out 2>err; then die "a missing program was taken"; fi
grep -q 'no program klens' err || die "no word about the missing program"
checks=$((checks + 2))
cat table/table.txt
done_with
