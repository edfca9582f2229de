// safetensors, written: the header first, padded with spaces to 8 bytes so that the data is aligned, then the tensors
// in the order declared, in pieces of any size. The file appears under its name when it is complete.
#pragma once

#include <klens/io/atomic_file.hpp>
#include <klens/io/json.hpp>
#include <klens/io/tensor.hpp>

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace klens {

/// What a tensor will be. Elements of 8 bytes come first where alignment of every tensor matters to a reader.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
};

/// create(path, specs), append in the order of specs, finish. Holds no tensor in memory.
class SafetensorsWriter {
 public:
  using Metadata = std::vector<std::pair<std::string, std::string>>;

  static Result<SafetensorsWriter> create(const std::string& path, std::vector<TensorSpec> specs,
                                          const Metadata& metadata = {}) {
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    for (const auto& [key, value] : metadata) header["__metadata__"][key] = value;
    std::int64_t offset = 0;
    std::vector<std::int64_t> sizes;
    for (const TensorSpec& s : specs) {
      const std::string where = path + ": tensor '" + s.name + "'";
      const std::optional<std::int64_t> count = detail::element_count(s.shape);
      std::int64_t bytes = 0, end = 0;
      if (s.dtype == DType::other || !count || __builtin_mul_overflow(*count, std::int64_t(size_of(s.dtype)), &bytes) ||
          __builtin_add_overflow(offset, bytes, &end))
        return Error{ErrorCode::shape, where, "a known type and a shape that fits",
                     std::string(name_of(s.dtype)) + " " + shape_text(s.shape)};
      if (s.name == "__metadata__" || header.contains(s.name))
        return Error{ErrorCode::usage, where, "every name once", "it twice"};
      header[s.name] = {{"dtype", name_of(s.dtype)}, {"shape", s.shape}, {"data_offsets", {offset, end}}};
      sizes.push_back(bytes);
      offset = end;
    }
    std::string text;
    try {
      text = header.dump();
    } catch (const std::exception& e) {
      return Error{ErrorCode::format, path, "names in UTF-8", e.what()};
    }
    text.append((8 - text.size() % 8) % 8, ' ');
    KLENS_TRY(AtomicFile file, AtomicFile::create(path));
    const std::uint64_t length = text.size();
    KLENS_OK(file.write(std::as_bytes(std::span(&length, 1))));
    KLENS_OK(file.write(text));
    return SafetensorsWriter(std::move(file), std::move(specs), std::move(sizes));
  }

  /// Next bytes of the data, across tensors in the order declared.
  Result<void> append(std::span<const std::byte> bytes) {
    std::size_t left = bytes.size();
    while (left > 0) {
      while (current_ < sizes_.size() && done_ == sizes_[current_]) ++current_, done_ = 0;
      if (current_ == sizes_.size())
        return Error{ErrorCode::usage, file_.path(), "no data after the last tensor", std::to_string(left) + " bytes"};
      const std::int64_t take = std::min<std::int64_t>(std::int64_t(left), sizes_[current_] - done_);
      done_ += take;
      left -= std::size_t(take);
    }
    return file_.write(bytes);
  }
  template <class T>
  Result<void> append(std::span<const T> values) {
    return append(std::as_bytes(values));
  }

  /// Checks that every tensor is complete and puts the file in its place.
  Result<void> finish() {
    while (current_ < sizes_.size() && done_ == sizes_[current_]) ++current_, done_ = 0;
    if (current_ < sizes_.size())
      return Error{ErrorCode::usage, file_.path() + ": tensor '" + specs_[current_].name + "'",
                   std::to_string(sizes_[current_]) + " bytes", std::to_string(done_)};
    return file_.commit();
  }

 private:
  SafetensorsWriter(AtomicFile file, std::vector<TensorSpec> specs, std::vector<std::int64_t> sizes)
      : file_(std::move(file)), specs_(std::move(specs)), sizes_(std::move(sizes)) {}

  AtomicFile file_;
  std::vector<TensorSpec> specs_;
  std::vector<std::int64_t> sizes_;
  std::size_t current_ = 0;
  std::int64_t done_ = 0;
};

struct TensorData {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
};

/// Writes all tensors at once.
inline Result<void> write_safetensors(const std::string& path, std::span<const TensorData> tensors,
                                      const SafetensorsWriter::Metadata& metadata = {}) {
  std::vector<TensorSpec> specs;
  for (const TensorData& t : tensors) {
    specs.push_back({t.name, t.dtype, t.shape});
    const std::optional<std::int64_t> count = detail::element_count(t.shape);
    if (!count || __int128(*count) * size_of(t.dtype) != __int128(t.data.size()))
      return Error{ErrorCode::shape, path + ": tensor '" + t.name + "'",
                   std::string(name_of(t.dtype)) + " " + shape_text(t.shape), std::to_string(t.data.size()) + " bytes"};
  }
  KLENS_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, std::move(specs), metadata));
  for (const TensorData& t : tensors) KLENS_OK(writer.append(t.data));
  return writer.finish();
}

}  // namespace klens
