#!/bin/sh
# What the compiler made of one ISA level: no symbol that another level's object could be mixed up with, no instruction that
# the level's CPU lacks.
# usage: objects.sh LEVEL [--no-dots] OBJECT...      LEVEL "baseline": objects of code that runs before a level is chosen;
#                                                    --no-dots: objects that need not hold integer dot products
#
#   weak or unique symbols stand in klens::N_<level> (the linker keeps one copy of a weak symbol: if it is the AVX-512 one,
#   older CPUs die of it in code that is not even SIMD); strong definitions are tables, functions of the level's namespace, or
#   explicit instantiations over it; baseline, ref: no ymm, zmm; avx2, avx_vnni*: no zmm, no EVEX, dots in the {vex} form;
#   dot products, bf16 dots and tiles only where the level has them, and there at least one.
set -u
. "$(dirname "$0")/support.sh"
level=$1
shift
want_dots=1
if [ "${1:-}" = --no-dots ]; then
  want_dots=0
  shift
fi
command -v nm >/dev/null 2>&1 && command -v objdump >/dev/null 2>&1 || { echo "nm and objdump (binutils) are missing"; exit 1; }
[ $# -gt 0 ] || { echo "no objects given"; exit 1; }

: >"$work/weak"
: >"$work/strong"
: >"$work/code"
dots=0
for object in "$@"; do
  [ -f "$object" ] || { echo "$object: no such object"; exit 1; }
  name=$(basename "$object")
  if [ "$level" != baseline ]; then
    # V, W: weak; u: unique (static locals of inline functions). DW.ref.* and typeinfo would be exceptions or RTTI.
    nm -C "$object" | awk -v ns="N_$level::" -v name="$name" '
      { kind = (NF >= 3 && $1 ~ /^[0-9a-f]+$/) ? $2 : $1; text = $0; sub(/^[0-9a-f ]*[A-Za-z] /, "", text) }
      kind ~ /^[VWu]$/ && $1 ~ /^[0-9a-f]+$/ && index(text, ns) == 0 { print name ": " text }' >>"$work/weak"
    nm -C --defined-only -g "$object" | awk -v ns="N_$level::" -v level="$level" -v name="$name" '
      { kind = $2; text = $0; sub(/^[0-9a-f ]*[A-Za-z] /, "", text) }
      kind ~ /^[TDBRG]$/ && index(text, ns) == 0 && text !~ level { print name ": " text }' >>"$work/strong"
  fi
  objdump -d --no-show-raw-insn "$object" >"$work/disassembly"
  case $level in
    baseline | ref) grep -nE '%[yz]mm' "$work/disassembly" | head -n 3 | sed "s|^|$name: |" >>"$work/code" ;;
    avx2 | avx_vnni | avx_vnni_int8)
      grep -nE '%zmm|%[xy]mm(1[6-9]|2[0-9]|3[01])|%k[1-7]|\{1to' "$work/disassembly" | head -n 3 | sed "s|^|$name: |" >>"$work/code" ;;
  esac
  case $level in
    avx_vnni | avx_vnni_int8)
      grep -E 'vpdp(busd|wssd)' "$work/disassembly" | grep -v '{vex}' | head -n 3 | sed "s|^|$name: EVEX form: |" >>"$work/code" ;;
  esac
  # What no CPU of the level need have. vpdpbssd has a VEX form alone.
  case $level in
    baseline | ref | avx2 | avx512) foreign='vpdp[bw]|vdpbf16ps|tdpb|tile' ;;
    avx_vnni | avx512_vnni) foreign='vpdp(bss|bsu|buu|wus|wsu|wuu)d|vdpbf16ps|tdpb|tile' ;;
    avx_vnni_int8) foreign='vdpbf16ps|tdpb|tile' ;;
    avx512_bf16) foreign='vpdp(bss|bsu|buu|wus|wsu|wuu)d|tdpb|tile' ;;
    *) foreign='vpdp(bss|bsu|buu|wus|wsu|wuu)d' ;;
  esac
  awk -F '\t' -v foreign="^(\\{[a-z]+\\} )?($foreign)" '$2 ~ foreign { print FNR ":" $0 }' "$work/disassembly" | head -n 3 |
    sed "s|^|$name: |" >>"$work/code"
  case $level in
    avx512_bf16) own=vdpbf16ps ;;
    amx_int8) own=tdpbsud ;;
    avx_vnni_int8) own=vpdpbssd ;;
    *) own=vpdpbusd ;;
  esac
  dots=$((dots + $(grep -cE "$own" "$work/disassembly")))
done
tell "weak symbols outside klens::N_$level" "$work/weak"
tell "strong symbols that do not name level $level" "$work/strong"
tell "instructions that level $level must not use" "$work/code"
case $level in
  *vnni* | avx512_bf16 | amx_int8)
    if [ "$dots" -eq 0 ] && [ "$want_dots" -eq 1 ]; then
      echo "no $own in any object" >"$work/none"
      tell "level $level without its dot products" "$work/none"
    fi ;;
esac
finish "$# objects of $level, $dots $own"
