// Arguments of every kernel of the registry with the sizes of a Hymba-1.5B layer: d 1600, 25 query and 5 key heads of
// 64 (values 128), 3200 channels, 16 states, FFN 5504, vocabulary 32001. A kernel whose Args have no Case does not
// compile: one line in the registry is one benchmark.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/dispatch/table.hpp>
#include <klens/format/pack.hpp>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace klens::bench {

inline constexpr int hidden = 1600, heads = 25, kv_heads = 5, qk_dim = 64, v_dim = 128, channels = 3200, states = 16,
                     ffn = 5504, vocab = 32001;
inline constexpr int context =
    1152;  // positions before the first token of an attention: the window and the meta tokens

/// Buffers of one case, filled with values in [-1, 1) or zero, and the outputs that must be the same bits on every
/// level.
class Memory {
 public:
  template <class T = float>
  T* zeros(std::int64_t count) {
    auto& b = buffers_.emplace_back(std::make_unique<Buffer<std::byte>>(std::size_t(count) * sizeof(T)));
    return reinterpret_cast<T*>(b->data());
  }
  float* random(std::int64_t count, float low = -1, float high = 1) {
    float* const x = zeros<float>(count);
    for (std::int64_t i = 0; i < count; ++i)
      seed_ = seed_ * 1664525u + 1013904223u, x[i] = low + (high - low) * float(seed_ >> 8) * 0x1p-24f;
    return x;
  }
  /// Zeroed, and compared.
  template <class T = float>
  T* output(std::int64_t count) {
    T* const p = zeros<T>(count);
    outputs_.emplace_back(reinterpret_cast<const unsigned char*>(p), std::size_t(count) * sizeof(T));
    return p;
  }
  /// Read and written: compared as well.
  float* state(std::int64_t count, float low = -1, float high = 1) {
    float* const p = random(count, low, high);
    outputs_.emplace_back(reinterpret_cast<const unsigned char*>(p), std::size_t(count) * sizeof(float));
    return p;
  }
  std::string outputs() const {
    std::string all;
    for (const auto& [p, n] : outputs_) all.append(reinterpret_cast<const char*>(p), n);
    return all;
  }

 private:
  std::vector<std::unique_ptr<Buffer<std::byte>>> buffers_;
  std::vector<std::pair<const unsigned char*, std::size_t>> outputs_;
  std::uint32_t seed_ = 1;
};

/// args(memory, tokens): what one call gets.
template <class Args>
struct Case;

template <>
struct Case<QuantizeRowArgs> {
  static QuantizeRowArgs args(Memory& m, int tokens) {
    QuantizeRowArgs a;
    a.x = m.random(tokens * hidden), a.x_stride = hidden, a.cols = hidden, a.activation = Activation::a8,
    a.stride = hidden;
    a.q8 = m.output<std::int8_t>(tokens * hidden), a.q16 = m.output<std::int16_t>(tokens * hidden);
    a.sums = m.output<std::int32_t>(tokens * hidden / 32), a.scale = m.output(tokens);
    a.begin = 0, a.end = tokens;
    return a;
  }
};

template <>
struct Case<RmsNormArgs> {
  static RmsNormArgs args(Memory& m, int tokens) {
    RmsNormArgs a;
    a.x = m.random(tokens * hidden), a.x_stride = hidden, a.weight = m.random(hidden), a.y = m.output(tokens * hidden),
    a.y_stride = hidden;
    a.width = hidden, a.eps = 1e-6f, a.begin = 0, a.end = tokens;
    return a;
  }
};

template <>
struct Case<NormQuantizeArgs> {
  static NormQuantizeArgs args(Memory& m, int tokens) {
    NormQuantizeArgs a;
    a.norm = Case<RmsNormArgs>::args(m, tokens), a.norm.y = nullptr;
    a.row = Case<QuantizeRowArgs>::args(m, tokens);
    return a;
  }
};

