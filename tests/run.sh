#!/bin/sh
# All tests of klens, from a bare Debian or Ubuntu machine: installs what is missing, builds, runs, counts.
#
#   sh tests/run.sh                  everything
#   sh tests/run.sh main             only the named parts of: main clang sanitize
#
#   main      g++, every ISA level: unit, oracle, golden and promise tests, structure, must-not-compile, package consumers,
#             benchmarks (that they run)
#   clang     clang++, the best level of this CPU, avx2 and ref: kernels, their spills, formats, dispatch, components
#   sanitize  g++ with address and undefined-behaviour sanitizers, level ref: kernels, readers, formats
#
# Works from any directory, needs the network only for apt-get, keeps its builds in build-tests/. Exit status 0 only if
# nothing failed. The closing line is `N passed, M failed, K skipped`.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
. cmake/packages.sh

build=${KLENS_TEST_BUILD:-$root/build-tests}
parts=${*:-main clang sanitize}
jobs=$(klens_jobs)
passed=0
failed=0
skipped=0
times=""
# A precompiled header's time stamps do not matter to its meaning.
CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
export CCACHE_SLOPPINESS
unset KLENS_ISA KLENS_EXPECT_ISA
if command -v ninja >/dev/null 2>&1; then keep_going="-k 0"; else keep_going="-k"; fi  # one run tells all errors
mkdir -p "$build" || exit 1

now() { date +%s; }

finish_part() { # NAME START
  times="$times
  $(printf '%-28s %5d s' "$1" $(($(now) - $2)))"
}

fail_step() { # NAME: a step that is no ctest failed
  echo "FAILED: $1"
  failed=$((failed + 1))
}

# Configures and builds; the log is shown only when it fails.
make_build() { # NAME CMAKE_OPTION...
  part=$1
  shift
  log=$build/$part.log
  start=$(now)
  echo "== $part: build (log: $log)"
  # shellcheck disable=SC2046
  if cmake -S "$root" -B "$build/$part" $(klens_configure_options) -DKLENS_BUILD_BENCH=OFF "$@" >"$log" 2>&1 &&
     nice -n 5 cmake --build "$build/$part" -j "$jobs" -- $keep_going >>"$log" 2>&1; then
    finish_part "$part: build" "$start"
    return 0
  fi
  grep -E 'error|Error|FAILED' "$log" | head -n 40
  tail -n 20 "$log"
  finish_part "$part: build" "$start"
  fail_step "$part: build"
  return 1
}

# Runs ctest and adds its counts; the JUnit file is what ctest itself says happened.
run_ctest() { # NAME CTEST_OPTION...
  part=$1
  shift
  start=$(now)
  echo "== $part: tests"
  report=$build/$part.junit.xml
  rm -f "$report"
  ctest --test-dir "$build/$part" -j "$jobs" --output-on-failure --no-tests=error --output-junit "$report" "$@"
  status=$?
  finish_part "$part: tests" "$start"
  if [ ! -s "$report" ]; then
    fail_step "$part: ctest wrote no report"
    return
  fi
  counted=$(awk '
    /<testsuite/ { inside = 1 }
    inside && /tests="/    { match($0, /tests="[0-9]+/);    tests = substr($0, RSTART + 7, RLENGTH - 7) }
    inside && /failures="/ { match($0, /failures="[0-9]+/); fails = substr($0, RSTART + 10, RLENGTH - 10) }
    inside && /skipped="/  { match($0, /skipped="[0-9]+/);  skips = substr($0, RSTART + 9, RLENGTH - 9) }
    inside && /disabled="/ { match($0, /disabled="[0-9]+/); off = substr($0, RSTART + 10, RLENGTH - 10) }
    inside && /timestamp=|<testcase/ { exit }
    END { print tests + 0, fails + 0, skips + off + 0 }' "$report")
  # shellcheck disable=SC2086
  set -- $counted
  passed=$((passed + $1 - $2 - $3))
  failed=$((failed + $2))
  skipped=$((skipped + $3))
  if [ "$status" -ne 0 ] && [ "$2" -eq 0 ]; then fail_step "$part: ctest ended with status $status"; fi
}

# The levels the second compiler is tried on: the best one this CPU has and what stands on it, avx2, whose 16 registers are
# the first to run out, and ref, which the kernel tests compare with.
second_levels() {
  flags=" $(sed -n 's/^flags[^:]*://p' /proc/cpuinfo 2>/dev/null | head -n 1) "
  has() { for f in "$@"; do case $flags in *" $f "*) ;; *) return 1 ;; esac; done; }
  if has avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16 amx_tile amx_int8; then echo "ref;avx2;avx512_vnni;avx512_bf16;amx_int8"
  elif has avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16; then echo "ref;avx2;avx512_vnni;avx512_bf16"
  elif has avx512f avx512bw avx512dq avx512vl avx512_vnni; then echo "ref;avx2;avx512_vnni"
  elif has avx512f avx512bw avx512dq avx512vl; then echo "ref;avx2;avx512"
  elif has avx2 fma f16c avx_vnni; then echo "ref;avx2;avx_vnni"
  elif has avx2 fma f16c; then echo "ref;avx2"
  else echo ref
  fi
}

all_start=$(now)
klens_install build test bench || exit 1
finish_part "packages" "$all_start"

for name in $parts; do
  case $name in
    main)
      if make_build main -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS=-DKLENS_CHECKS=1 \
           -DCMAKE_CXX_FLAGS_RELEASE=-O2 -DKLENS_BUILD_BENCH=ON; then
        run_ctest main
      fi ;;
    clang)
      if make_build clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O2 \
           -DKLENS_BUILD_EXAMPLES=OFF "-DKLENS_LEVELS=$(second_levels)" "-DKLENS_TEST_FOLDERS=core;format;isa;simd;kernel;dispatch;component"; then
        run_ctest clang
      fi ;;
    sanitize)
      # -g1: line numbers in reports, at a fraction of the debug information.
      if make_build sanitize -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1" \
           "-DCMAKE_CXX_FLAGS=-DKLENS_CHECKS=1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" \
           -DKLENS_BUILD_EXAMPLES=OFF -DKLENS_LEVELS=ref "-DKLENS_TEST_FOLDERS=core;format;simd;kernel;io;plan"; then
        run_ctest sanitize
      fi ;;
    *)
      echo "tests/run.sh: no part '$name' (main clang sanitize)" >&2
      exit 2 ;;
  esac
done

finish_part "all" "$all_start"
echo
echo "seconds per part:$times"
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
