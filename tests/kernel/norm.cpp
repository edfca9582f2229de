// kernel/norm.hpp and kernel/swiglu.hpp against float64; split invariance; the bits of ref. Over 400 lines: one
// test per norm, and each against quantize_row.
#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using fixture::Guarded;
using fixture::Judge;

constexpr int widths[] = {1, 2, 15, 16, 17, 33, 63, 64, 65, 192, 200, 1600, 1611};
constexpr int tokens = 5;

struct NormCase {
  int width, stride;
  Guarded x, weight, y;
  NormCase(int w, unsigned seed)
      : width(w), stride(int(klens::round_up(w, 32)) + 32), x(std::int64_t(tokens) * stride),
          weight(klens::round_up(w, 16)),
        y(std::int64_t(tokens) * stride) {
    fixture::Random random(seed);
    random.fill(x, 3.0, 0.5);
    weight.fill(0.0f);
    for (int i = 0; i < w; ++i) weight[i] = float(1 + 0.2 * random.normal());
  }
  klens::RmsNormArgs args() { return {x.data(), stride, weight.data(), y.data(), stride, width, 1e-6f, 0, tokens}; }
};

constexpr double ulp8 = 8 * 0x1p-23;  // relative: 8 units in the last place

}  // namespace

TEST_CASE("oracle: rms_norm by hand") {
  // mean square of (3, 4) with eps 0: 12.5; 3 / sqrt 12.5 = 0.848528..., 4 / sqrt 12.5 * 0.5 = 0.565685...
  const auto y = oracle::rms_norm({3, 4}, {1, 0.5}, 0);
  CHECK(y[0] == doctest::Approx(0.8485281374238570));
  CHECK(y[1] == doctest::Approx(0.5656854249492381));
  CHECK(oracle::silu(1.0) == doctest::Approx(0.7310585786300049));
}

TEST_CASE("rms_norm: within 8 ulp of float64, padding 0, margins intact") {
  for (int width : widths) {
    CAPTURE(width);
    NormCase c(width, 11u + unsigned(width));
    fixture::active().rms_norm(c.args());
    Judge judge, tripwire;
    for (int t = 0; t < tokens; ++t) {
      auto x = fixture::doubles(c.x.data() + t * c.stride, width);
      const auto w = fixture::doubles(c.weight.data(), width);
      const auto want = oracle::rms_norm(x, w, double(1e-6f));
      x[std::size_t(width) / 2] *= 1.25;
      const auto other = oracle::rms_norm(x, w, double(1e-6f));
      for (int i = 0; i < width; ++i) {
        const double got = c.y[t * c.stride + i];
        judge(got, want[std::size_t(i)], ulp8 * std::abs(want[std::size_t(i)]));
        tripwire(got, other[std::size_t(i)], ulp8 * std::abs(other[std::size_t(i)]));
      }
      for (int i = width; i < c.stride; ++i)
        CHECK(c.y[t * c.stride + i] == (i < klens::round_up(width, 16) ? 0.0f : Guarded::canary));
    }
    CHECK(judge.wrong == 0);
    if (width > 1) CHECK(tripwire.wrong >= tokens);
    CHECK(c.y.margins_intact());
  }
}

TEST_CASE("rms_norm: any split, in place, without weights, and ref give the same bits") {
  for (int width : widths) {
    CAPTURE(width);
    NormCase c(width, 5u + unsigned(width));
    fixture::active().rms_norm(c.args());
    Guarded expected(c.y.size());
    auto args = c.args();
    args.y = expected.data();
    fixture::reference().rms_norm(args);
    CHECK(fixture::same_bits(c.y, expected));

    Guarded split(c.y.size());
    args.y = split.data();
    for (int t = tokens - 1; t >= 0; --t) {
      args.begin = t, args.end = t + 1;
      fixture::active().rms_norm(args);
    }
    CHECK(fixture::same_bits(c.y, split));

    auto bare = c.args();
    bare.weight = nullptr;
    fixture::active().rms_norm(bare);
    Guarded ones(klens::round_up(width, 16));
    ones.fill(1.0f);
    auto with_ones = c.args();
    with_ones.weight = ones.data();
    with_ones.y = split.data();
    fixture::active().rms_norm(with_ones);
    CHECK(fixture::same_bits(c.y, split));

    bare.y = c.x.data();
    fixture::active().rms_norm(bare);
    for (int t = 0; t < tokens; ++t)
      CHECK(std::memcmp(c.x.data() + t * c.stride, c.y.data() + t * c.stride, std::size_t(width) * 4) == 0);
  }
}

