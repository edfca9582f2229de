# The packages klens is built and tested with on Debian and Ubuntu, and the one way to install them. Sourced, POSIX sh.
#
#   klens_install build        what `sh examples/quickstart.sh` needs
#   klens_install build test bench   what `sh tests/run.sh` needs; bench: the rivals of `klens bench kernels`, and Google
#                                    Benchmark

klens_packages_build="g++ cmake ninja-build ccache libxsimd-dev libboost-dev nlohmann-json3-dev libcli11-dev libfmt-dev libpcre2-dev libutf8proc-dev"
klens_packages_test="doctest-dev clang binutils"
klens_packages_bench="libdnnl-dev libopenblas-dev libbenchmark-dev"

# Installs what is missing of the named lists; installs nothing, and says so, when all is there.
klens_install() {
  klens_wanted=""
  for klens_list in "$@"; do
    case $klens_list in
      build) klens_wanted="$klens_wanted $klens_packages_build" ;;
      test) klens_wanted="$klens_wanted $klens_packages_test" ;;
      bench) klens_wanted="$klens_wanted $klens_packages_bench" ;;
      *) echo "klens_install: unknown list '$klens_list'" >&2; return 2 ;;
    esac
  done
  if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    echo "packages: no apt-get here, nothing installed; needed are the likes of:$klens_wanted"
    return 0
  fi
  klens_missing=""
  for klens_package in $klens_wanted; do
    case $(dpkg-query -W -f='${Status}' "$klens_package" 2>/dev/null) in
      "install ok installed") ;;
      *) klens_missing="$klens_missing $klens_package" ;;
    esac
  done
  if [ -z "$klens_missing" ]; then
    echo "packages: all present, nothing to install"
    return 0
  fi
  klens_root=""
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      echo "packages: please install, as root:$klens_missing" >&2
      return 1
    fi
    klens_root="sudo"
  fi
  echo "packages: installing$klens_missing"
  klens_log=$(mktemp)
  # Lists may be missing or stale on a fresh machine. Recommended packages are left out: nothing here needs them.
  if $klens_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >"$klens_log" 2>&1 &&
     $klens_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $klens_missing >>"$klens_log" 2>&1; then
    rm -f "$klens_log"
    return 0
  fi
  tail -n 20 "$klens_log" >&2
  rm -f "$klens_log"
  echo "packages: apt-get failed (above)" >&2
  return 1
}

# Parallel jobs of a build: two at most, since one translation unit may take 1.5 GB.
klens_jobs() {
  klens_cpus=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
  if [ "$klens_cpus" -ge 2 ]; then echo 2; else echo 1; fi
}

# Generator and compiler cache of a configure call: what is there is used.
klens_configure_options() {
  if command -v ninja >/dev/null 2>&1; then printf '%s\n' -GNinja; fi
  if command -v ccache >/dev/null 2>&1; then printf '%s\n' -DCMAKE_CXX_COMPILER_LAUNCHER=ccache; fi
}
