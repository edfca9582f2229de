// What `klens bench kernels` times of the sequence kernels: their arguments with the sizes of six published models,
// what bounds them, and their error against float64 of the same equations, written out plainly once more. Over 400
// lines: one block per kernel.
#pragma once

#include "cases.hpp"

#include <klens/core/denormals.hpp>
#include <klens/core/thread_team.hpp>
#include <klens/format/state.hpp>
#include <klens/kernel/hadamard.hpp>
#include <klens/model/decoder.hpp>

#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace klens::cli {

/// Sizes of a model's sequence kernels; 0: it has none of the kind.
struct SequenceShape {
  const char* name;
  int hidden, layers;
  int scan_channels, scan_states;               // Mamba-1
  int ssd_heads, ssd_dim, ssd_states;           // Mamba-2, one group
  int conv_channels, conv_taps;                 // with SiLU
  int short_channels;                           // LFM2's, 3 taps
  int heads, kv_heads, qk_dim, v_dim;           // attention
  int hadamard;                                 // inputs of out_proj or of the last FFN matrix
};

inline constexpr SequenceShape sequence_shapes[] = {
    {"mamba-130m", 768, 24, 1536, 16, 0, 0, 0, 1536, 4, 0, 0, 0, 0, 0, 1536},
    {"mamba-1.4b", 2048, 48, 4096, 16, 0, 0, 0, 4096, 4, 0, 0, 0, 0, 0, 4096},
    {"mamba2-130m", 768, 24, 0, 0, 24, 64, 128, 1792, 4, 0, 0, 0, 0, 0, 0},
    {"hymba-1.5b", 1600, 32, 3200, 16, 0, 0, 0, 3200, 4, 0, 25, 5, 64, 128, 3200},
    {"lfm2-1.2b", 2048, 16, 0, 0, 0, 0, 0, 0, 0, 2048, 32, 8, 64, 64, 8192},
    {"falcon-h1-0.5b", 1024, 36, 0, 0, 24, 64, 128, 1792, 4, 0, 8, 2, 64, 64, 0},
};

/// Bytes that a call must read, and those of them (or others) that it must write: what the walk of the limit does.
struct Span {
  const unsigned char* from;
  unsigned char* to;   // nullptr: only read
  std::int64_t bytes;
};

/// One row of the table. Calls walk `copies` equal sets of data in turn (layers of a model), so that decode finds its
/// states where it does in a model.
struct SequenceCase {
  std::string kernel = {}, shape = {};
  int tokens = 0, copies = 1;
  double exps = 0, silus = 0, fmas = 0;          // of 16 lanes, per call, that no implementation can avoid
  bool judged_by_exp = false;                    // share of the exp rate, else of the longest bound
  std::function<void(const KernelTable&, int copy)> run = {};
  std::function<void(const KernelTable&, int copy, const Team&)> run_on = {};   // split as a session does; empty: one thread alone
  std::function<std::vector<Span>(int copy)> spans = {};
  std::function<double()> error = {};            // rms(y - float64) / rms(float64) after run(table, 0) on fresh data
  std::shared_ptr<bench::Memory> memory = std::make_shared<bench::Memory>();
};

/// rms of differences over rms of the truth.
class Error64 {
 public:
  void operator()(double got, double want) { difference_ += (got - want) * (got - want), size_ += want * want; }
  double value() const { return size_ > 0 ? std::sqrt(difference_ / size_) : 0; }

 private:
  double difference_ = 0, size_ = 0;
};

