// The module klens_rivals: matrix products of oneDNN and OpenBLAS behind rival_api.hpp, for `klens bench kernels` to
// time beside its own. Generous to them: weights are packed outside the timing where the library can, integer products
// come without scales, and every call writes the same buffer.
#include "rival_api.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#if defined(KLENS_RIVALS_ONEDNN)
#include <oneapi/dnnl/dnnl.hpp>
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_TBB
#include <tbb/global_control.h>
#else
#include <omp.h>
#endif
#endif
#if defined(KLENS_RIVALS_OPENBLAS)
#include <cblas.h>
#endif

namespace {

struct Rival {
  std::string implementation;
  virtual ~Rival() = default;
  virtual void run(int copy) = 0;
};

/// Values in [-1, 1) and small integers, the same in every run.
float value(std::size_t i) { return float(std::int32_t(std::uint32_t(i) * 2654435761u)) * 0x1p-31f; }

#if defined(KLENS_RIVALS_OPENBLAS)

/// sgemm (sgemv for one token); OpenBLAS packs within the call and has no way to do it before.
struct OpenBlas final : Rival {
  int rows, cols, tokens, threads;
  std::vector<std::vector<float>> w;
  std::vector<float> x, y;

  OpenBlas(int rows_, int cols_, int tokens_, int copies, int threads_)
      : rows(rows_), cols(cols_), tokens(tokens_), threads(threads_) {
    const std::size_t n = std::size_t(rows) * std::size_t(cols);
    w.assign(std::size_t(copies), std::vector<float>(n));
    for (auto& m : w)
      for (std::size_t i = 0; i < n; ++i) m[i] = value(i);
    x.resize(std::size_t(tokens) * std::size_t(cols)), y.resize(std::size_t(tokens) * std::size_t(rows));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = value(i);
    implementation = openblas_get_corename();
  }

  void run(int copy) override {
    openblas_set_num_threads(threads);
    const float* const m = w[std::size_t(copy)].data();
    if (tokens == 1)
      cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, cols, 1, m, cols, x.data(), 1, 0, y.data(), 1);
    else
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, tokens, rows, cols, 1, x.data(), cols, m, cols, 0, y.data(),
                  rows);
  }
};

#endif
#if defined(KLENS_RIVALS_ONEDNN)

using namespace dnnl;
using Type = memory::data_type;

/// scale: of groups of weights, undef: no scales at all.
struct Kind {
  const char* name;
  Type x, w, scale;
  bool bf16_math;
};
constexpr Kind kinds[] = {
    {"onednn.s8s8", Type::s8, Type::s8, Type::undef, false},
    {"onednn.u8s8", Type::u8, Type::s8, Type::undef, false},
    {"onednn.bf16", Type::bf16, Type::bf16, Type::undef, false},
    {"onednn.f32", Type::f32, Type::f32, Type::undef, false},
#if DNNL_VERSION_MAJOR > 3 || (DNNL_VERSION_MAJOR == 3 && DNNL_VERSION_MINOR >= 5)
    {"onednn.s4", Type::f32, Type::s4, Type::f32, false},
    {"onednn.s4bf16", Type::bf16, Type::s4, Type::bf16, true},
    {"onednn.s4s8", Type::s8, Type::s4, Type::f32, false},
#endif
};

/// OpenMP, or TBB in the builds of PyPI.
void set_threads(int threads) {
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_TBB
  static std::unique_ptr<tbb::global_control> control;
  static int now = 0;
  if (now == threads) return;
  control.reset();
  control = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism, std::size_t(threads));
  now = threads;
#else
  omp_set_num_threads(threads);
#endif
}

engine& cpu() {
  static engine e(engine::kind::cpu, 0);
  return e;
}

void fill(const memory& m, Type type) {
  auto* const bytes = static_cast<unsigned char*>(m.get_data_handle());
  const std::size_t size = m.get_desc().get_size();
  if (type == Type::f32) {
    for (std::size_t i = 0; i < size / 4; ++i) reinterpret_cast<float*>(bytes)[i] = value(i);
  } else if (type == Type::bf16) {
    for (std::size_t i = 0; i < size / 2; ++i) {
      const float v = value(i);
      std::uint32_t u;
      std::memcpy(&u, &v, 4);
      reinterpret_cast<std::uint16_t*>(bytes)[i] = std::uint16_t(u >> 16);
    }
  } else
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<unsigned char>(i * 37 + (i >> 8));
}

/// matmul with the weights in the layout the primitive asks for.
struct OneDnn final : Rival {
  stream queue{cpu()};
  matmul product;
  std::vector<std::unordered_map<int, memory>> args;
  int threads;

