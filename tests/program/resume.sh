#!/bin/sh
# A measurement that is killed, twice and at different moments, goes on where it stopped and ends in the same file.
set -u
. "$2/tests/program/support.sh"

measure() { $1 "$klens" measure "$model" --text "$data/calibration.txt" --tokens 2048 --formats w4g32,w2g32 --components 'layers.[67]|embed' -o "$2"; }
journal_bytes() { if [ -e stopped.json.journal ]; then wc -c <stopped.json.journal; else echo 0; fi; }

measure '' whole.json >out 2>err || die "measure"

# Each run is killed once the journal has grown past what it found: at least one unit of work is then new. exec, because
# the process that is killed must be klens and not a shell that leaves it running.
found=32 # the header
for run in first second; do
  (measure exec stopped.json) >out 2>err &
  pid=$!
  while kill -0 "$pid" 2>/dev/null && [ "$(journal_bytes)" -le "$found" ]; do sleep 0.02; done
  kill -9 "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  status=$?
  [ "$status" -eq 137 ] || die "the $run run ended with status $status before it was killed"
  found=$(journal_bytes)
done
measure '' stopped.json >out 2>err || die "the resumed run"
cat out err | grep -q 'runs resumed' || die "the run after a kill took nothing over"
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