namespace sequence {

inline double silu(double x) { return x / (1 + std::exp(-x)); }
inline double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

template <class T>
const unsigned char* bytes_of(const T* p) { return reinterpret_cast<const unsigned char*>(p); }
template <class T>
unsigned char* bytes_of(T* p) { return reinterpret_cast<unsigned char*>(p); }

/// Sets how a case runs on a team, and so alone.
inline void runs(SequenceCase& c, std::function<void(const KernelTable&, int copy, const Team&)> on) {
  c.run = [on](const KernelTable& t, int copy) { on(t, copy, Team{}); };
  c.run_on = std::move(on);
}

/// The items of `a`, at least `grain` in a block.
template <class Args>
void split(const Team& team, int grain, const Args& a, Kernel<Args> kernel) {
  decoder::split(team, a.end, grain, [&](int begin, int end, int) {
    Args part = a;
    part.begin = begin, part.end = end;
    kernel(part);
  });
}

inline int conv_grain(int groups, int tokens, const Team& team) {
  Pass pass;
  pass.team = team, pass.tokens = tokens;
  return decoder::conv_grain(groups, pass);
}

inline std::string named(const char* kernel, State s) { return fmt::format("{}<{}>", kernel, name_of(s)); }

/// conv1d with SiLU on columns of an in_proj row of twice as many.
inline SequenceCase conv1d(const SequenceShape& s, int tokens, State format) {
  SequenceCase c{.kernel = named("conv1d", format), .shape = s.name, .tokens = tokens};
  bench::Memory& m = *c.memory;
  const int channels = s.conv_channels, taps = s.conv_taps;
  const std::int64_t state_bytes = conv_state_bytes(format, channels, taps);
  c.copies = tokens == 1 ? s.layers : 1;
  Conv1dArgs a;
  a.x = m.random(std::int64_t(tokens) * 2 * channels), a.x_stride = 2 * channels, a.weight = m.random(taps * channels);
  a.bias = m.random(channels), a.y = m.output(std::int64_t(tokens) * channels), a.y_stride = channels;
  a.taps = taps, a.channels = channels, a.tokens = tokens, a.end = channels / lanes, a.format = format;
  auto* const states = m.zeros<unsigned char>(state_bytes * c.copies);
  const double groups = double(tokens) * channels / lanes;
  c.silus = groups, c.fmas = groups * taps;
  runs(c, [=](const KernelTable& t, int copy, const Team& team) {
    Conv1dArgs one = a;
    one.state = states + copy * state_bytes;
    one.scales = reinterpret_cast<float*>(states + copy * state_bytes + conv_scales_offset(format, channels, taps));
    split(team, conv_grain(one.end, tokens, team), one, t.conv1d);
  });
  c.spans = [=](int copy) {
    return std::vector<Span>{{bytes_of(a.x), bytes_of(a.y), std::int64_t(tokens) * channels * 4},
                             {bytes_of(a.weight), nullptr, taps * channels * 4},
                             {states + copy * state_bytes, states + copy * state_bytes, state_bytes}};
  };
  c.error = [=] {
    Error64 e;
    for (int i = 0; i < channels; i += 97)
      for (int t = 0; t < tokens; ++t) {
        double sum = a.bias[i];
        for (int k = 0; k < taps; ++k)
          if (const int at = t - taps + 1 + k; at >= 0)
            sum += double(a.weight[k * channels + i]) * a.x[at * a.x_stride + i];
        e(a.y[std::int64_t(t) * channels + i], silu(sum));
      }
    return e.value();
  };
  return c;
}

inline SequenceCase short_conv(const SequenceShape& s, int tokens, State format) {
  SequenceCase c{.kernel = named("short_conv", format), .shape = s.name, .tokens = tokens};
  bench::Memory& m = *c.memory;
  const int channels = s.short_channels, taps = 3;
  const std::int64_t state_bytes = conv_state_bytes(format, channels, taps), stride = 3 * channels;
  c.copies = tokens == 1 ? s.layers : 1;
  ShortConvArgs a;
  a.b = m.random(tokens * stride), a.c = a.b + channels, a.x = a.b + 2 * channels, a.stride = stride;
  a.weight = m.random(taps * channels), a.y = m.output(std::int64_t(tokens) * channels), a.y_stride = channels;
  a.taps = taps, a.channels = channels, a.tokens = tokens, a.end = channels / lanes, a.format = format;
  auto* const states = m.zeros<unsigned char>(state_bytes * c.copies);
  c.fmas = double(tokens) * channels / lanes * (taps + 2);
  runs(c, [=](const KernelTable& t, int copy, const Team& team) {
    ShortConvArgs one = a;
    one.state = states + copy * state_bytes;
    one.scales = reinterpret_cast<float*>(states + copy * state_bytes + conv_scales_offset(format, channels, taps));
    split(team, conv_grain(one.end, tokens, team), one, t.short_conv);
  });
  c.spans = [=](int copy) {
    const std::int64_t third = std::int64_t(tokens) * channels * 4;
    return std::vector<Span>{{bytes_of(a.b), bytes_of(a.y), third},
                             {bytes_of(a.b) + third, nullptr, 2 * third},
                             {bytes_of(a.weight), nullptr, taps * channels * 4},
                             {states + copy * state_bytes, states + copy * state_bytes, state_bytes}};
  };
  c.error = [=] {
    Error64 e;
    for (int i = 0; i < channels; i += 97)
      for (int t = 0; t < tokens; ++t) {
        double sum = 0;
        for (int k = 0; k < taps; ++k)
          if (const int at = t - taps + 1 + k; at >= 0)
            sum += double(a.weight[k * channels + i]) * a.b[at * stride + i] * a.x[at * stride + i];
        e(a.y[std::int64_t(t) * channels + i], a.c[t * stride + i] * sum);
      }
    return e.value();
  };
  return c;
}

inline SequenceCase scan(const SequenceShape& s, int tokens, State format) {
  SequenceCase c{.kernel = named("scan", format), .shape = s.name, .tokens = tokens};
  bench::Memory& m = *c.memory;
  const int channels = s.scan_channels, n = s.scan_states;
  const std::int64_t all = std::int64_t(tokens) * channels, state_bytes = scan_state_bytes(format, channels, n);
  c.copies = tokens == 1 ? s.layers : 1;
  ScanArgs a;
  a.x = m.random(all), a.dt = m.random(all), a.z = m.random(all), a.y = m.output(all);
  a.b = m.random(tokens * n), a.c = m.random(tokens * n);
  a.x_stride = a.dt_stride = a.z_stride = a.y_stride = channels, a.b_stride = a.c_stride = n;
  a.dt_bias = m.random(channels), a.a2 = m.random(n * channels, -4, -0.1f), a.d = m.random(channels);
  a.channels = channels, a.n_state = n, a.tokens = tokens, a.end = channels / lanes, a.format = format;
  auto* const states = m.zeros<unsigned char>(state_bytes * c.copies);
  c.exps = double(all) / lanes * n, c.judged_by_exp = true;
  runs(c, [=](const KernelTable& t, int copy, const Team& team) {
    ScanArgs one = a;
    one.state = states + copy * state_bytes;
    one.scales = reinterpret_cast<float*>(states + copy * state_bytes + scan_scales_at(format, channels, n));
    split(team, tokens == 1 ? 8 : 1, one, t.scan);
  });
  c.spans = [=](int copy) {
    return std::vector<Span>{{bytes_of(a.x), bytes_of(a.y), all * 4}, {bytes_of(a.dt), nullptr, all * 4},
                             {bytes_of(a.z), nullptr, all * 4},
                             {bytes_of(a.a2), nullptr, std::int64_t(n) * channels * 4},
                             {states + copy * state_bytes, states + copy * state_bytes, state_bytes}};
  };
  c.error = [=] {
    Error64 e;
    for (int i = 0; i < channels; i += 397) {
      std::vector<double> h(std::size_t(n), 0.0);
      for (int t = 0; t < tokens; ++t) {
        const std::int64_t at = std::int64_t(t) * channels + i;
        const double dt = softplus(double(a.dt[at]) + double(a.dt_bias[i])), x = a.x[at];
        double y = double(a.d[i]) * x;
        for (int k = 0; k < n; ++k) {
          double& state = h[std::size_t(k)];
          state = std::exp2(dt * double(a.a2[k * channels + i])) * state + dt * x * double(a.b[t * n + k]);
          y += state * double(a.c[t * n + k]);
        }
        e(a.y[at], y * silu(a.z[at]));
      }
    }
    return e.value();
  };
  return c;
}

inline SequenceCase ssd(const SequenceShape& s, int tokens, State format) {
  SequenceCase c{.kernel = named("ssd", format), .shape = s.name, .tokens = tokens};
  bench::Memory& m = *c.memory;
  const int heads = s.ssd_heads, dim = s.ssd_dim, n = s.ssd_states, width = heads * dim;
  const std::int64_t all = std::int64_t(tokens) * width, state_bytes = ssd_state_bytes(format, heads, dim, n);
  c.copies = tokens == 1 ? s.layers : 1;
  SsdArgs a;
  a.x = m.random(all), a.dt = m.random(tokens * heads), a.dt_bias = m.random(heads), a.a2 = m.random(heads, -4, -0.1f);
  a.d = m.random(heads), a.b = m.random(tokens * n), a.c = m.random(tokens * n), a.y = m.output(all);
  a.x_stride = a.y_stride = width, a.dt_stride = heads, a.b_stride = a.c_stride = n;
  a.heads = heads, a.head_dim = dim, a.n_state = n, a.tokens = tokens, a.format = format;
  a.end = heads * int(div_up(dim, lanes));
  auto* const states = m.zeros<unsigned char>(state_bytes * c.copies);
  c.fmas = double(all) / lanes * n * 2;
  runs(c, [=](const KernelTable& t, int copy, const Team& team) {
    SsdArgs one = a;
    unsigned char* const state = states + copy * state_bytes;
    one.state = state, one.decay = reinterpret_cast<float*>(state + ssd_decays_at(format, heads, dim, n));
    one.scales = reinterpret_cast<float*>(state + ssd_scales_at(format, heads, dim, n));
    split(team, tokens == 1 ? 8 : 1, one, t.ssd);
  });
  c.spans = [=](int copy) {
    return std::vector<Span>{{bytes_of(a.x), bytes_of(a.y), all * 4},
                             {states + copy * state_bytes, states + copy * state_bytes, state_bytes}};
  };
  c.error = [=] {
    Error64 e;
    for (int h = 0; h < heads; h += 5)
      for (int p = 0; p < dim; p += 31) {
        std::vector<double> state(std::size_t(n), 0.0);
        for (int t = 0; t < tokens; ++t) {
          const double dt = softplus(double(a.dt[t * heads + h]) + double(a.dt_bias[h]));
          const double decay = std::exp2(dt * double(a.a2[h]));
          const std::int64_t at = std::int64_t(t) * width + h * dim + p;
          double y = double(a.d[h]) * double(a.x[at]);
          for (int k = 0; k < n; ++k) {
            double& g = state[std::size_t(k)];
            g = decay * g + dt * double(a.x[at]) * double(a.b[t * n + k]), y += g * double(a.c[t * n + k]);
          }
          e(a.y[at], y);
        }
      }
    return e.value();
  };
  return c;
}

/// KV of `context` positions before the first token, all of them visible.
inline SequenceCase attention(const SequenceShape& s, int tokens, int context, State format) {
  const std::string name = fmt::format("{} at {}", named("attention", format), context + tokens);
  SequenceCase c{.kernel = name, .shape = s.name, .tokens = tokens};
  bench::Memory& m = *c.memory;
  const int positions = context + tokens, capacity = int(round_up(positions, lanes)), chunk = 256;
  auto* const cache = m.zeros<unsigned char>(kv_bytes_per_layer(format, s.kv_heads, s.qk_dim, s.v_dim, capacity));
  const KvView kv = kv_view(cache, format, s.kv_heads, s.qk_dim, s.v_dim, capacity);
  const std::int64_t k_cols = s.kv_heads * s.qk_dim, v_cols = s.kv_heads * s.v_dim, stride = k_cols + v_cols;
  float* const rows = m.random(positions * stride);
  AttentionArgs a;
  a.q = m.random(std::int64_t(tokens) * s.heads * s.qk_dim), a.q_stride = std::int64_t(s.heads) * s.qk_dim;
  a.cache = kv, a.heads = s.heads, a.scale = float(1 / std::sqrt(double(s.qk_dim)));
  a.tokens = tokens, a.position = context;
  a.out = m.output(std::int64_t(tokens) * s.heads * s.v_dim), a.out_stride = std::int64_t(s.heads) * s.v_dim;
  const std::int64_t scratch = round_up(attention_scratch(), lanes);
  a.scratch = m.zeros(scratch * ThreadTeam::max_threads), a.end = attention_items(s.heads, s.kv_heads, tokens);
  const int partitions = tokens <= query_tile && positions >= 4 * attention_partition ? attention_partitions(positions) : 0;
  float* const partial = partitions > 0 ? m.zeros(attention_partial_floats(s.heads, tokens, s.v_dim, capacity)) : nullptr;
  const double pairs = double(tokens) * context + double(tokens) * (tokens + 1) / 2;
  c.fmas = pairs * s.heads * (s.qk_dim + s.v_dim) / lanes;
  c.exps = pairs * s.heads / lanes;
  const auto filled = std::make_shared<const KernelTable*>(nullptr);
  runs(c, [=](const KernelTable& t, int, const Team& team) {
    if (*filled != &t)   // the cache, once per level
      for (int at = 0; at < positions; at += chunk)
        t.kv_append({.cache = kv, .k = rows + at * stride, .v = rows + at * stride + k_cols, .stride = stride,
                     .tokens = std::min(chunk, positions - at), .position = at, .begin = 0, .end = s.kv_heads});
    *filled = &t;
    AttentionArgs all = a;
    const bool parts = team.threads > 1 && partitions > 0;
    if (parts) all.partitions = partitions, all.partial = partial, all.end *= partitions;
    decoder::split(team, all.end, 1, [&](int begin, int end, int thread) {
      AttentionArgs part = all;
      part.scratch += thread * scratch, part.begin = begin, part.end = end;
      t.attention(part);
    });
    if (!parts) return;
    AttentionMergeArgs merge;
    merge.partial = partial, merge.partitions = partitions, merge.heads = s.heads, merge.v_dim = s.v_dim;
    merge.out = a.out, merge.out_stride = a.out_stride, merge.end = tokens * s.heads;
    split(team, 8, merge, t.attention_merge);
  });
  const KvLayout layout = kv_layout(format, s.kv_heads, s.qk_dim, s.v_dim, capacity);
  c.spans = [=](int) {
    std::vector<Span> all;
    for (int pass = 0; pass < div_up(tokens, 64); ++pass)   // 64 queries at a time and more would fit a cache
      all.push_back({bytes_of(cache), nullptr, layout.bytes});
    return all;
  };
  c.error = [=] {
    Error64 e;
    for (const int t : {0, tokens / 2, tokens - 1})
      for (int h = 0; h < s.heads; h += 7) {
        const float* q = a.q + t * a.q_stride + std::int64_t(h) * s.qk_dim;
        const int kv_head = h / (s.heads / s.kv_heads), visible = context + t + 1;
        std::vector<double> p(std::size_t(visible), 0.0), out(std::size_t(s.v_dim), 0.0);
        double top = -1e300, total = 0;
        for (int j = 0; j < visible; ++j) {
          double dot = 0;
          for (int d = 0; d < s.qk_dim; ++d) dot += double(q[d]) * rows[j * stride + kv_head * s.qk_dim + d];
          p[std::size_t(j)] = dot * double(a.scale), top = std::max(top, p[std::size_t(j)]);
        }
        for (double& x : p) x = std::exp(x - top), total += x;
        for (int j = 0; j < visible; ++j)
          for (int d = 0; d < s.v_dim; ++d)
            out[std::size_t(d)] += p[std::size_t(j)] / total * rows[j * stride + k_cols + kv_head * s.v_dim + d];
        const float* got = a.out + t * a.out_stride + std::int64_t(h) * s.v_dim;
        for (int d = 0; d < s.v_dim; ++d) e(got[d], out[std::size_t(d)]);
      }
    return e.value();
  };
  return c;
}

/// Rows of `width` columns read and written; what each norm, rope, quantize_row and hadamard does at least.
struct RowsOf {
  float *x, *y, *z;
  std::int64_t width;
};
inline RowsOf rows_of(bench::Memory& m, int tokens, std::int64_t width) {
  return {m.random(tokens * width), m.output(tokens * width), m.random(tokens * width), width};
}

inline double rms(const float* x, std::int64_t n, double eps) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += double(x[i]) * double(x[i]);
  return 1 / std::sqrt(sum / double(n) + eps);
}

