// The best level this CPU has of the compiled ones, a name that is not one of them refused, a file that does not exist told.
#include <klens/dispatch/select.hpp>
#include <klens/io/safetensors.hpp>
#include <klens/version.hpp>

#include <cstdio>
#include <string>

int main() {
  const auto chosen = klens::choose_table("");
  if (!chosen) return std::puts(chosen.error().message().c_str()), 1;
  if (klens::table_of(klens::Level::ref) == nullptr || klens::choose_table("avx9")) return 1;
  if (klens::Safetensors::open("no/such/file.safetensors")) return 1;
  std::printf("klens %s on %s\n", KLENS_VERSION, std::string(klens::name_of((*chosen)->level)).c_str());
}