template <>
struct Case<MeanNormArgs> {
  static MeanNormArgs args(Memory& m, int tokens) {
    MeanNormArgs a;
    a.a = m.random(tokens * channels), a.b = m.random(tokens * channels), a.stride = channels;
    a.wa = m.random(channels), a.wb = m.random(channels), a.y = m.output(tokens * channels);
    a.width = channels, a.eps = 1e-6f, a.begin = 0, a.end = tokens;
    return a;
  }
};

template <>
struct Case<MeanNormQuantizeArgs> {
  static MeanNormQuantizeArgs args(Memory& m, int tokens) {
    MeanNormQuantizeArgs a;
    a.norm = Case<MeanNormArgs>::args(m, tokens), a.norm.width = hidden;
    a.row = Case<QuantizeRowArgs>::args(m, tokens);
    return a;
  }
};

template <>
struct Case<HeadNormArgs> {
  static HeadNormArgs args(Memory& m, int tokens) {
    HeadNormArgs a;
    a.x = m.state(tokens * hidden), a.x_stride = hidden, a.heads = heads, a.head_dim = qk_dim;
    a.eps = 1e-6f, a.begin = 0, a.end = tokens;  // no weights: again and again, it stays in range
    return a;
  }
};

template <>
struct Case<GatedNormArgs> {
  static GatedNormArgs args(Memory& m, int tokens) {
    GatedNormArgs a;
    a.x = m.random(tokens * channels), a.z = m.random(tokens * channels), a.y = m.output(tokens * channels);
    a.x_stride = a.z_stride = a.y_stride = channels, a.weight = m.random(channels), a.width = channels;
    a.eps = 1e-6f, a.begin = 0, a.end = tokens;
    return a;
  }
};

template <>
struct Case<GatedNormQuantizeArgs> {
  static GatedNormQuantizeArgs args(Memory& m, int tokens) {
    GatedNormQuantizeArgs a;
    a.norm = Case<GatedNormArgs>::args(m, tokens), a.norm.width = hidden;
    a.row = Case<QuantizeRowArgs>::args(m, tokens);
    return a;
  }
};

template <>
struct Case<SwigluArgs> {
  static SwigluArgs args(Memory& m, int tokens) {
    SwigluArgs a;
    a.gate = m.random(tokens * ffn), a.up = m.random(tokens * ffn), a.y = m.output(tokens * ffn), a.stride = ffn;
    a.width = ffn, a.begin = 0, a.end = tokens;
    return a;
  }
};

template <>
struct Case<RouteArgs> {   // Granite 4.0 h-tiny's: 64 experts, 6 of them
  static RouteArgs args(Memory& m, int tokens) {
    constexpr int experts = 64, used = 6;
    RouteArgs a;
    a.x = m.random(tokens * hidden), a.x_stride = hidden, a.hidden = hidden, a.experts = experts, a.used = used;
    a.router = m.random(hidden * experts), a.logits = m.output(tokens * experts);
    a.chosen = m.output<std::int32_t>(tokens * used), a.weight = m.output(tokens * lanes), a.begin = 0, a.end = tokens;
    return a;
  }
};

template <>
struct Case<AddRowsArgs> {
  static AddRowsArgs args(Memory& m, int tokens) {
    AddRowsArgs a;
    a.y = m.random(tokens * hidden), a.x = m.state(tokens * hidden), a.stride = hidden, a.width = hidden;
    std::int32_t* const row = m.zeros<std::int32_t>(tokens);
    for (int t = 0; t < tokens; ++t) row[t] = tokens - 1 - t;
    a.row = row, a.weight = m.random(tokens, 0, 1e-3f), a.begin = 0, a.end = tokens;
    return a;
  }
};

template <>
struct Case<RopeArgs> {
  static RopeArgs args(Memory& m, int tokens) {
    RopeArgs a;
    a.x = m.state(tokens * hidden), a.x_stride = hidden, a.heads = heads, a.head_dim = qk_dim;
    float* const table =
        m.zeros(std::int64_t(tokens) * qk_dim);  // rotations, so that turning again and again stays in range
    for (int t = 0; t < tokens; ++t)
      for (int i = 0; i < qk_dim / 2; ++i)
        table[t * qk_dim + i] = std::cos(float(t + i)), table[t * qk_dim + qk_dim / 2 + i] = std::sin(float(t + i));
    a.table = table, a.position = 0, a.begin = 0, a.end = tokens;
    return a;
  }
};