inline SequenceCase rms_norm(const SequenceShape& s, int tokens) {
  SequenceCase c{.kernel = "rms_norm", .shape = s.name, .tokens = tokens};
  const RowsOf r = rows_of(*c.memory, tokens, s.hidden);
  const float* w = c.memory->random(s.hidden);
  c.run = [=](const KernelTable& t, int) {
    t.rms_norm({r.x, r.width, w, r.y, r.width, int(r.width), 1e-5f, 0, tokens});
  };
  c.spans = [=](int) { return std::vector<Span>{{bytes_of(r.x), bytes_of(r.y), tokens * r.width * 4}}; };
  c.error = [=] {
    Error64 e;
    const double scale = rms(r.x, r.width, double(1e-5f));
    for (int i = 0; i < r.width; ++i) e(r.y[i], double(r.x[i]) * scale * double(w[i]));
    return e.value();
  };
  return c;
}

inline SequenceCase gated_norm(const SequenceShape& s, int tokens) {
  SequenceCase c{.kernel = "gated_norm", .shape = s.name, .tokens = tokens};
  const RowsOf r = rows_of(*c.memory, tokens, std::int64_t(s.ssd_heads) * s.ssd_dim);
  const float* w = c.memory->random(r.width);
  c.silus = double(tokens) * double(r.width) / lanes;
  c.run = [=](const KernelTable& t, int) {
    t.gated_norm({.x = r.x, .x_stride = r.width, .z = r.z, .z_stride = r.width, .weight = w, .y = r.y,
                  .y_stride = r.width, .width = int(r.width), .eps = 1e-5f, .begin = 0, .end = tokens});
  };
  c.spans = [=](int) {
    const std::int64_t bytes = tokens * r.width * 4;
    return std::vector<Span>{{bytes_of(r.x), bytes_of(r.y), bytes}, {bytes_of(r.z), nullptr, bytes}};
  };
  c.error = [=] {
    Error64 e;
    double sum = 0;
    for (int i = 0; i < r.width; ++i) { const double g = r.x[i] * silu(r.z[i]); sum += g * g; }
    const double scale = 1 / std::sqrt(sum / double(r.width) + double(1e-5f));
    for (int i = 0; i < r.width; ++i) e(r.y[i], r.x[i] * silu(r.z[i]) * scale * w[i]);
    return e.value();
  };
  return c;
}

