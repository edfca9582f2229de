// safetensors, read: 8 bytes little-endian header length, a JSON header, the tensors' bytes. One file, or a folder with
// model.safetensors or with shards listed in model.safetensors.index.json. Files are mapped: nothing is copied on open.
//
// Checked before a byte is used: header length, JSON, keys, shapes, size == product(shape) * size of type, and (as the
// format demands) that the tensors cover the data exactly, without overlap and without holes.
#pragma once

#include <klens/io/shards.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

inline constexpr std::uint64_t safetensors_header_limit = 100'000'000;  // bytes; the format's own limit

/// A checkpoint. Moves; TensorViews stay valid while it (or what it was moved to) lives.
class Safetensors {
 public:
  /// A .safetensors file, or a checkpoint folder.
  static Result<Safetensors> open(const std::string& path) {
    Safetensors s;
    s.path_ = path;
    KLENS_TRY(s.tensors_, detail::read_file_or_shards(path, "model.safetensors", s.files_, &read_header));
    return s;
  }

  const TensorView* find(std::string_view name) const { return find_tensor(tensors_, name); }

  /// The tensor of that name and exactly that shape.
  Result<const TensorView*> require(std::string_view name, std::span<const std::int64_t> shape) const {
    const TensorView* t = find(name);
    if (t == nullptr)
      return Error{ErrorCode::missing, path_, "tensor '" + std::string(name) + "' " + shape_text(shape),
                   "no such tensor"};
    if (!std::ranges::equal(t->shape, shape))
      return Error{ErrorCode::shape, detail::place_of(*t), "shape " + shape_text(shape), shape_text(t->shape)};
    return t;
  }
  Result<const TensorView*> require(std::string_view name, std::initializer_list<std::int64_t> shape) const {
    return require(name, std::span(shape.begin(), shape.size()));
  }

  /// All of them, by name.
  const TensorMap& tensors() const { return tensors_; }

  /// Names in ascending order.
  std::vector<std::string_view> names() const { return tensor_names(tensors_); }

  const std::string& path() const { return path_; }
  /// Bytes of all files together.
  std::uint64_t file_bytes() const {
    std::uint64_t n = 0;
    for (const MappedFile& f : files_) n += f.size();
    return n;
  }

 private:
  Safetensors() = default;

  static Result<TensorMap> read_header(const MappedFile& file) {
    const std::string& path = file.path();
    const std::span<const std::byte> bytes = file.bytes();
    if (bytes.size() < 8)
      return Error{ErrorCode::format, path, "a safetensors file of at least 8 bytes", std::to_string(bytes.size())};
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    if (length > safetensors_header_limit || length > bytes.size() - 8)
      return Error{ErrorCode::format, path + ": header length",
                   "at most " + std::to_string(std::min<std::uint64_t>(safetensors_header_limit, bytes.size() - 8)),
                   std::to_string(length)};
    const std::string_view text = file.text().substr(8, length);
    if (!text.starts_with('{'))
      return Error{ErrorCode::format, path + ": header", "a JSON object", "'" + detail::clip(text, 12) + "'"};
    KLENS_TRY(const Json header, parse_json(text, path + ": header"));
    const std::span<const std::byte> payload = bytes.subspan(8 + length);
    TensorMap tensors;
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") continue;
      KLENS_TRY(TensorView t, read_entry(path, name, value, payload));
      tensors.emplace(name, std::move(t));
    }
    KLENS_OK(check_cover(path, tensors, payload));
    return tensors;
  }

  static Result<TensorView> read_entry(const std::string& path, const std::string& name, const Json& value,
                                       std::span<const std::byte> payload) {
    const std::string where = path + ": tensor '" + detail::clip(name, 120) + "'";
    TensorView t;
    t.name = name;
    t.file = path;
    KLENS_TRY(t.dtype_name, json_string(value, "dtype", where));
    t.dtype = parse_dtype(t.dtype_name);
    KLENS_TRY(t.shape, json_ints(value, "shape", where, 0, std::int64_t(1) << 60, 32));
    KLENS_TRY(const std::vector<std::int64_t> range,
              json_ints(value, "data_offsets", where, 0, std::int64_t(1) << 60, 2));
    const std::string size_text = std::to_string(payload.size());
    if (range.size() != 2 || range[0] > range[1] || std::uint64_t(range[1]) > payload.size())
      return Error{ErrorCode::format, where + ": data_offsets", "begin <= end <= " + size_text, shape_text(range)};
    const std::optional<std::int64_t> count = detail::element_count(t.shape);
    std::int64_t want = 0;
    if (!count || __builtin_mul_overflow(*count, std::int64_t(std::max(size_of(t.dtype), 1)), &want))
      return Error{ErrorCode::overflow, where, "a shape that fits in memory", shape_text(t.shape)};
    if (t.dtype != DType::other && want != range[1] - range[0])
      return Error{ErrorCode::shape, where,
                   std::to_string(want) + " bytes for " + t.dtype_name + " " + shape_text(t.shape),
                   std::to_string(range[1] - range[0])};
    t.data = payload.subspan(std::size_t(range[0]), std::size_t(range[1] - range[0]));
    return t;
  }

  static Result<void> check_cover(const std::string& path, const TensorMap& tensors, std::span<const std::byte> payload) {
    std::vector<const TensorView*> order;
    for (const auto& entry : tensors) order.push_back(&entry.second);
    std::ranges::sort(order, [](const TensorView* a, const TensorView* b) {
      return a->data.data() != b->data.data() ? a->data.data() < b->data.data() : a->data.size() < b->data.size();
    });
    const std::byte* end = payload.data();
    for (const TensorView* t : order) {
      if (t->data.data() != end)
        return Error{ErrorCode::format, path + ": tensor '" + detail::clip(t->name, 120) + "'",
                     "data at byte " + std::to_string(end - payload.data()) + " (no overlap, no hole)",
                     std::to_string(t->data.data() - payload.data())};
      end += t->data.size();
    }
    if (end != payload.data() + payload.size())
      return Error{ErrorCode::format, path, std::to_string(end - payload.data()) + " bytes of tensor data",
                   std::to_string(payload.size())};
    return {};
  }

  std::string path_;
  std::vector<MappedFile> files_;
  TensorMap tensors_;
};

}  // namespace klens