TEST_CASE("rms_norm: a zero row stays zero, a huge one does not overflow the mean, tiny ones keep their scale") {
  NormCase c(192, 3);
  for (int i = 0; i < c.stride; ++i) {
    c.x[i] = 0.0f;
    c.x[c.stride + i] = 1e15f;
    c.x[2 * c.stride + i] = 1e-4f;
  }
  c.weight.fill(1.0f);
  fixture::active().rms_norm(c.args());
  CHECK(c.y[17] == 0.0f);
  CHECK(c.y[c.stride + 17] == doctest::Approx(1.0).epsilon(1e-6));
  CHECK(c.y[2 * c.stride + 17] == doctest::Approx(1e-4 / std::sqrt(1e-8 + 1e-6)).epsilon(1e-6));
}

TEST_CASE("norm_quantize: the bits of rms_norm followed by quantize_row, for any split, in place, on ref") {
  for (int width : widths)
    for (const auto activation : {klens::Activation::a8, klens::Activation::a16}) {
      CAPTURE(width);
      NormCase c(width, 31u + unsigned(width));
      for (int i = 0; i < width; ++i) c.x[c.stride + i] = 0.0f;
      struct Integers {
        klens::Buffer<std::int8_t> q8;
        klens::Buffer<std::int16_t> q16;
        klens::Buffer<std::int32_t> sums;
        Guarded f32, scale, y;
        explicit Integers(std::int64_t count)
            : q8(std::size_t(count)), q16(std::size_t(count)), sums(std::size_t(count / 32)), f32(count), scale(tokens),
              y(count) {}
      };
      const std::int64_t stride = c.stride - 32;   // of the integers: round_up(width, 32)
      const auto run = [&](const klens::KernelTable& table, Integers& out, bool fused, bool with_y, int piece) {
        klens::NormQuantizeArgs a{c.args(), {}};
        a.norm.y = with_y ? out.y.data() : nullptr;
        a.row.x = out.y.data(), a.row.x_stride = c.stride, a.row.cols = width, a.row.activation = activation;
        if (activation == klens::Activation::a8) a.row.q8 = out.q8.data();
        a.row.q16 = out.q16.data(), a.row.sums = out.sums.data(), a.row.f32 = out.f32.data();
        a.row.scale = out.scale.data(), a.row.stride = stride;
        for (int t = 0; t < tokens; t += piece) {
          a.norm.begin = a.row.begin = t, a.norm.end = a.row.end = std::min(t + piece, tokens);
          if (fused) table.norm_quantize(a);
          else table.rms_norm(a.norm), table.quantize_row(a.row);
        }
      };
      const auto same = [&](const Integers& a, const Integers& b) {
        return std::memcmp(a.q8.data(), b.q8.data(), a.q8.size()) == 0 &&
               std::memcmp(a.q16.data(), b.q16.data(), a.q16.size() * 2) == 0 &&
               std::memcmp(a.sums.data(), b.sums.data(), a.sums.size() * 4) == 0 && fixture::same_bits(a.f32, b.f32) &&
               fixture::same_bits(a.scale, b.scale);
      };
      const std::int64_t count = tokens * c.stride;
      Integers apart(count), fused(count), alone(count), ref(count);
      run(fixture::active(), apart, false, true, tokens);
      run(fixture::active(), fused, true, true, tokens);
      run(fixture::active(), alone, true, false, 2);
      run(fixture::reference(), ref, true, true, tokens);
      CHECK(same(apart, fused));
      CHECK(fixture::same_bits(apart.y, fused.y));
      CHECK(same(apart, alone));
      CHECK(alone.y[0] == Guarded::canary);
      CHECK(same(apart, ref));
      CHECK(fixture::same_bits(apart.y, ref.y));
      CHECK(fused.scale[1] == 0.0f);
      c.x[width / 2] = c.x[width / 2] * 3 + 1;   // tripwire
      run(fixture::active(), ref, true, true, tokens);
      CHECK((width == 1 || !same(apart, ref)));
    }
}