inline SequenceCase mean_norm(const SequenceShape& s, int tokens) {
  SequenceCase c{.kernel = "mean_norm", .shape = s.name, .tokens = tokens};
  const RowsOf r = rows_of(*c.memory, tokens, 2 * s.hidden);
  const float *wa = c.memory->random(r.width), *wb = c.memory->random(r.width);
  c.run = [=](const KernelTable& t, int) {
    t.mean_norm({.a = r.x, .b = r.z, .stride = r.width, .wa = wa, .wb = wb, .y = r.y, .width = int(r.width),
                 .eps = 1e-5f, .begin = 0, .end = tokens});
  };
  c.spans = [=](int) {
    const std::int64_t bytes = tokens * r.width * 4;
    return std::vector<Span>{{bytes_of(r.x), bytes_of(r.y), bytes}, {bytes_of(r.z), nullptr, bytes}};
  };
  c.error = [=] {
    Error64 e;
    const double ra = rms(r.x, r.width, double(1e-5f)), rb = rms(r.z, r.width, double(1e-5f));
    for (int i = 0; i < r.width; ++i) e(r.y[i], 0.5 * (r.x[i] * ra * wa[i] + r.z[i] * rb * wb[i]));
    return e.value();
  };
  return c;
}

/// Norms of q and k as one row of heads, in place, without weights: again and again, it stays in range.
inline SequenceCase head_norm(const SequenceShape& s, int tokens) {
  SequenceCase c{.kernel = "head_norm", .shape = s.name, .tokens = tokens};
  const int heads = s.heads + s.kv_heads;
  const RowsOf r = rows_of(*c.memory, tokens, std::int64_t(heads) * s.qk_dim);
  const std::vector<float> before(r.x, r.x + s.qk_dim);
  c.run = [=](const KernelTable& t, int) {
    t.head_norm({.x = r.x, .x_stride = r.width, .heads = heads, .head_dim = s.qk_dim, .eps = 1e-5f, .begin = 0,
                 .end = tokens});
  };
  c.spans = [=](int) { return std::vector<Span>{{bytes_of(r.x), bytes_of(r.x), tokens * r.width * 4}}; };
  c.error = [=] {
    Error64 e;
    const double scale = rms(before.data(), s.qk_dim, double(1e-5f));
    for (int i = 0; i < s.qk_dim; ++i) e(r.x[i], double(before[std::size_t(i)]) * scale);
    return e.value();
  };
  return c;
}

