#!/bin/sh
# A measurement that is killed, twice and at different moments, goes on where it stopped and ends in the same file.
set -u
. "$2/tests/program/support.sh"

measure() { "$klens" measure "$model" --text "$data/calibration.txt" --tokens 2048 --formats w4g32,w2g32 --components 'layers.[67]|embed' -o "$1"; }

start=$(date +%s%N)
measure whole.json >out 2>err || die "measure"
length=$((($(date +%s%N) - start) / 1000000))

for share in 35 70; do
  measure stopped.json >out 2>err &
  pid=$!
  sleep "$(awk "BEGIN { print $length * $share / 100000 }")"
  kill -9 "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
done
measure stopped.json >out 2>err || die "the resumed run"
cmp -s whole.json stopped.json || die "a killed and resumed measurement differs from an uninterrupted one"
checks=$((checks + 1))

# Ctrl-C: one line, status 130, and the run goes on later.
(trap - INT; exec "$klens" measure "$model" --text "$data/calibration.txt" --tokens 2048 --formats w4g32,w2g32 -o interrupted.json) >out 2>err &
pid=$!
sleep 1
kill -INT "$pid" 2>/dev/null
wait "$pid"
status=$?
if [ "$status" -ne 130 ] && [ "$status" -ne 0 ]; then die "Ctrl-C ended with status $status"; fi
if [ "$status" -eq 130 ] && [ -e interrupted.json ]; then die "an interrupted run wrote its output"; fi
done_with
