# Shared by the tests of the program. Sourced with: PROGRAM ROOT FOLDER
klens=$1
root=$2
work=$3
model=$root/examples/models/hymba-tiny
data=$root/examples/data
rm -rf "$work"
mkdir -p "$work"
cd "$work" || exit 1
checks=0

die() {
  echo "FAILED: $1" >&2
  if [ -s err ]; then sed 's/^/  stderr: /' err >&2; fi
  exit 1
}

# Runs klens; it must succeed and say nothing on stderr that begins with "klens:".
good() {
  "$klens" "$@" >out 2>err || die "klens $* ended with status $?"
  if grep -q '^klens: ' err; then die "klens $* complained"; fi
  checks=$((checks + 1))
}

# bad STATUS PATTERN ARGUMENTS...: that exit status, nothing on stdout that looks like a result, one line on stderr with the pattern.
bad() {
  wanted=$1
  pattern=$2
  shift 2
  "$klens" "$@" >out 2>err
  status=$?
  [ "$status" -eq "$wanted" ] || die "klens $* ended with status $status, not $wanted"
  [ "$(wc -l <err)" -eq 1 ] || die "klens $* wrote $(wc -l <err) lines on stderr, not one"
  grep -q -e "$pattern" err || die "klens $*: the error does not say '$pattern'"
  checks=$((checks + 1))
}

copy_model() { # NAME: a copy of the checkpoint to spoil
  rm -rf "$1"
  cp -r "$model" "$1"
  chmod -R u+w "$1"
}

done_with() { echo "$checks checks passed"; }