TEST_CASE("mean_norm: half the sum of two norms") {
  for (int width : widths) {
    CAPTURE(width);
    NormCase a(width, 21), b(width, 22);
    Guarded y(a.y.size()), expected(a.y.size());
    klens::MeanNormArgs args{a.x.data(), b.x.data(), a.stride, a.weight.data(), b.weight.data(), y.data(), width,
        1e-6f, 0, tokens};
    fixture::active().mean_norm(args);
    Judge judge, tripwire;
    for (int t = 0; t < tokens; ++t) {
      const auto ya = oracle::rms_norm(fixture::doubles(a.x.data() + t * a.stride, width),
          fixture::doubles(a.weight.data(), width), double(1e-6f));
      const auto yb = oracle::rms_norm(fixture::doubles(b.x.data() + t * b.stride, width),
          fixture::doubles(b.weight.data(), width), double(1e-6f));
      for (int i = 0; i < width; ++i) {
        const double p = ya[std::size_t(i)], q = yb[std::size_t(i)], bound = ulp8 * (std::abs(p) + std::abs(q)) / 2;
        judge(y[t * a.stride + i], (p + q) / 2, bound);
        tripwire(y[t * a.stride + i], (p + q * (1 + 1e-5)) / 2, bound / 8);
      }
      for (int i = width; i < klens::round_up(width, 16); ++i) CHECK(y[t * a.stride + i] == 0.0f);
    }
    CHECK(judge.wrong == 0);
    CHECK(tripwire.wrong > 0);
    args.y = expected.data();
    fixture::reference().mean_norm(args);
    CHECK(fixture::same_bits(y, expected));
    args.y = y.data();
    for (int t = 0; t < tokens; ++t) {
      args.begin = t, args.end = t + 1;
      fixture::active().mean_norm(args);
    }
    CHECK(fixture::same_bits(y, expected));
  }
}

TEST_CASE("swiglu: within 4 ulp, padding 0, the bits of ref") {
  for (int width : {1, 16, 17, 528}) {
    CAPTURE(width);
    const int stride = int(klens::round_up(width, 32));
    Guarded gate(tokens * stride), up(tokens * stride), y(tokens * stride), expected(tokens * stride);
    fixture::Random random(9);
    gate.fill(0.0f);
    up.fill(0.0f);
    for (int t = 0; t < tokens; ++t)
      for (int i = 0; i < width; ++i) {
        gate[t * stride + i] = float(6 * random.normal());
        up[t * stride + i] = float(random.normal());
      }
    klens::SwigluArgs args{gate.data(), up.data(), y.data(), stride, width, 0, tokens};
    fixture::active().swiglu(args);
    Judge judge, tripwire;
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < width; ++i) {
        const double want = oracle::silu(gate[t * stride + i]) * double(up[t * stride + i]);
        judge(y[t * stride + i], want, 4 * 0x1p-23 * std::abs(want));
        tripwire(y[t * stride + i], want * (1 + 1e-6), 4 * 0x1p-23 * std::abs(want));
      }
      for (int i = width; i < klens::round_up(width, 16); ++i) CHECK(y[t * stride + i] == 0.0f);
    }
    CHECK(judge.wrong == 0);
    CHECK(tripwire.wrong > 0);
    CHECK(y.margins_intact());
    args.y = expected.data();
    fixture::reference().swiglu(args);
    CHECK(fixture::same_bits(y, expected));
  }
}

TEST_CASE("geglu: gelu with erf within 4e-7 |x| (1 + x^2 erfc), padding 0, the bits of ref") {
  for (int width : {1, 16, 17, 2000}) {
    CAPTURE(width);
    const int stride = int(klens::round_up(width, 32));
    Guarded gate(tokens * stride), up(tokens * stride), y(tokens * stride), expected(tokens * stride);
    fixture::Random random(9);
    gate.fill(0.0f);
    up.fill(0.0f);
    for (int t = 0; t < tokens; ++t)
      for (int i = 0; i < width; ++i) {
        gate[t * stride + i] = t < 3 ? float(4 * random.normal()) : float(random.uniform(-14, 14));
        up[t * stride + i] = float(random.normal());
      }
    gate[0] = 0.0f;
    if (width > 16) gate[1] = -300.0f, gate[2] = 300.0f;
    klens::SwigluArgs args{gate.data(), up.data(), y.data(), stride, width, 0, tokens};
    fixture::active().geglu(args);
    Judge judge, tripwire;
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < width; ++i) {
        const double x = double(gate[t * stride + i]), v = double(up[t * stride + i]);
        const double want = 0.5 * x * std::erfc(-x / std::sqrt(2.0)) * v;
        const double bound = 4e-7 * std::abs(x * v) * std::fmin(1.0, (1 + x * x) * std::erfc(-x / std::sqrt(2.0))) + 1e-37;
        judge(y[t * stride + i], want, bound);
        tripwire(y[t * stride + i], want * (1 + 4e-6), bound);
      }
      for (int i = width; i < klens::round_up(width, 16); ++i) CHECK(y[t * stride + i] == 0.0f);
    }
    CHECK_MESSAGE(judge.wrong == 0, judge.worst);
    CHECK((width == 1 || tripwire.wrong > 0));
    CHECK(y.margins_intact());
    args.y = expected.data();
    fixture::reference().geglu(args);
    CHECK(fixture::same_bits(y, expected));
  }
}

