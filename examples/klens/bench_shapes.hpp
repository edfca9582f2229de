// The matrices benchmarks run: every projection and head of six published models, rows = outputs N, cols = inputs K.
#pragma once

#include <klens/core/result.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace klens::cli {

struct BenchShape {
  std::string_view name;  // model.projection
  int rows, cols;
};

/// mamba: d 768 (2048), inner 2 d, dt rank d / 16, states 16. mamba2: in_proj = z, x, B, C, dt. hymba: in_proj = q, k,
/// v, x, gate (the layers that reuse K and V lack 960 of these rows). lfm2: conv in_proj = B, C, x. falcon-h1:
/// attention beside Mamba-2.
inline constexpr BenchShape bench_shapes[] = {
    {"mamba-130m.in_proj", 3072, 768},
    {"mamba-130m.x_proj", 80, 1536},
    {"mamba-130m.dt_proj", 1536, 48},
    {"mamba-130m.out_proj", 768, 1536},
    {"mamba-130m.head", 50280, 768},
    {"mamba-1.4b.in_proj", 8192, 2048},
    {"mamba-1.4b.x_proj", 160, 4096},
    {"mamba-1.4b.dt_proj", 4096, 128},
    {"mamba-1.4b.out_proj", 2048, 4096},
    {"mamba-1.4b.head", 50280, 2048},
    {"mamba2-130m.in_proj", 3352, 768},
    {"mamba2-130m.out_proj", 768, 1536},
    {"mamba2-130m.head", 50288, 768},
    {"hymba-1.5b.in_proj", 8960, 1600},
    {"hymba-1.5b.in_proj_reuse", 8000, 1600},
    {"hymba-1.5b.x_proj", 132, 3200},
    {"hymba-1.5b.dt_proj", 3200, 100},
    {"hymba-1.5b.out_proj", 1600, 3200},
    {"hymba-1.5b.gate_proj", 5504, 1600},
    {"hymba-1.5b.up_proj", 5504, 1600},
    {"hymba-1.5b.down_proj", 1600, 5504},
    {"hymba-1.5b.head", 32001, 1600},
    {"lfm2-1.2b.conv_in", 6144, 2048},
    {"lfm2-1.2b.conv_out", 2048, 2048},
    {"lfm2-1.2b.q_proj", 2048, 2048},
    {"lfm2-1.2b.k_proj", 512, 2048},
    {"lfm2-1.2b.v_proj", 512, 2048},
    {"lfm2-1.2b.o_proj", 2048, 2048},
    {"lfm2-1.2b.w1", 8192, 2048},
    {"lfm2-1.2b.w3", 8192, 2048},
    {"lfm2-1.2b.w2", 2048, 8192},
    {"lfm2-1.2b.head", 65536, 2048},
    {"falcon-h1-0.5b.in_proj", 3352, 1024},
    {"falcon-h1-0.5b.out_proj", 1024, 1536},
    {"falcon-h1-0.5b.q_proj", 512, 1024},
    {"falcon-h1-0.5b.k_proj", 128, 1024},
    {"falcon-h1-0.5b.v_proj", 128, 1024},
    {"falcon-h1-0.5b.o_proj", 1024, 512},
    {"falcon-h1-0.5b.gate_proj", 2048, 1024},
    {"falcon-h1-0.5b.up_proj", 2048, 1024},
    {"falcon-h1-0.5b.down_proj", 1024, 2048},
    {"falcon-h1-0.5b.head", 32784, 1024},
};

/// Shapes of a list of names; a model's name stands for all of its shapes, "all" for all. Equal sizes are taken once.
inline Result<std::vector<BenchShape>> shapes_named(const std::vector<std::string>& names) {
  std::vector<BenchShape> shapes;
  for (const auto& name : names) {
    bool known = false;
    for (const BenchShape& s : bench_shapes) {
      if (name != "all" && name != s.name && name + "." != s.name.substr(0, name.size() + 1)) continue;
      known = true;
      const auto same = [&](const BenchShape& t) { return t.rows == s.rows && t.cols == s.cols; };
      if (std::none_of(shapes.begin(), shapes.end(), same)) shapes.push_back(s);
    }
    if (known) continue;
    std::string all;
    for (const BenchShape& s : bench_shapes) all += " " + std::string(s.name);
    return Error{ErrorCode::usage, "--shapes", "all, a model, or some of" + all, "'" + name + "'"};
  }
  return shapes;
}

}  // namespace klens::cli
