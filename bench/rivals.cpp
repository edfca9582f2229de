// The module klens_rivals: matrix products of oneDNN, OpenBLAS and ggml behind rival_api.hpp, for `klens bench kernels` to
// time beside its own. Generous to them: weights are packed outside the timing where the library can, integer products
// of oneDNN come without scales, and every call writes the same buffer.
#include "rival_api.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
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
#if defined(KLENS_RIVALS_GGML)
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>
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

#if defined(KLENS_RIVALS_GGML)

template <auto F>
struct Call {
  template <class T>
  void operator()(T* p) const { F(p); }
};
template <class T, auto F>
using Owned = std::unique_ptr<T, Call<F>>;

/// The CPU backend of the variant that the environment names: as ggml's own loader finds it beside its libraries.
ggml_backend_dev_t ggml_device() {
  static const ggml_backend_dev_t device = [] {
    ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);  // it tells of every tensor it packs
    const char* const variant = std::getenv("KLENS_GGML_VARIANT");
    const std::string path = std::string(KLENS_RIVALS_GGML) + "/libggml-cpu-" + (variant ? variant : "") + ".so";
    const ggml_backend_reg_t library = variant ? ggml_backend_load(path.c_str()) : nullptr;
    return library ? ggml_backend_reg_dev_get(library, 0) : nullptr;
  }();
  return device;
}

/// mul_mat of q4_0 (groups of 32 with scales of f16) and rows of f32, which ggml rounds to q8_0 within the call. Weights lie
/// as its kernels like them best: the first of the CPU's own layouts that takes the product, else q4_0 itself.
struct Ggml final : Rival {
  ggml_backend_dev_t device = ggml_device();
  Owned<ggml_backend, &ggml_backend_free> backend;
  Owned<ggml_context, &ggml_free> weights, graphs;
  Owned<ggml_backend_buffer, &ggml_backend_buffer_free> weights_buffer, rows_buffer;
  std::vector<ggml_cgraph*> products;

  Ggml(int rows, int cols, int tokens, int copies, int threads) {
    constexpr int nodes = 4;
    if (!device || cols % 32 != 0) throw std::runtime_error("no such kernel");
    backend.reset(ggml_backend_dev_init(device, nullptr));
    const ggml_backend_reg_t library = ggml_backend_dev_backend_reg(device);
    const auto set_threads =
        reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(library, "ggml_backend_set_n_threads"));
    set_threads(backend.get(), threads);
    const std::size_t count = std::size_t(copies);
    weights.reset(ggml_init({count * ggml_tensor_overhead(), nullptr, true}));
    graphs.reset(ggml_init(
        {(count + 1) * ggml_tensor_overhead() + count * ggml_graph_overhead_custom(nodes, false), nullptr, true}));
    ggml_tensor* const x = ggml_new_tensor_2d(graphs.get(), GGML_TYPE_F32, cols, tokens);
    std::vector<ggml_tensor*> w, y;
    for (int c = 0; c < copies; ++c) {
      w.push_back(ggml_new_tensor_2d(weights.get(), GGML_TYPE_Q4_0, cols, rows));
      y.push_back(ggml_mul_mat(graphs.get(), w.back(), x));
    }
    for (const ggml_backend_buffer_type_t type : layouts(library)) {
      for (ggml_tensor* t : w) t->buffer = nullptr, t->data = nullptr, t->extra = nullptr;
      weights_buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(weights.get(), type));
      implementation = ggml_backend_buft_name(type);
      if (weights_buffer && ggml_backend_supports_op(backend.get(), y[0])) break;
      weights_buffer.reset();
    }
    if (!weights_buffer) throw std::runtime_error("no such kernel");
    const std::size_t x_bytes = (ggml_nbytes(x) + 4095) / 4096 * 4096;
    rows_buffer.reset(ggml_backend_alloc_buffer(backend.get(), x_bytes + ggml_nbytes(y[0])));
    char* const base = static_cast<char*>(ggml_backend_buffer_get_base(rows_buffer.get()));
    ggml_backend_tensor_alloc(rows_buffer.get(), x, base);
    std::vector<float> values(ggml_nelements(x));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = value(i);
    ggml_backend_tensor_set(x, values.data(), 0, ggml_nbytes(x));
    std::vector<unsigned char> blocks(ggml_nbytes(w[0]));
    for (std::size_t i = 0; i < blocks.size(); ++i)  // a block: scale (0x2c00, 1/16) and 16 bytes
      blocks[i] = static_cast<unsigned char>(i % 18 == 0 ? 0 : i % 18 == 1 ? 0x2c : i * 37 + (i >> 8));
    for (std::size_t c = 0; c < count; ++c) {
      ggml_backend_tensor_alloc(rows_buffer.get(), y[c], base + x_bytes);
      ggml_backend_tensor_set(w[c], blocks.data(), 0, blocks.size());
      products.push_back(ggml_new_graph_custom(graphs.get(), nodes, false));
      ggml_build_forward_expand(products.back(), y[c]);
    }
    run(0);
  }

  void run(int copy) override { ggml_backend_graph_compute(backend.get(), products[std::size_t(copy)]); }

 private:
  std::vector<ggml_backend_buffer_type_t> layouts(ggml_backend_reg_t library) const {
    std::vector<ggml_backend_buffer_type_t> all;
    const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(library, "ggml_backend_dev_get_extra_bufts"));
    if (extra)
      for (ggml_backend_buffer_type_t* type = extra(device); type && *type; ++type) all.push_back(*type);
    all.push_back(ggml_backend_dev_buffer_type(device));
    return all;
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
#if defined(KLENS_RIVALS_GGML)
  text += std::string(", ggml ") + ggml_version() + (ggml_device() ? std::string(" ") + std::getenv("KLENS_GGML_VARIANT") : " absent");
#else
  text += ", ggml absent";
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
#if defined(KLENS_RIVALS_GGML)
    if (std::strcmp(kind, "ggml.q4_0") == 0 && group == 32)
      return static_cast<Rival*>(new Ggml(rows, cols, tokens, copies, threads));
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
