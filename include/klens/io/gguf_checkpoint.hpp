// A GGUF file of llama.cpp as what a checkpoint folder is: config.json's text, and tensors under transformers' names
// with transformers' shapes and values. What llama.cpp's converter changed is changed back:
//   A -> A_log = log(-A);  [channels, taps] -> [channels, 1, taps];  [heads, 1], [groups, width] -> one dimension;
//   rows of nemotron_h's and Granite's q and k, (h, j, half) -> (h, half, j);
//   jamba's stacked experts [experts, rows, columns] -> a tensor each;
//   Granite's gate and up -> the halves of one tensor, of each expert's where they are stacked.
// muP multipliers of falcon-h1 stay in its weights, those of Granite are in the config.
//
// F32, F16 and BF16 are views into the file; quantized types and changed tensors are held as f32, made on open: 4 bytes
// a weight (halves of the one type F32, F16 or BF16 in that type). A tensor without a meaning in its architecture is an
// error. Oracle: tests/data/gguf/make.py with the package gguf; test: tests/model/gguf.cpp.
#pragma once

#include <klens/core/det_math.hpp>
#include <klens/io/gguf_config.hpp>
#include <klens/io/gguf_tokenizer.hpp>
#include <klens/io/shards.hpp>

#include <cmath>
#include <map>
#include <string>
#include <vector>

namespace klens {

/// Moves; TensorViews stay valid while it (or what it was moved to) lives.
class GgufCheckpoint {
 public:
  static Result<GgufCheckpoint> open(const std::string& path) {
    KLENS_TRY(GgufFile file, GgufFile::open(path));
    GgufCheckpoint c(std::move(file));
    KLENS_OK(c.read());
    return c;
  }

  const TensorView* find(std::string_view name) const { return find_tensor(tensors_, name); }
  /// Names in ascending order.
  std::vector<std::string_view> names() const { return tensor_names(tensors_); }
  const TensorMap& tensors() const { return tensors_; }
  const std::string& path() const { return file_.path(); }
  std::uint64_t file_bytes() const { return file_.file_bytes(); }
  /// A config.json for parse_config().
  const std::string& config_text() const { return config_; }
  /// A tokenizer.json for Tokenizer::parse().
  Result<std::string> tokenizer_text() const { return gguf_tokenizer(file_); }
  const GgufFile& file() const { return file_; }

 private:
  explicit GgufCheckpoint(GgufFile file) : file_(std::move(file)) {}

  Result<void> read() {
    KLENS_TRY(const std::string architecture, file_.string("general.architecture"));
    const auto family = std::ranges::find(detail::gguf_families, architecture, &detail::GgufFamily::architecture);
    if (family == std::end(detail::gguf_families)) {
      std::string known;
      for (const detail::GgufFamily& f : detail::gguf_families)
        known += (known.empty() ? "" : ", ") + std::string(f.architecture);
      return file_.fault("general.architecture", "one of: " + known, "'" + detail::shown(architecture, 40) + "'",
                         ErrorCode::unsupported);
    }
    detail::GgufConfig config(file_, *family);
    KLENS_TRY(const Json json, config.read());
    config_ = to_text(json);
    heads_ = config.heads(), kv_heads_ = config.kv_heads();
    std::map<std::string, Halves> halves;
    for (const auto& [name, tensor] : file_.tensors()) KLENS_OK(add(*family, tensor, halves));
    for (const auto& [name, pair] : halves) KLENS_OK(join(name, pair));
    return {};
  }

  /// What becomes the first and the second half of the rows of a tensor, or of each expert's.
  struct Halves {
    const GgufTensor* gate = nullptr;
    const GgufTensor* up = nullptr;
  };

  std::string place(const GgufTensor& t) const { return path() + ": tensor '" + detail::shown(t.name, 120) + "'"; }

  static bool plain(const GgufTensor& t) {
    const GgmlType type = GgmlType(t.type);
    return type == GgmlType::f32 || type == GgmlType::f16 || type == GgmlType::bf16;
  }
  static DType dtype_of(const GgufTensor& t) {
    const GgmlType type = GgmlType(t.type);
    return type == GgmlType::f16 ? DType::f16 : type == GgmlType::bf16 ? DType::bf16 : DType::f32;
  }

  Result<void> put(TensorView view, const std::string& where) {
    const std::string name = view.name;
    if (!tensors_.emplace(name, std::move(view)).second)
      return Error{ErrorCode::format, where, "one tensor for '" + name + "'", "two"};
    return {};
  }

  Result<void> add(const detail::GgufFamily& family, const GgufTensor& t, std::map<std::string, Halves>& halves) {
    const std::string where = place(t);
    TensorView view;
    const auto known = detail::name_from_gguf(family, t.name, view.name);
    if (!known)
      return Error{ErrorCode::unsupported, where, "only tensors of " + std::string(family.architecture),
                   "one without a meaning there"};
    const detail::GgufFix fix = known->fix;
    if (fix == detail::GgufFix::gate_rows || fix == detail::GgufFix::up_rows) {
      Halves& pair = halves[view.name];
      const GgufTensor*& half = fix == detail::GgufFix::gate_rows ? pair.gate : pair.up;
      if (half != nullptr)
        return Error{ErrorCode::format, where, "one tensor for that half of '" + view.name + "'",
                     "'" + half->name + "' too"};
      half = &t;
      return {};
    }
    view.shape = t.shape, view.file = path(), view.data = t.data;
    view.dtype = dtype_of(t), view.dtype_name = name_of(view.dtype);
    const bool rows_moved = fix == detail::GgufFix::query_rows || fix == detail::GgufFix::key_rows;
    if (!plain(t) || fix == detail::GgufFix::a_log || rows_moved) {
      KLENS_TRY(std::vector<float> values, read_gguf(path(), t));
      if (fix == detail::GgufFix::a_log) KLENS_OK(undo_exp(where, values));
      if (rows_moved)
        KLENS_OK(undo_permutation(where, t, fix == detail::GgufFix::query_rows ? heads_ : kv_heads_, values));
      owned_.push_back(std::move(values));
      view.dtype = DType::f32, view.dtype_name = "F32", view.data = std::as_bytes(std::span(owned_.back())),
      view.in_memory = true;
    }
    if (fix == detail::GgufFix::conv && t.shape.size() == 2) view.shape = {t.shape[0], 1, t.shape[1]};
    if (fix == detail::GgufFix::flat ||
        (fix == detail::GgufFix::a_log && t.shape.size() == 2 && t.shape[1] == 1 && family.family != Family::mamba &&
         family.family != Family::jamba))
      view.shape = {*detail::element_count(t.shape)};
    return fix == detail::GgufFix::experts ? cut(std::move(view), where) : put(std::move(view), where);
  }