  OneDnn(const Kind& kind, int rows, int cols, int tokens, int group, int copies, int threads_) : threads(threads_) {
    set_threads(threads);
    const memory::desc x({tokens, cols}, kind.x, memory::format_tag::ab),
        y({tokens, rows}, Type::f32, memory::format_tag::ab);
    const memory::desc plain({cols, rows}, kind.w, memory::format_tag::ba),
        any({cols, rows}, kind.w, memory::format_tag::any);
    primitive_attr attributes;
    memory::desc scales;
    const bool narrow = kind.scale != Type::undef;
#if DNNL_VERSION_MAJOR > 3 || (DNNL_VERSION_MAJOR == 3 && DNNL_VERSION_MINOR >= 5)
    if (narrow) {
      attributes.set_fpmath_mode(kind.bf16_math ? fpmath_mode::bf16 : fpmath_mode::strict, true);
      attributes.set_scales(DNNL_ARG_WEIGHTS, (1 << 0) + (1 << 1), {group, 1}, kind.scale);
      scales = memory::desc({cols / group, rows}, kind.scale, memory::format_tag::ab);
    }
#else
    (void)group;
#endif
#if DNNL_VERSION_MAJOR >= 3
    const matmul::primitive_desc pd(cpu(), x, any, y, attributes);
#else
    const matmul::primitive_desc pd(matmul::desc(x, any, y), attributes, cpu());
#endif
    implementation = pd.impl_info_str();
    if (implementation.find("ref") != std::string::npos) throw error(dnnl_unimplemented, "reference code is no rival");
    product = matmul(pd);
    const memory x_memory(pd.src_desc(), cpu()), y_memory(pd.dst_desc(), cpu());
    fill(x_memory, kind.x);
    for (int c = 0; c < copies; ++c) {
      memory w(pd.weights_desc(), cpu());
      if (narrow) fill(w, kind.w);  // any nibbles are weights, and there is no reorder of s4
      else {
        memory first(plain, cpu());
        fill(first, kind.w);
        reorder(first, w).execute(queue, first, w);
        queue.wait();
      }
      auto& a = args.emplace_back(
          std::unordered_map<int, memory>{{DNNL_ARG_SRC, x_memory}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y_memory}});
#if DNNL_VERSION_MAJOR >= 3
      if (narrow) {
        const memory s(scales, cpu());
        fill(s, kind.scale);
        a.emplace(DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, s);
      }
#else
      (void)a, (void)narrow;
#endif
    }
    queue.wait();
    run(0);
  }

  void run(int copy) override {
    set_threads(threads);
    product.execute(queue, args[std::size_t(copy)]);
    queue.wait();
  }
};

#endif

const char* describe() {
  static std::string text;
  text.clear();
#if defined(KLENS_RIVALS_ONEDNN)
  const version_t* const v = version();
  text += "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
#else
  text += "oneDNN absent";
#endif
#if defined(KLENS_RIVALS_OPENBLAS)
  text += std::string(", ") + openblas_get_config();
#else
  text += ", OpenBLAS absent";
#endif
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text.c_str();
}

void* make([[maybe_unused]] const char* kind, [[maybe_unused]] int rows, [[maybe_unused]] int cols,
           [[maybe_unused]] int tokens, [[maybe_unused]] int group, [[maybe_unused]] int copies,
           [[maybe_unused]] int threads) {
  try {
#if defined(KLENS_RIVALS_OPENBLAS)
    if (std::strcmp(kind, "openblas.f32") == 0)
      return static_cast<Rival*>(new OpenBlas(rows, cols, tokens, copies, threads));
#endif
#if defined(KLENS_RIVALS_ONEDNN)
    for (const Kind& k : kinds)
      if (std::strcmp(kind, k.name) == 0)
        return static_cast<Rival*>(new OneDnn(k, rows, cols, tokens, group, copies, threads));
#endif
  } catch (...) {  // the library has no such kernel, or no memory
  }
  return nullptr;
}

const char* implementation(void* rival) { return static_cast<Rival*>(rival)->implementation.c_str(); }
void run(void* rival, int copy) { static_cast<Rival*>(rival)->run(copy); }
void destroy(void* rival) { delete static_cast<Rival*>(rival); }

const klens::RivalApi api{klens::rival_api_version, &describe, &make, &implementation, &run, &destroy};

}  // namespace

extern "C" [[gnu::visibility("default")]] const klens::RivalApi* klens_rivals() { return &api; }
