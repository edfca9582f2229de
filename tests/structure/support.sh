# Sourced by the structural tests: where things are, and how a fault is told. POSIX sh.
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
include=$root/include/klens
faults=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Reads lines of faults from a file, tells them under a heading, and counts them.
tell() { # HEADING FILE
  if [ -s "$2" ]; then
    echo "FAILED: $1"
    sed 's/^/  /' "$2"
    faults=$((faults + $(wc -l <"$2")))
  fi
}

# Ends the test; the last line says what was looked at.
finish() { # WHAT
  if [ "$faults" -gt 0 ]; then
    echo "$faults faults"
    exit 1
  fi
  echo "ok: $1"
}
