#!/bin/sh
# The one-way arrows between the folders of include/klens: what a folder may include is one line here.
set -u
. "$(dirname "$0")/support.sh"

cat >"$work/allowed" <<'TABLE'
core
format     core
isa        core
simd       core isa
kernel     core format isa simd
plan       core format
dispatch   core format isa plan kernel
component  core format isa simd kernel plan dispatch
io         core format plan
model      core format isa simd kernel plan dispatch component io quant/rtn.hpp
quant      core format model
lens       core format isa simd kernel plan dispatch component io model quant
report     core format isa simd kernel plan dispatch component io model quant lens
TABLE

# Prints every include of FILE... that its folder may not have.
check() {
  awk -v table="$work/allowed" '
    BEGIN {
      while ((getline line < table) > 0) {
        n = split(line, word, " ")
        known[word[1]] = 1
        ok[word[1], word[1]] = 1
        for (i = 2; i <= n; ++i) ok[word[1], word[i]] = 1
      }
    }
    FNR == 1 {
      folder = FILENAME
      sub(/.*include\/klens\//, "", folder)
      has_folder = sub(/\/.*/, "", folder)
      if (has_folder && !(folder in known)) print FILENAME ": folder \"" folder "\" is not in the table of tests/structure/includes.sh"
    }
    /^[ \t]*#[ \t]*include[ \t]*"/ { print FILENAME ":" FNR ": quoted include: headers include each other as <klens/...>" }
    /^[ \t]*#[ \t]*include[ \t]*<klens\// && has_folder {
      target = $0
      sub(/.*<klens\//, "", target); sub(/>.*/, "", target)
      if (target == "config.hpp" || target == "version.hpp") next
      to = target; sub(/\/.*/, "", to)
      if (!((folder, to) in ok) && !((folder, target) in ok)) print FILENAME ":" FNR ": " folder "/ includes <klens/" target ">"
    }' "$@"
}

# The check itself must see a wrong arrow.
mkdir -p "$work/include/klens/simd"
printf '#include <klens/format/scheme.hpp>\n#include <klens/core/half.hpp>\n' >"$work/include/klens/simd/wrong.hpp"
if [ "$(check "$work/include/klens/simd/wrong.hpp" | wc -l)" -ne 1 ]; then
  echo "tripwire: a wrong include is not seen" >"$work/tripwire"
  tell "the test itself" "$work/tripwire"
fi

find "$include" -name '*.hpp' | sort >"$work/headers"
# shellcheck disable=SC2046
check $(cat "$work/headers") >"$work/faults"
tell "a folder includes what it must not know" "$work/faults"
finish "$(wc -l <"$work/headers" | tr -d ' ') headers include only what their folder may"
