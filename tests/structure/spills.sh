#!/bin/sh
# No inner loop of a linear spills: in the objects of one ISA level, no innermost loop that multiplies (FMA, dot
# product, tile) holds a vector store to the stack or a vector operand from it. A spilled accumulator lays a store and a
# load into its chain: 12 x 2 of them take 33 cycles for 24 dots, registers 13 (gcc 12).
# usage: spills.sh LEVEL [--all] OBJECT...      of the objects those named *linear* are judged; --all: every one
#
#   How loops are found: spills.awk. Addresses are those of objdump -d. Reloads of general registers are counted and not
#   judged: they stay off the chain of the products.
set -u
. "$(dirname "$0")/support.sh"
level=$1
shift
all=0
if [ "${1:-}" = --all ]; then
  all=1
  shift
fi
command -v objdump >/dev/null 2>&1 || { echo "objdump (binutils) is missing"; exit 1; }

: >"$work/faults"
: >"$work/counts"
objects=0
for object in "$@"; do
  name=$(basename "$object")
  case $all$name in 1* | *linear*) ;; *) continue ;; esac
  [ -f "$object" ] || { echo "$object: no such object"; exit 1; }
  objects=$((objects + 1))
  objdump -d -r -C -w --no-show-raw-insn "$object" |
    awk -v object="$name" -v counts="$work/counts" -f "$here/spills.awk" >>"$work/faults"
done
read=$(wc -l <"$work/counts")
[ "$read" -eq "$objects" ] || echo "$read of $objects objects read" >>"$work/faults"
tell "inner loops that spill" "$work/faults"
summary=$(awk '
  { functions += $1; loops += $2; spills += $3; scalars += $4 }
  $5 > longest { longest = $5; products = $6; name = $0; for (i = 1; i <= 6; i++) sub(/^[^ ]+ /, "", name) }
  END { printf "%d functions, %d inner loops, %d vector spills, %d general registers reloaded; ",
               functions, loops, spills, scalars
        printf "longest loop: %d instructions for %d products, %s", longest, products, name }' "$work/counts")
echo "$level: $summary"
: >"$work/none"
case $summary in *" 0 inner loops"*) echo "nothing to judge in $objects of $# objects" >"$work/none" ;; esac
tell "level $level" "$work/none"
finish "$objects objects of $level"