/// 1600 = 20 x 20 x 4.
template <>
struct Case<HadamardArgs> {
  static HadamardArgs args(Memory& m, int tokens) {
    HadamardArgs a;
    a.x = m.random(tokens * hidden), a.y = m.output(tokens * hidden), a.x_stride = a.y_stride = hidden;
    a.width = hidden, a.absmax = m.output(tokens * hidden / lanes), a.absmax_stride = hidden / lanes;
    a.scratch = m.zeros(hadamard_scratch), a.begin = 0, a.end = tokens;
    return a;
  }
};

inline KvView cache(Memory& m, int positions) {
  KvView c;
  c.capacity = int(round_up(positions, lanes)), c.kv_heads = kv_heads, c.qk_dim = qk_dim, c.v_dim = v_dim;
  c.k = m.state(std::int64_t(kv_heads) * c.capacity * qk_dim),
  c.v = m.state(std::int64_t(kv_heads) * c.capacity * v_dim);
  return c;
}

template <>
struct Case<KvAppendArgs> {
  static KvAppendArgs args(Memory& m, int tokens) {
    KvAppendArgs a;
    const int width = kv_heads * (qk_dim + v_dim);
    a.cache = cache(m, context + tokens), a.k = m.random(tokens * width), a.v = a.k + kv_heads * qk_dim,
    a.stride = width;
    a.tokens = tokens, a.position = context, a.begin = 0, a.end = kv_heads;
    return a;
  }
};

template <>
struct Case<AttentionArgs> {
  static AttentionArgs args(Memory& m, int tokens) {
    AttentionArgs a;
    a.q = m.random(tokens * hidden), a.q_stride = hidden, a.cache = cache(m, context + tokens), a.heads = heads;
    a.window = 1024, a.meta = 128, a.scale = 0.125f, a.tokens = tokens, a.position = context;
    a.out = m.output(tokens * channels), a.out_stride = channels,
    a.scratch = m.zeros(attention_scratch(a.cache.capacity));
    a.begin = 0, a.end = attention_items(heads, kv_heads, tokens);
    return a;
  }
};

/// The partitions of a context of 8192 positions.
template <>
struct Case<AttentionMergeArgs> {
  static AttentionMergeArgs args(Memory& m, int tokens) {
    AttentionMergeArgs a;
    a.partitions = attention_partitions(8192), a.heads = heads, a.v_dim = v_dim;
    a.partial = m.random(tokens * heads * a.partitions * attention_partial_stride(v_dim), 0.5f, 2);
    a.out = m.output(tokens * channels), a.out_stride = channels, a.begin = 0, a.end = tokens * heads;
    return a;
  }
};

template <>
struct Case<Conv1dArgs> {
  static Conv1dArgs args(Memory& m, int tokens) {
    Conv1dArgs a;
    a.x = m.random(tokens * channels), a.x_stride = channels, a.weight = m.random(4 * channels),
    a.bias = m.random(channels);
    a.state = m.state(3 * channels), a.y = m.output(tokens * channels), a.y_stride = channels;
    a.taps = 4, a.channels = channels, a.tokens = tokens, a.begin = 0, a.end = channels / lanes;
    return a;
  }
};

template <>
struct Case<ShortConvArgs> {
  static ShortConvArgs args(Memory& m, int tokens) {
    ShortConvArgs a;
    a.b = m.random(tokens * 3 * channels), a.c = a.b + channels, a.x = a.b + 2 * channels, a.stride = 3 * channels;
    a.weight = m.random(3 * channels), a.state = m.state(2 * channels), a.y = m.output(tokens * channels);
    a.y_stride = channels, a.channels = channels, a.tokens = tokens, a.begin = 0, a.end = channels / lanes;
    return a;
  }
};