TEST_CASE("head_norm: each head as rms_norm of its columns, nothing else touched, the bits of ref") {
  for (const int head_dim : {1, 8, 20, 64, 128})
    for (const bool weighted : {false, true}) {
      CAPTURE(head_dim);
      CAPTURE(weighted);
      constexpr int heads = 3;
      const int columns = heads * head_dim, stride = int(klens::round_up(columns, 32)) + 32;
      Guarded x(tokens * stride), weight(klens::round_up(head_dim, 16));
      fixture::Random random{unsigned(head_dim)};
      random.fill(x, 2.0);
      weight.fill(0.0f);
      for (int i = 0; i < head_dim; ++i) weight[i] = float(1 + 0.2 * random.normal());
      Guarded before(x.size()), expected(x.size());
      for (std::int64_t i = 0; i < x.size(); ++i) before[i] = expected[i] = x[i];
      klens::HeadNormArgs a{x.data(), stride, heads, head_dim, weighted ? weight.data() : nullptr, 1e-5f, 0, tokens};
      fixture::active().head_norm(a);
      Judge judge, tripwire;
      for (int t = 0; t < tokens; ++t) {
        for (int h = 0; h < heads; ++h) {
          const std::int64_t at = t * stride + h * head_dim;
          const auto w = weighted ? fixture::doubles(weight.data(), head_dim) : std::vector<double>{};
          const auto want = oracle::rms_norm(fixture::doubles(before.data() + at, head_dim), w, double(1e-5f));
          const auto other = oracle::rms_norm(fixture::doubles(before.data() + at, head_dim), w, double(3e-2f));
          for (int i = 0; i < head_dim; ++i) {
            judge(x[at + i], want[std::size_t(i)], ulp8 * std::abs(want[std::size_t(i)]));
            tripwire(x[at + i], other[std::size_t(i)], ulp8 * std::abs(want[std::size_t(i)]));
          }
        }
        for (int i = columns; i < stride; ++i) CHECK(x[t * stride + i] == before[t * stride + i]);
      }
      CHECK(judge.wrong == 0);
      CHECK(tripwire.wrong > 0);
      a.x = expected.data();
      for (int t = tokens - 1; t >= 0; --t) a.begin = t, a.end = t + 1, fixture::reference().head_norm(a);
      CHECK(fixture::same_bits(x, expected));
    }
}

namespace {

struct GatedCase {
  int width, group, stride;
  bool before;
  NormCase x, z;
  GatedCase(int w, int g, bool norm_before_gate)
      : width(w), group(g), stride(0), before(norm_before_gate), x(w, 31), z(w, 32) { stride = x.stride; }
  klens::GatedNormArgs args(float* y) {
    return {x.x.data(), stride, z.x.data(), stride, x.weight.data(), y, stride, width, group, before, 1e-5f, 0, tokens};
  }
};

}  // namespace

