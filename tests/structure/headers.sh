#!/bin/sh
# Every public header of some folders compiles by itself, first in a translation unit, with warnings as errors.
# core to component must do so without exceptions and RTTI too.
# usage: headers.sh COMPILER [--launcher ccache] FOLDER...      FOLDER "." is include/klens itself
set -u
. "$(dirname "$0")/support.sh"
compiler=$1
shift
launcher=""
if [ "$1" = --launcher ]; then
  launcher=$2
  shift 2
fi
count=0
: >"$work/faults"
for folder in "$@"; do
  case $folder in
    core | format | isa | simd | kernel | plan | dispatch | component) flags="-fno-exceptions -fno-rtti" ;;
    *) flags="" ;;
  esac
  for header in "$include/$folder"/*.hpp; do
    [ -f "$header" ] || continue
    name=klens/${header#"$include"/}
    name=$(printf '%s' "$name" | sed 's|/\./|/|')
    count=$((count + 1))
    case $name in  # the two headers that are included on their levels only
      klens/simd/*_avx512.hpp) level="-march=x86-64-v4" ;;
      klens/simd/*_avx2.hpp) level="-march=x86-64-v3" ;;
      *) level="" ;;
    esac
    printf '#include <%s>\n' "$name" >"$work/unit.cpp"
    # shellcheck disable=SC2086
    if ! $launcher "$compiler" -std=c++20 -O0 -ffp-contract=off -Wall -Wextra -Werror $flags $level -I"$root/include" -c "$work/unit.cpp" \
         -o "$work/unit.o" >"$work/log" 2>&1; then
      echo "$name: $(grep -m1 -E 'error' "$work/log")" >>"$work/faults"
    fi
  done
done
tell "headers that do not compile alone" "$work/faults"
finish "$count headers of $* compile alone"