  /// [experts, rows, columns] as a tensor per expert, its number in place of the name's '*'.
  Result<void> cut(TensorView all, const std::string& where) {
    if (all.shape.size() != 3 || all.shape[0] > most_experts)
      return Error{ErrorCode::shape, where,
                   "[experts, rows, columns] of at most " + std::to_string(most_experts) + " experts",
                   shape_text(all.shape)};
    const std::size_t star = all.name.find('*'), bytes = all.data.size() / std::size_t(all.shape[0]);
    for (std::int64_t e = 0; e < all.shape[0]; ++e) {
      TensorView one = all;
      one.name.replace(star, 1, std::to_string(e));
      one.shape = {all.shape[1], all.shape[2]}, one.data = all.data.subspan(std::size_t(e) * bytes, bytes);
      KLENS_OK(put(std::move(one), where));
    }
    return {};
  }

  /// [.., rows, columns] twice as [.., 2 rows, columns].
  Result<void> join(const std::string& name, const Halves& pair) {
    const GgufTensor& known = pair.gate != nullptr ? *pair.gate : *pair.up;
    const std::string where = place(known);
    if (pair.gate == nullptr || pair.up == nullptr)
      return Error{ErrorCode::missing, where, "both halves of '" + name + "'", "this one only"};
    const std::vector<std::int64_t>& shape = pair.gate->shape;
    if (shape.size() < 2 || shape != pair.up->shape)
      return Error{ErrorCode::shape, where,
                   "the shape of '" + detail::shown(pair.up->name, 120) + "', " + shape_text(pair.up->shape),
                   shape_text(shape)};
    std::vector<float> wide[2];
    std::span<const std::byte> from[2] = {pair.gate->data, pair.up->data};
    const bool as_it_is = plain(*pair.gate) && pair.gate->type == pair.up->type;
    if (!as_it_is) {
      KLENS_TRY(wide[0], read_gguf(path(), *pair.gate));
      KLENS_TRY(wide[1], read_gguf(path(), *pair.up));
      for (int i = 0; i < 2; ++i) from[i] = std::as_bytes(std::span(wide[i]));
    }
    TensorView view;
    view.name = name, view.file = path(), view.in_memory = true, view.shape = shape;
    view.shape[shape.size() - 2] *= 2;
    view.dtype = as_it_is ? dtype_of(*pair.gate) : DType::f32, view.dtype_name = name_of(view.dtype);
    const std::size_t experts = shape.size() == 3 ? std::size_t(shape[0]) : 1;
    const std::size_t all = from[0].size(), one = all / experts;
    std::vector<std::byte> both(2 * all);
    for (std::size_t e = 0; e < experts; ++e)
      for (std::size_t i = 0; i < 2; ++i)
        std::memcpy(both.data() + (2 * e + i) * one, from[i].data() + e * one, one);
    joined_.push_back(std::move(both));
    view.data = joined_.back();
    return put(std::move(view), where);
  }

  /// A_log = log(-A).
  static Result<void> undo_exp(const std::string& where, std::span<float> values) {
    for (float& v : values) {
      if (!(v < 0) || !std::isfinite(v))
        return Error{ErrorCode::format, where, "finite values below 0", std::to_string(v)};
      v = float(det::log(-double(v)));
    }
    return {};
  }

  /// Rows (head, j, half) become (head, half, j): the converter turns rotary halves into neighbours, where there is no
  /// RoPE too.
  static Result<void> undo_permutation(const std::string& where, const GgufTensor& t, std::int64_t heads,
                                       std::span<float> values) {
    const std::int64_t rows = t.shape.empty() ? 0 : t.shape[0];
    if (heads == 0 || rows % (2 * heads) != 0)
      return Error{ErrorCode::shape, where, std::to_string(heads) + " heads of an even width", shape_text(t.shape)};
    const std::int64_t half = rows / heads / 2, width = rows == 0 ? 0 : std::int64_t(values.size()) / rows;
    const std::vector<float> from(values.begin(), values.end());
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t j = 0; j < half; ++j)
        for (std::int64_t s = 0; s < 2; ++s)
          std::copy_n(from.begin() + ((h * half + j) * 2 + s) * width, width,
                      values.begin() + ((h * 2 + s) * half + j) * width);
    return {};
  }

  GgufFile file_;
  std::string config_;
  std::int64_t heads_ = 0, kv_heads_ = 0;
  std::vector<std::vector<float>> owned_;  // moves leave the values where they are
  std::vector<std::vector<std::byte>> joined_;
  TensorMap tensors_;
};

}  // namespace klens
