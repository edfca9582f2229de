// klens_bench: Google Benchmark over the registry. Every kernel of KLENS_KERNELS and every linear on every level that
// this machine has, one token and 128, on one thread. Before a kernel is timed its outputs are compared with those of
// level ref, bit for bit; a kernel that differs is an error, and the program ends with status 1.
//
//   klens_bench --benchmark_filter=linear.*w4g32a8
#include "cases.hpp"

#include <klens/core/denormals.hpp>
#include <klens/dispatch/select.hpp>
#include <klens/format/name.hpp>

#include <benchmark/benchmark.h>

#include <cstdio>

namespace {

using namespace klens;

int differences = 0;

/// One call on zeroed outputs.
template <class Args, class Make>
std::string outputs(Kernel<Args> kernel, const Make& make, int tokens) {
  bench::Memory memory;
  const Args args = make(memory, tokens);
  const FlushDenormals flush;
  kernel(args);
  return memory.outputs();
}

template <class Args, class Make>
void add(const std::string& name, Kernel<Args> kernel, Kernel<Args> reference, Level level, const Make& make) {
  for (const int tokens : {1, 128}) {
    const std::string full = name + "/" + std::string(name_of(level)) + "/" + std::to_string(tokens);
    benchmark::RegisterBenchmark(full.c_str(), [=](benchmark::State& state) {
      if (outputs(kernel, make, tokens) != outputs(reference, make, tokens)) {
        ++differences;
        state.SkipWithError("not the bits of level ref");
        return;
      }
      bench::Memory memory;
      const Args args = make(memory, tokens);
      const FlushDenormals flush;
      for (auto _ : state) {
        kernel(args);
        benchmark::ClobberMemory();
      }
      state.SetItemsProcessed(std::int64_t(state.iterations()) * tokens);
    });
  }
}

/// The format whose kernel stands at linear[c][grouped][d]: groups of 32, of nf4 64.
Precision precision_of(Codec c, bool grouped, DotKind d) {
  Precision p{};
  p.weight_bits = std::uint8_t(bits_of(c)), p.scheme.grid = grid_of(c);
  p.scheme.scale = grouped ? Granularity::group : Granularity::row;
  p.scheme.group = !grouped ? 0 : c == Codec::nf4 ? 64 : 32;
  p.activation = d == DotKind::f32 ? Activation::f32 : d == DotKind::a16 ? Activation::a16 : Activation::a8;
  return p;
}

void add_level(const KernelTable& table, const KernelTable& reference) {
#define KLENS_BENCH(name, Args) add<Args>(#name, table.name, reference.name, table.level, &bench::Case<Args>::args);
  KLENS_KERNELS(KLENS_BENCH)
#undef KLENS_BENCH
  for (int c = 0; c < codec_count; ++c)
    for (const bool grouped : {false, true})
      for (int d = 0; d < dot_kind_count; ++d) {
        if (!table.linear[c][grouped][d]) continue;
        const Precision p = precision_of(Codec(c), grouped, DotKind(d));
        add<LinearArgs>("linear<" + format_name(p) + ">", linear_of(table, p), linear_of(reference, p), table.level,
                        [p](bench::Memory& m, int tokens) { return bench::linear_case(m, p, tokens); });
      }
}

}  // namespace

int main(int argc, char** argv) {
  const KernelTable* const reference = table_of(Level::ref);
  if (!reference)
    return std::fputs("klens_bench: level ref is not compiled in; it is what the others are checked against\n", stderr),
           1;
  for (const Level level : all_levels)
    if (level != Level::ref && runnable(level)) add_level(*table_of(level), *reference);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  if (differences > 0) std::fprintf(stderr, "klens_bench: %d kernels differ from level ref\n", differences);
  return differences > 0 ? 1 : 0;
}