template <>
struct Case<ScanArgs> {
  static ScanArgs args(Memory& m, int tokens) {
    ScanArgs a;
    a.x = m.random(tokens * channels), a.dt = m.random(tokens * channels), a.z = m.random(tokens * channels);
    a.x_stride = a.dt_stride = a.z_stride = a.y_stride = channels;
    a.b = m.random(tokens * lanes), a.c = m.random(tokens * lanes), a.b_stride = a.c_stride = lanes;
    a.dt_bias = m.random(channels), a.a2 = m.random(states * channels, -4, -0.1f), a.d = m.random(channels);
    a.state = m.state(states * channels), a.y = m.output(tokens * channels);
    a.channels = channels, a.n_state = states, a.tokens = tokens, a.begin = 0, a.end = channels / lanes;
    return a;
  }
};

/// The heads of mamba2-130m.
template <>
struct Case<SsdArgs> {
  static SsdArgs args(Memory& m, int tokens) {
    SsdArgs a;
    a.heads = 24, a.groups = 1, a.head_dim = 64, a.n_state = 128;
    const int width = a.heads * a.head_dim;
    a.x = m.random(tokens * width), a.z = m.random(tokens * width), a.dt = m.random(tokens * a.heads, -4, -1);
    a.x_stride = a.z_stride = a.y_stride = width, a.dt_stride = a.heads;
    a.b = m.random(tokens * a.n_state), a.c = m.random(tokens * a.n_state), a.b_stride = a.c_stride = a.n_state;
    a.a2 = m.random(a.heads, -16, -1), a.d = m.random(a.heads);
    a.state = m.state(width * a.n_state), a.decay = m.output(a.heads * a.head_dim / lanes), a.y = m.output(tokens * width);
    a.tokens = tokens, a.begin = 0, a.end = a.heads * a.head_dim / lanes;
    return a;
  }
};

/// The heads of mamba3-siso-187m.
template <>
struct Case<Mamba3Args> {
  static Mamba3Args args(Memory& m, int tokens) {
    Mamba3Args a;
    a.heads = 24, a.head_dim = 64, a.n_state = 128, a.angles = 32, a.least_rate = 1e-4f;
    const int width = a.heads * a.head_dim, keys = a.heads * a.n_state, row = 2 * width;
    a.x = m.random(tokens * row), a.b = a.x + width, a.c = a.b + a.n_state, a.dt = a.c + a.n_state, a.a = a.dt + a.heads;
    a.trap = a.a + a.heads, a.angle = a.trap + a.heads, a.stride = row;
    a.dt_bias = m.random(32, -6, -2), a.b_bias = m.random(keys), a.c_bias = m.random(keys), a.d = m.random(32);
    const Mamba3Carried at = mamba3_carried(a.heads, a.head_dim, a.n_state, a.angles);
    a.turns = m.output(at.floats), a.gain = a.turns + at.gain, a.last_key = a.turns + at.last_key, a.last_x = a.turns + at.last_x;
    a.key = m.output(tokens * keys), a.query = m.output(tokens * keys), a.key_stride = keys;
    a.delayed = m.output(tokens * width), a.delayed_stride = width, a.factor_stride = 32;
    a.step = m.output(tokens * 32), a.shrink = m.output(tokens * 32), a.skip = m.output(tokens * 32);
    a.tokens = tokens, a.begin = 0, a.end = a.heads;
    return a;
  }
};

/// A matrix of 4-bit groups of any codes: what a linear and an embedding read.
inline PackedMatrix packed(Memory& m, const Precision& p, int rows, int cols) {
  const PackedLayout l = layout_of(p, rows, cols);
  const bool is_float = is_float_grid(p.scheme.grid);
  PackedMatrix w{nullptr, nullptr, rows, cols, p};
  if (is_float && p.weight_bits == 32)
    return w.lines = reinterpret_cast<unsigned char*>(m.random(l.line_plane_bytes / 4)), w;
  auto* const lines = m.zeros<unsigned char>(l.line_plane_bytes);
  for (std::int64_t i = 0; i < l.line_plane_bytes; ++i)
    lines[i] = static_cast<unsigned char>(std::uint64_t(i) * 2654435761u >> 16);
  for (std::int64_t i = 1; is_float && i < l.line_plane_bytes; i += 2)
    lines[i] = 0x38 | (lines[i] & 0x83);  // finite halves, bf16s
  w.lines = lines;
  if (l.scale_plane_bytes == 0) return w;
  auto* const scales = m.zeros<unsigned char>(l.scale_plane_bytes);
  const bool halves = p.scheme.scale == Granularity::group;
  for (std::int64_t i = 0; i < l.scale_plane_bytes / (halves ? 2 : 4); ++i) {
    const half h = to_half(0.0078125f);
    const float f = 0.0078125f;
    if (halves)
      std::memcpy(scales + 2 * i, &h, 2);
    else
      std::memcpy(scales + 4 * i, &f, 4);
  }
  w.scales = scales;
  return w;
}

