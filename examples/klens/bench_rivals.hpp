// The rivals of a format on a level: the module klens_rivals, capped to the level's instructions. The caps of the
// libraries are per process and read when they are loaded, so a process measures one level (bench.cpp forks one for
// each).
#pragma once

#include "bench_run.hpp"
#include "rival_api.hpp"

#include <klens/io/mapped_file.hpp>

#include <dlfcn.h>
#include <cstdlib>
#include <memory>

namespace klens::cli {

class Rivals {
 public:
  Rivals() = default;
  Rivals(const Rivals&) = delete;
  Rivals& operator=(const Rivals&) = delete;

  /// Loads the module at `path` for a level. What keeps it from being used is in note(); rivals are then absent.
  void load(const std::string& path, Level level) {
    if (level == Level::ref) return void(note_ = "none: level ref has no equal");
    const auto [onednn, openblas, ggml] = caps(level);
    setenv("KLENS_GGML_VARIANT", ggml, 1);
    setenv("ONEDNN_MAX_CPU_ISA", onednn, 1), setenv("DNNL_MAX_CPU_ISA", onednn, 1),
        setenv("OPENBLAS_CORETYPE", openblas, 1);
    // Threads of the libraries give up spinning within the pause that Rounds makes: 2^20 cycles here, by default 2^26.
    setenv("OPENBLAS_THREAD_TIMEOUT", "20", 1), setenv("GOMP_SPINCOUNT", "10000", 1);
    void* const module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!module) return void(note_ = "absent: " + std::string(dlerror()));
    using Entry = const RivalApi* (*)();
    const auto entry = reinterpret_cast<Entry>(dlsym(module, rival_entry));
    if (!entry || entry()->version != rival_api_version)
      return void(note_ = "absent: " + path + " is not of this version");
    api_ = entry();
    note_ = api_->describe();
  }

  const std::string& note() const { return note_; }
  bool present() const { return api_ != nullptr; }

  /// The contenders of a row, ready to run. The integer products of signed and unsigned rows count as one: the faster.
  std::vector<Contender> contenders(const Precision& p, int rows, int cols, int tokens, int copies, int threads,
                                    std::int64_t total_bytes) {
    std::vector<Contender> all;
    if (!api_) return all;
    if (std::pair(rows, cols) != shape_) kept_.clear(), shape_ = {rows, cols};
    const auto make = [&](const char* kind, double bytes_per_weight) -> std::optional<Contender> {
      const double bytes = double(rows) * cols * bytes_per_weight;
      const int own = std::clamp(int(double(total_bytes) / bytes) + 1, 1, copies);
      auto [kept, fresh] = kept_.try_emplace({kind, tokens, p.scheme.group, own, threads});
      if (fresh)
        kept->second = std::shared_ptr<void>(api_->make(kind, rows, cols, tokens, p.scheme.group, own, threads),
                                             [api = api_](void* r) {
                                               if (r) api->destroy(r);
                                             });
      const std::shared_ptr<void> rival = kept->second;
      if (!rival) return std::nullopt;
      return Contender{std::string(kind) + " " + api_->implementation(rival.get()),
                       [api = api_, rival, own](int copy) { api->run(rival.get(), copy % own); }};
    };
    const auto add = [&](const char* kind, double bytes) {
      if (auto c = make(kind, bytes)) all.push_back(std::move(*c));
    };
    const bool grouped4 = p.weight_bits == 4 && p.scheme.scale == Granularity::group;
    if (p.activation == Activation::a8) {
      auto s8 = make("onednn.s8s8", 1), u8 = make("onednn.u8s8", 1);
      if (s8 && u8)
        all.push_back(std::move(quick(*u8) < quick(*s8) ? *u8 : *s8));
      else if (s8 || u8)
        all.push_back(std::move(s8 ? *s8 : *u8));
    }
    if (grouped4 && p.activation == Activation::a8) add("onednn.s4s8", 0.5625), add("ggml.q4_0", 0.5625);
    if (grouped4 && p.activation != Activation::a8) add("onednn.s4", 0.5625), add("onednn.s4bf16", 0.5625);
    if (p.activation == Activation::f32) {
      if (p.scheme.grid == Grid::f16 || p.scheme.grid == Grid::bf16 || grouped4) add("onednn.bf16", 2);
      if (p.scheme.grid != Grid::f16 && p.scheme.grid != Grid::bf16) add("onednn.f32", 4);
      if (p.scheme.grid == Grid::f32 || grouped4) add("openblas.f32", 4);
    }
    return all;
  }

 private:
  struct Caps {
    const char *onednn, *openblas, *ggml;
  };

  /// The level's own instructions and no more, as each library calls them.
  static Caps caps(Level level) {
    const std::string_view name = name_of(level);
    if (name == "avx2") return {"AVX2", "HASWELL", "haswell"};
    if (name == "avx_vnni") return {"AVX2_VNNI", "HASWELL", "alderlake"};
    if (name == "avx_vnni_int8") return {"AVX2_VNNI_2", "HASWELL", "alderlake"};
    if (name == "avx512") return {"AVX512_CORE", "SKYLAKEX", "skylakex"};
    if (name == "avx512_vnni") return {"AVX512_CORE_VNNI", "SKYLAKEX", "cascadelake"};
    if (name == "avx512_bf16") return {"AVX512_CORE_BF16", "COOPERLAKE", "cooperlake"};
    return {"AVX512_CORE_AMX", "SAPPHIRERAPIDS", "sapphirerapids"};
  }

  static double quick(const Contender& c) {
    double best = 1e30;
    for (int i = 0; i < 4; ++i) best = std::min(best, seconds_of([&] { c.run(0); }));
    return best;
  }

  const RivalApi* api_ = nullptr;
  /// Rivals of the present shape by kind, tokens, group, copies and threads: filling and packing a head of f32 takes
  /// seconds, and several formats race against the same. Null: the library has none.
  std::map<std::tuple<std::string, int, int, int, int>, std::shared_ptr<void>> kept_;
  std::pair<int, int> shape_{0, 0};
  std::string note_ = "not asked for";
};

}  // namespace klens::cli