inline SequenceCase rope(const SequenceShape& s, int tokens) {
  SequenceCase c{.kernel = "rope", .shape = s.name, .tokens = tokens};
  const int heads = s.heads + s.kv_heads, d = s.qk_dim;
  const RowsOf r = rows_of(*c.memory, tokens, std::int64_t(heads) * d);
  float* const table = c.memory->zeros(std::int64_t(tokens) * d);
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < d / 2; ++i) {
      const double angle = (t + 100) * std::pow(1e4, -2.0 * i / d);
      table[t * d + i] = float(std::cos(angle)), table[t * d + d / 2 + i] = float(std::sin(angle));
    }
  const std::vector<float> before(r.x, r.x + d);
  c.fmas = double(tokens) * double(r.width) / lanes * 2;
  c.run = [=](const KernelTable& t, int) {
    t.rope({.x = r.x, .x_stride = r.width, .heads = heads, .head_dim = d, .table = table, .position = 0, .begin = 0,
            .end = tokens});
  };
  c.spans = [=](int) { return std::vector<Span>{{bytes_of(r.x), bytes_of(r.x), tokens * r.width * 4}}; };
  c.error = [=] {
    Error64 e;
    for (int i = 0; i < d / 2; ++i) {
      const double angle = 100 * std::pow(1e4, -2.0 * i / d), cosine = std::cos(angle), sine = std::sin(angle);
      const double x = before[std::size_t(i)], y = before[std::size_t(i + d / 2)];
      e(r.x[i], x * cosine - y * sine), e(r.x[i + d / 2], y * cosine + x * sine);
    }
    return e.value();
  };
  return c;
}