template <>
struct Case<EmbedArgs> {
  static EmbedArgs args(Memory& m, int tokens) {
    EmbedArgs a;
    a.w = packed(m, *parse_format("w4g32"), vocab, hidden);
    auto* const ids = m.zeros<std::int32_t>(tokens);
    for (int t = 0; t < tokens; ++t) ids[t] = t * 7919 % vocab;
    a.ids = ids, a.y = m.output(tokens * hidden), a.y_stride = hidden, a.begin = 0, a.end = tokens;
    return a;
  }
};

template <>
struct Case<VocabKlArgs> {
  static VocabKlArgs args(Memory& m, int tokens) {
    VocabKlArgs a;
    a.stride = round_up(vocab, lanes), a.zp = m.random(tokens * a.stride, -8, 8),
    a.zq = m.random(tokens * a.stride, -8, 8), a.vocab = vocab;
    auto* const targets = m.zeros<std::int32_t>(tokens);
    for (int t = 0; t < tokens; ++t) targets[t] = t * 7919 % vocab;
    a.targets = targets, a.out = m.output<TokenStats>(tokens), a.begin = 0, a.end = tokens;
    return a;
  }
};

template <>
struct Case<SoftmaxArgs> {
  static SoftmaxArgs args(Memory& m, int tokens) {
    SoftmaxArgs a;
    a.stride = a.y_stride = round_up(vocab, lanes), a.z = m.random(tokens * a.stride, -8, 8), a.vocab = vocab;
    auto* const targets = m.zeros<std::int32_t>(tokens);
    for (int t = 0; t < tokens; ++t) targets[t] = t * 7919 % vocab;
    a.targets = targets, a.stats = m.output<RowStats>(tokens), a.log_p = m.output(tokens * a.stride);
    a.begin = 0, a.end = tokens;
    return a;
  }
};

/// The linear of a format: 1600 outputs of 1600 inputs, activations as the format rounds them.
inline LinearArgs linear_case(Memory& m, const Precision& p, int tokens) {
  LinearArgs a;
  a.w = packed(m, p, hidden, hidden), a.tokens = tokens, a.y = m.output(tokens * hidden), a.y_stride = hidden;
  a.x.f32 = m.random(tokens * hidden), a.x.stride = hidden, a.begin = 0, a.end = hidden / lanes,
  a.scratch = m.zeros<std::byte>(linear_scratch_bytes);
  if (p.activation == Activation::f32) return a;
  auto* const q8 = m.zeros<std::int8_t>(tokens * hidden);
  auto* const q16 = m.zeros<std::int16_t>(tokens * hidden);
  auto* const sums = m.zeros<std::int32_t>(tokens * hidden / 32);
  auto* const scale = m.zeros<float>(tokens);
  constexpr int place[4] = {0, 2, 1, 3};
  for (int i = 0; i < tokens * hidden; ++i) {
    const int q = int(a.x.f32[i] * (p.activation == Activation::a8 ? 127 : 32767));
    q8[i] = std::int8_t(q), q16[i / 4 * 4 + place[i % 4]] = std::int16_t(q), sums[i / 32] += q;
  }
  for (int t = 0; t < tokens; ++t) scale[t] = 0.01f;
  a.x.f32 = nullptr, a.x.q8 = q8, a.x.q16 = q16, a.x.sums = sums, a.x.scale = scale;
  return a;
}

}  // namespace klens::bench
