#!/bin/sh
# Every shell script is POSIX sh: the plain shell of a fresh Debian (dash) reads it, and it says which shell it is for.
set -u
. "$(dirname "$0")/support.sh"
cd "$root" || exit 1
shell=$(command -v dash || command -v sh)
count=0
: >"$work/faults"
for script in .ci/run tests/*.sh tests/*/*.sh examples/*.sh examples/*/*.sh cmake/*.sh; do
  [ -f "$script" ] || continue
  count=$((count + 1))
  "$shell" -n "$script" >"$work/log" 2>&1 || sed 's/^/syntax: /' "$work/log" >>"$work/faults"
  grep -nE '(^|[ ;&|(])(\[\[|function [a-z_]+|source [^ ]|local [a-z_]+=|declare |echo -e|set -o pipefail)' "$script" |
    grep -v 'grep -nE' | sed "s|^|$script: not POSIX: |" >>"$work/faults"
done
tell "scripts" "$work/faults"
finish "$count scripts"