TEST_CASE("gated_norm: groups, gate first and norm first, within 16 ulp of float64; in place; the bits of ref") {
  for (const auto& sizes : {std::pair{1, 0}, {17, 0}, {40, 20}, {64, 16}, {192, 0}, {192, 96}, {1536, 192}, {33, 11}})
    for (const bool before : {false, true}) {
      const int width = sizes.first, group = sizes.second;
      CAPTURE(width);
      CAPTURE(group);
      CAPTURE(before);
      GatedCase c(width, group, before);
      Guarded y(c.x.y.size()), expected(y.size());
      fixture::active().gated_norm(c.args(y.data()));
      Judge judge, tripwire;
      const int size = group > 0 ? group : width;
      for (int t = 0; t < tokens; ++t) {
        for (int first = 0; first < width; first += size) {
          auto x = fixture::doubles(c.x.x.data() + t * c.stride + first, size);
          const auto z = fixture::doubles(c.z.x.data() + t * c.stride + first, size);
          const auto w = fixture::doubles(c.x.weight.data() + first, size);
          const auto gated = [&](std::vector<double> v, bool gate) {
            for (int i = 0; i < size; ++i) v[std::size_t(i)] *= gate ? oracle::silu(z[std::size_t(i)]) : 1.0;
            return v;
          };
          const auto want = gated(oracle::rms_norm(gated(x, !before), w, double(1e-5f)), before);
          x[0] *= 1.25;
          const auto other = gated(oracle::rms_norm(gated(x, !before), w, double(1e-5f)), before);
          for (int i = 0; i < size; ++i) {
            const double got = y[t * c.stride + first + i], v = want[std::size_t(i)];
            judge(got, v, 2 * ulp8 * std::abs(v));
            tripwire(got, other[std::size_t(i)], 2 * ulp8 * std::abs(v));
          }
        }
        for (int i = width; i < c.stride; ++i)
          CHECK(y[t * c.stride + i] == (i < klens::round_up(width, 16) ? 0.0f : Guarded::canary));
      }
      CHECK(judge.wrong == 0);
      CHECK((size == 1 || tripwire.wrong > 0));
      auto a = c.args(expected.data());
      for (int t = tokens - 1; t >= 0; --t) a.begin = t, a.end = t + 1, fixture::reference().gated_norm(a);
      CHECK(fixture::same_bits(y, expected));
      GatedCase other(width, group, before);   // onto z
      fixture::active().gated_norm(other.args(other.z.x.data()));
      for (int t = 0; t < tokens; ++t)
        CHECK(std::memcmp(other.z.x.data() + t * c.stride, y.data() + t * c.stride, std::size_t(width) * 4) == 0);
    }
}

TEST_CASE("gated_norm_quantize, mean_norm_quantize: the norm and then quantize_row, bit for bit, and the bits of ref") {
  for (const int width : {1, 33, 192, 1600})
    for (const auto activation : {klens::Activation::a8, klens::Activation::a16}) {
      CAPTURE(width);
      const std::int64_t stride = klens::round_up(width, 32);
      struct Out {
        Guarded y, f32, scale;
        std::vector<std::int16_t> q16;
        std::vector<std::int32_t> sums;
        Out(std::int64_t rows, std::int64_t count)
            : y(rows), f32(count), scale(tokens), q16(std::size_t(count), 7), sums(std::size_t(count / 32), 7) {}
        klens::QuantizeRowArgs row(klens::Activation a, std::int64_t s) {
          return {.activation = a, .q16 = q16.data(), .sums = sums.data(), .f32 = f32.data(), .scale = scale.data(),
                  .stride = s};
        }
        bool operator==(const Out& o) const {
          return fixture::same_bits(y, o.y) && fixture::same_bits(f32, o.f32) && fixture::same_bits(scale, o.scale) &&
                 q16 == o.q16 && sums == o.sums;
        }
      };
      GatedCase g(width, 0, false);
      const auto after = [&](const klens::KernelTable& table, Out& o) {   // quantize_row of o.y
        auto a = o.row(activation, stride);
        a.x = o.y.data(), a.x_stride = g.stride, a.cols = width, a.begin = 0, a.end = tokens;
        table.quantize_row(a);
      };
      const auto gated = [&](const klens::KernelTable& table, Out& o, bool fused) {
        const auto norm = g.args(o.y.data());
        if (fused) table.gated_norm_quantize({norm, o.row(activation, stride)});
        else table.gated_norm(norm), after(table, o);
      };
      const auto mean = [&](const klens::KernelTable& table, Out& o, bool fused) {
        const klens::MeanNormArgs norm{g.x.x.data(), g.z.x.data(), g.stride, g.x.weight.data(), g.z.weight.data(),
            o.y.data(), width, 1e-6f, 0, tokens};
        if (fused) table.mean_norm_quantize({norm, o.row(activation, stride)});
        else table.mean_norm(norm), after(table, o);
      };
      const auto compare = [&](const auto& run) {
        const std::int64_t floats = tokens * g.stride, count = tokens * stride;
        Out apart(floats, count), fused(floats, count), ref(floats, count);
        run(fixture::active(), apart, false), run(fixture::active(), fused, true), run(fixture::reference(), ref, true);
        CHECK(apart == fused);
        CHECK(apart == ref);
        g.x.x[0] += 3.0f;   // tripwire
        run(fixture::active(), ref, true);
        CHECK((width == 1 || !(apart == ref)));
      };
      compare(gated);
      compare(mean);
    }
}
