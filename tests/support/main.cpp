// main() of every test program. With KLENS_ISA set, the whole run is about that level: a CPU that lacks it ends with 77
// (ctest counts a skip), and a dispatcher that chooses any other level is a failure. KLENS_EXPECT_ISA=avx2,avx512 turns the
// skip of a named level into a failure, for machines that are known to have it.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <klens/dispatch/select.hpp>
#include <klens/isa/detect.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace {

constexpr int skipped = 77;

bool is_expected(std::string_view level) {
  const char* list = std::getenv("KLENS_EXPECT_ISA");
  return list && ("," + std::string(list) + ",").find("," + std::string(level) + ",") != std::string::npos;
}

/// 0: go on; else the exit status.
int check_level(std::string_view name) {
  const auto level = klens::parse_level(name);
  if (!level) {
    std::fprintf(stderr, "KLENS_ISA=%.*s: unknown level\n", int(name.size()), name.data());
    return 1;
  }
  if (!klens::supports(klens::detect(), *level)) {
    const bool expected = is_expected(name);
    std::printf("%s: level %.*s: this CPU lacks it\n", expected ? "FAILED" : "skipped", int(name.size()), name.data());
    return expected ? 1 : skipped;
  }
  const auto table = klens::choose_table("");
  if (!table) {
    std::fprintf(stderr, "%s\n", table.error().message().c_str());
    return 1;
  }
  if ((*table)->level != *level) {
    std::fprintf(stderr, "KLENS_ISA=%.*s, but the chosen level is %s\n", int(name.size()), name.data(),
                 std::string(klens::name_of((*table)->level)).c_str());
    return 1;
  }
  std::printf("level %.*s\n", int(name.size()), name.data());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  if (const char* name = std::getenv("KLENS_ISA"); name && *name && !context.shouldExit())
    if (const int status = check_level(name)) return status;
  return context.run();
}