/// Error: of the rounding itself, int8.
inline SequenceCase quantize_row(const SequenceShape& s, int tokens) {
  SequenceCase c{.kernel = "quantize_row<a8>", .shape = s.name, .tokens = tokens};
  const RowsOf r = rows_of(*c.memory, tokens, s.hidden);
  auto* const q8 = c.memory->output<std::int8_t>(tokens * r.width);
  auto* const q16 = c.memory->output<std::int16_t>(tokens * r.width);
  auto* const sums = c.memory->output<std::int32_t>(tokens * r.width / row_unit);
  float* const scale = c.memory->output(tokens);
  c.run = [=](const KernelTable& t, int) {
    t.quantize_row({.x = r.x, .x_stride = r.width, .cols = int(r.width), .q8 = q8, .q16 = q16, .sums = sums,
                    .scale = scale, .stride = r.width, .begin = 0, .end = tokens});
  };
  c.spans = [=](int) {
    const std::int64_t n = tokens * r.width;
    return std::vector<Span>{{bytes_of(r.x), bytes_of(q16), 2 * n}, {bytes_of(r.x) + 2 * n, bytes_of(q8), n},
                             {bytes_of(r.x) + 3 * n, nullptr, n}};
  };
  c.error = [=] {
    Error64 e;
    for (int i = 0; i < r.width; ++i) e(double(q8[i]) * double(scale[0]), r.x[i]);
    return e.value();
  };
  return c;
}

/// Entry of a base of hadamard.hpp: d is a square modulo a prime if some square equals it.
inline int paley(int order, int i, int j) {
  const bool second = hadamard_detail::paley2(order);
  const int q = second ? order / 2 - 1 : order - 1;
  const auto symbol = [q](int d) {
    for (int x = 1; x < q; ++x)
      if (x * x % q == (d % q + q) % q) return 1;
    return -1;
  };
  if (!second) return i == j || i == 0 ? 1 : j == 0 ? -1 : symbol(j - i);
  const int r = i / 2, c = j / 2, a = i % 2, b = j % 2;
  if (r == c) return a == 0 && b == 0 ? 1 : -1;
  return (a == 1 && b == 1 ? -1 : 1) * (r == 0 || c == 0 ? 1 : symbol(c - r));
}

/// fmas: what hadamard.hpp's factors cost; a base of Paley II half its order.
inline SequenceCase hadamard(const SequenceShape& s, int tokens) {
  const HadamardPlan plan = hadamard_plan(s.hadamard);
  SequenceCase c{.kernel = fmt::format("hadamard {}", s.hadamard), .shape = s.name, .tokens = tokens};
  const RowsOf r = rows_of(*c.memory, tokens, s.hadamard);
  float* const scratch = c.memory->zeros(hadamard_scratch);
  double each = plan.log2;
  for (const int b : plan.base) each += b == 1 ? 0 : hadamard_detail::paley2(b) ? b / 2.0 : b;
  c.fmas = double(tokens) * double(r.width) / lanes * each;
  c.run = [=](const KernelTable& t, int) {
    t.hadamard({.x = r.x, .x_stride = r.width, .y = r.y, .y_stride = r.width, .width = int(r.width), .scratch = scratch,
                .begin = 0, .end = tokens});
  };
  c.spans = [=](int) { return std::vector<Span>{{bytes_of(r.x), bytes_of(r.y), tokens * r.width * 4}}; };
  c.error = [=] {
    std::vector<double> y(r.x, r.x + r.width);
    const auto stage = [&](std::int64_t apart, int order, const auto& entry) {
      std::vector<double> out(y.size(), 0.0);
      for (std::int64_t i = 0; i < r.width; ++i) {
        const std::int64_t row = i / apart % order;
        for (int j = 0; j < order; ++j)
          out[std::size_t(i)] += entry(int(row), j) * y[std::size_t(i + (j - row) * apart)];
      }
      y = out;
    };
    for (int k = 0; k < plan.log2; ++k) stage(std::int64_t(1) << k, 2, [](int i, int j) { return i & j ? -1 : 1; });
    for (const int which : {1, 0}) {
      const int b = plan.base[which];
      if (b == 1) continue;
      const std::int64_t apart = std::int64_t(which == 1 ? 1 : plan.base[1]) << plan.log2;
      stage(apart, b, [b](int i, int j) { return paley(b, i, j); });
    }
    Error64 e;
    for (int i = 0; i < r.width; ++i) e(r.y[i], y[std::size_t(i)] / std::sqrt(double(plan.order())));
    return e.value();
  };
  return c;
}

}  // namespace sequence

}  // namespace klens::cli
