// GGUF, read: ggml's container, versions 2 and 3, little endian. "GGUF", version, counts; metadata (key, type, value);
// tensor infos (name, sizes innermost first, type, offset); padding; the tensors' bytes. The file is mapped: nothing is
// copied on open but names.
//
// Checked before a byte is used: every count against what is left of the file, every length, type, offset and
// alignment; keys and tensors once; data without overlap, inside the file. Test: tests/io/gguf.cpp.
#pragma once

#include <klens/io/gguf_blocks.hpp>
#include <klens/io/json.hpp>
#include <klens/io/tensor.hpp>

#include <algorithm>
#include <bit>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace klens {

static_assert(std::endian::native == std::endian::little);

namespace detail {
/// A name of the file for a message: one line, whatever it holds.
inline std::string shown(std::string_view name, std::size_t limit) {
  std::string text(name.substr(0, limit));
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  return name.size() > limit ? text + "..." : text;
}
}  // namespace detail

/// Types of metadata, by the format's numbers.
enum class GgufType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
inline constexpr std::array<std::string_view, 13> gguf_type_names = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

/// A value: its type and where it lies. An array: the type of its elements, and how many.
struct GgufValue {
  GgufType type = GgufType::u8;  // of the value, or of the elements
  bool is_array = false;
  std::uint64_t count = 1;
  std::span<const std::byte> bytes;  // strings: each with its length before it

  std::string text() const {
    return (is_array ? "an array of " + std::to_string(count) + " " : "a ") +
           std::string(gguf_type_names[std::size_t(type)]);
  }
};

/// A tensor as the file has it.
struct GgufTensor {
  std::string name;
  std::uint32_t type = 0;           // ggml's number; ggml_block() knows those that klens reads
  std::vector<std::int64_t> shape;  // outermost first: the file's order reversed
  std::span<const std::byte> data;  // empty where the type is unknown: its size is too
};

/// The first bytes say so.
inline bool is_gguf_file(const std::string& path) {
  const auto file = MappedFile::open(path);
  return file && file->text().starts_with("GGUF");
}

/// A GGUF file. Moves; views into it stay valid while it (or what it was moved to) lives.
class GgufFile {
 public:
  static Result<GgufFile> open(const std::string& path) {
    GgufFile g;
    KLENS_TRY(g.file_, MappedFile::open(path));
    KLENS_OK(g.read());
    return g;
  }

  const std::string& path() const { return file_.path(); }
  std::uint64_t file_bytes() const { return file_.size(); }
  std::uint32_t version() const { return version_; }
  std::uint64_t alignment() const { return alignment_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::map<std::string, GgufTensor, std::less<>>& tensors() const { return tensors_; }

  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  const GgufTensor* tensor(std::string_view name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
  }

  /// An integer of any width.
  Result<std::int64_t> integer(std::string_view key, std::int64_t min, std::int64_t max) const {
    KLENS_TRY(const GgufValue* const v, find(key));
    const std::string range = "an integer in " + std::to_string(min) + ".." + std::to_string(max);
    const auto n = v->is_array ? std::nullopt : integer_at(*v, 0);
    if (!n) return fault(key, range, v->text());
    if (*n < min || *n > max) return fault(key, range, std::to_string(*n));
    return *n;
  }
  Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                                  std::int64_t max) const {
    return has(key) ? integer(key, min, max) : Result<std::int64_t>(fallback);
  }
  /// A number per layer: an array of `count`, or one number for all.
  Result<std::vector<std::int64_t>> integers(std::string_view key, std::int64_t count, std::int64_t min,
                                             std::int64_t max) const {
    KLENS_TRY(const GgufValue* const v, find(key));
    if (!v->is_array) {
      KLENS_TRY(const std::int64_t one, integer(key, min, max));
      return std::vector<std::int64_t>(std::size_t(count), one);
    }
    std::vector<std::int64_t> out;
    if (v->count != std::uint64_t(count) || !integer_at(*v, 0))
      return fault(key, std::to_string(count) + " integers", v->text());
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t n = *integer_at(*v, std::size_t(i));
      if (n < min || n > max)
        return fault(key, "integers in " + std::to_string(min) + ".." + std::to_string(max), std::to_string(n));
      out.push_back(n);
    }
    return out;
  }
  Result<double> number(std::string_view key, double min, double max) const {
    KLENS_TRY(const GgufValue* const v, find(key));
    double x = 0;
    if (v->is_array || (v->type != GgufType::f32 && v->type != GgufType::f64)) return fault(key, "a number", v->text());
    if (v->type == GgufType::f32)
      x = double(load<float>(v->bytes, 0));
    else
      x = load<double>(v->bytes, 0);
    if (!(x >= min && x <= max))
      return fault(key, "a number in " + Json(min).dump() + ".." + Json(max).dump(), std::to_string(x));
    return x;
  }
  Result<bool> boolean_or(std::string_view key, bool fallback) const {
    if (!has(key)) return fallback;
    KLENS_TRY(const GgufValue* const v, find(key));
    if (v->is_array || v->type != GgufType::boolean) return fault(key, "a bool", v->text());
    return std::to_integer<int>(v->bytes[0]) != 0;
  }
  Result<std::string> string(std::string_view key) const {
    KLENS_TRY(const GgufValue* const v, find(key));
    if (v->is_array || v->type != GgufType::string) return fault(key, "a string", v->text());
    return std::string(string_at(v->bytes, 0));
  }
  Result<std::string> string_or(std::string_view key, std::string fallback) const {
    return has(key) ? string(key) : Result<std::string>(std::move(fallback));
  }
  /// Views into the file.
  Result<std::vector<std::string_view>> strings(std::string_view key) const {
    KLENS_TRY(const GgufValue* const v, find(key));
    if (!v->is_array || v->type != GgufType::string) return fault(key, "an array of strings", v->text());
    std::vector<std::string_view> out;
    out.reserve(v->count);
    for (std::size_t at = 0; at < v->bytes.size();) {
      out.push_back(string_at(v->bytes, at));
      at += 8 + out.back().size();
    }
    return out;
  }
  Result<std::vector<float>> floats(std::string_view key) const {
    KLENS_TRY(const GgufValue* const v, find(key));
    if (!v->is_array || v->type != GgufType::f32) return fault(key, "an array of f32", v->text());
    std::vector<float> out(v->count);
    if (!out.empty()) std::memcpy(out.data(), v->bytes.data(), v->bytes.size());
    return out;
  }

  /// An error about a key of the metadata.
  Error fault(std::string_view key, std::string expected, std::string found, ErrorCode code = ErrorCode::format) const {
    return Error{code, place(key), std::move(expected), std::move(found)};
  }

 private:
  using Bytes = std::span<const std::byte>;

  template <class T>
  static T load(Bytes bytes, std::size_t at) {
    T v;
    std::memcpy(&v, bytes.data() + at, sizeof v);
    return v;
  }
  static std::string_view string_at(Bytes bytes, std::size_t at) {
    return {reinterpret_cast<const char*>(bytes.data()) + at + 8, std::size_t(load<std::uint64_t>(bytes, at))};
  }
  static int width_of(GgufType t) {  // bytes of a value; 0: strings and arrays, which say it themselves
    constexpr int widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return widths[int(t)];
  }
  /// Element i as an integer; nothing for other types, and for a u64 that no int64 holds.
  static std::optional<std::int64_t> integer_at(const GgufValue& v, std::size_t i) {
    if (i >= v.count) return std::nullopt;
    switch (v.type) {
      case GgufType::u8: return load<std::uint8_t>(v.bytes, i);
      case GgufType::i8: return load<std::int8_t>(v.bytes, i);
      case GgufType::u16: return load<std::uint16_t>(v.bytes, 2 * i);
      case GgufType::i16: return load<std::int16_t>(v.bytes, 2 * i);
      case GgufType::u32: return load<std::uint32_t>(v.bytes, 4 * i);
      case GgufType::i32: return load<std::int32_t>(v.bytes, 4 * i);
      case GgufType::i64: return load<std::int64_t>(v.bytes, 8 * i);
      case GgufType::u64: {
        const std::uint64_t n = load<std::uint64_t>(v.bytes, 8 * i);
        if (n >> 63 != 0) return std::nullopt;
        return std::int64_t(n);
      }
      default: return std::nullopt;
    }
  }

  std::string place(std::string_view key) const { return path() + ": '" + detail::shown(key, 80) + "'"; }
  Result<const GgufValue*> find(std::string_view key) const {
    const auto it = metadata_.find(key);
    if (it == metadata_.end()) return fault(key, "metadata under this key", "none", ErrorCode::missing);
    return &it->second;
  }

  /// What is left to read; every take says what for.
  class Cursor {
   public:
    Cursor(const std::string& path, Bytes bytes) : path_(path), bytes_(bytes) {}
    std::size_t at() const { return at_; }
    std::uint64_t left() const { return bytes_.size() - at_; }
    Result<Bytes> take(std::uint64_t n, std::string_view what) {
      if (n > left()) return end(what, std::to_string(n) + " bytes");
      const Bytes part = bytes_.subspan(at_, std::size_t(n));
      at_ += std::size_t(n);
      return part;
    }
    template <class T>
    Result<T> number(std::string_view what) {
      KLENS_TRY(const Bytes part, take(sizeof(T), what));
      return load<T>(part, 0);
    }
    Result<std::string_view> string(std::string_view what, std::uint64_t limit) {
      KLENS_TRY(const std::uint64_t n, number<std::uint64_t>(what));
      if (n > limit) return error(what, "a string of at most " + std::to_string(limit) + " bytes", std::to_string(n));
      KLENS_TRY(const Bytes part, take(n, what));
      return std::string_view(reinterpret_cast<const char*>(part.data()), part.size());
    }
    Error error(std::string_view what, std::string expected, std::string found) const {
      return Error{ErrorCode::format, path_ + ": " + detail::shown(what, 120) + " at byte " + std::to_string(at_),
                   std::move(expected), std::move(found)};
    }
    Error end(std::string_view what, std::string expected) const {
      return error(what, std::move(expected), std::to_string(left()) + " bytes before the end of the file");
    }

   private:
    const std::string& path_;
    Bytes bytes_;
    std::size_t at_ = 0;
  };

  Result<void> read() {
    Cursor in(path(), file_.bytes());
    if (!file_.text().starts_with("GGUF"))
      return Error{ErrorCode::format, path(), "a GGUF file",
                   file_.size() < 4 ? std::to_string(file_.size()) + " bytes" : "other bytes at its start"};
    KLENS_TRY([[maybe_unused]] const Bytes magic, in.take(4, "magic"));
    KLENS_TRY(version_, in.number<std::uint32_t>("version"));
    if (version_ == 0x02000000u || version_ == 0x03000000u)
      return Error{ErrorCode::unsupported, path() + ": version", "a little-endian file", "a big-endian one"};
    if (version_ != 2 && version_ != 3)
      return Error{ErrorCode::unsupported, path() + ": version", "2 or 3", std::to_string(version_)};
    KLENS_TRY(const std::uint64_t tensors, in.number<std::uint64_t>("number of tensors"));
    KLENS_TRY(const std::uint64_t values, in.number<std::uint64_t>("number of metadata values"));
    // The shortest entries are 13 and 24 bytes long.
    if (values > in.left() / 13) return in.end("metadata", std::to_string(values) + " values");
    if (tensors > in.left() / 24) return in.end("tensor infos", std::to_string(tensors) + " tensors");
    for (std::uint64_t i = 0; i < values; ++i) KLENS_OK(read_value(in));
    if (has("general.alignment")) {
      KLENS_TRY(const std::int64_t n, integer("general.alignment", 1, 1 << 24));
      if (!std::has_single_bit(std::uint64_t(n)))
        return fault("general.alignment", "a power of two", std::to_string(n));
      alignment_ = std::uint64_t(n);
    }
    std::vector<std::pair<std::uint64_t, std::string_view>> offsets;
    for (std::uint64_t i = 0; i < tensors; ++i) KLENS_OK(read_info(in, offsets));
    return place_tensors(in, offsets);
  }

  Result<void> read_value(Cursor& in) {
    KLENS_TRY(const std::string_view key, in.string("key", 65535));
    const std::string what = "'" + detail::shown(key, 80) + "'";
    if (key.empty() || key.find('\0') != std::string_view::npos)
      return in.error("key", "a name", key.empty() ? "an empty one" : "one with a NUL byte");
    GgufValue v;
    KLENS_TRY(std::uint32_t type, in.number<std::uint32_t>(what));
    if (type == std::uint32_t(GgufType::array)) {
      v.is_array = true;
      KLENS_TRY(type, in.number<std::uint32_t>(what));
      KLENS_TRY(v.count, in.number<std::uint64_t>(what));
      if (type == std::uint32_t(GgufType::array))
        return in.error(what, "an array of numbers, bools or strings", "an array of arrays");
    }
    if (type >= gguf_type_names.size()) return in.error(what, "a type of metadata, 0 to 12", std::to_string(type));
    v.type = GgufType(type);
    const std::uint64_t width = std::uint64_t(std::max(width_of(v.type), 0));
    const std::uint64_t shortest = width == 0 ? 8 : width;
    if (v.count > in.left() / shortest) return in.end(what, std::to_string(v.count) + " values");
    const std::size_t begin = in.at();
    if (width == 0) {
      for (std::uint64_t i = 0; i < v.count; ++i) {
        KLENS_TRY([[maybe_unused]] const std::string_view text, in.string(what, ~0ull));
      }
    } else {
      KLENS_TRY([[maybe_unused]] const Bytes all, in.take(v.count * width, what));
    }
    v.bytes = file_.bytes().subspan(begin, in.at() - begin);
    if (v.type == GgufType::boolean)
      for (const std::byte b : v.bytes)
        if (std::to_integer<int>(b) > 1)
          return in.error(what, "bools of 0 or 1", std::to_string(std::to_integer<int>(b)));
    if (!metadata_.emplace(key, v).second) return in.error(what, "every key once", "it again");
    return {};
  }

  Result<void> read_info(Cursor& in, std::vector<std::pair<std::uint64_t, std::string_view>>& offsets) {
    KLENS_TRY(const std::string_view name, in.string("tensor name", 65535));
    const std::string what = "tensor '" + detail::shown(name, 120) + "'";
    GgufTensor t;
    t.name = name;
    KLENS_TRY(const std::uint32_t dimensions, in.number<std::uint32_t>(what));
    if (dimensions > 4) return in.error(what, "at most 4 dimensions", std::to_string(dimensions));
    for (std::uint32_t d = 0; d < dimensions; ++d) {
      KLENS_TRY(const std::int64_t size, in.number<std::int64_t>(what));
      if (size < 1) return in.error(what, "sizes of 1 to 2^63 - 1", std::to_string(std::uint64_t(size)));
      t.shape.insert(t.shape.begin(), size);
    }
    KLENS_TRY(t.type, in.number<std::uint32_t>(what));
    KLENS_TRY(const std::uint64_t offset, in.number<std::uint64_t>(what));
    if (!detail::element_count(t.shape)) return in.error(what, "a shape that fits in memory", shape_text(t.shape));
    if (offset % alignment_ != 0)
      return in.error(what, "an offset that is a multiple of " + std::to_string(alignment_), std::to_string(offset));
    const auto [it, inserted] = tensors_.emplace(name, std::move(t));
    if (!inserted) return in.error(what, "every tensor once", "it again");
    offsets.push_back({offset, it->first});
    return {};
  }

  Result<void> place_tensors(const Cursor& in, std::vector<std::pair<std::uint64_t, std::string_view>>& offsets) {
    const std::uint64_t start = (in.at() + alignment_ - 1) / alignment_ * alignment_;
    const std::uint64_t payload = start > file_.size() ? 0 : file_.size() - start;
    std::ranges::sort(offsets);
    std::uint64_t end = 0;
    std::string_view before;
    for (const auto& [offset, name] : offsets) {
      GgufTensor& t = tensors_.find(name)->second;
      const std::string where = path() + ": tensor '" + detail::shown(name, 120) + "'";
      if (offset < end)
        return Error{ErrorCode::format, where,
                     "data after that of '" + detail::shown(before, 120) + "', from " + std::to_string(end),
                     std::to_string(offset)};
      const GgmlBlock* block = ggml_block(t.type);
      const std::int64_t count = *detail::element_count(t.shape), row = t.shape.empty() ? 1 : t.shape.back();
      std::uint64_t bytes = 0;
      if (block != nullptr) {
        if (row % block->values != 0)
          return Error{
              ErrorCode::shape, where,
              "rows of a multiple of " + std::to_string(block->values) + " values, for " + std::string(block->name),
              std::to_string(row)};
        if (__builtin_mul_overflow(std::uint64_t(count / block->values), std::uint64_t(block->bytes), &bytes))
          return Error{ErrorCode::overflow, where, "a shape that fits in memory", shape_text(t.shape)};
      }
      if (offset > payload || bytes > payload - offset)
        return Error{ErrorCode::format, where,
                     std::to_string(bytes) + " bytes at " + std::to_string(offset) + " of the data",
                     std::to_string(payload) + " bytes of data"};
      if (bytes > 0) t.data = file_.bytes().subspan(std::size_t(start + offset), std::size_t(bytes));
      end = offset + bytes;
      before = name;
    }
    return {};
  }

  MappedFile file_;
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = 32;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

/// Values of a tensor, widened or dequantized. The file holds its data, so that the memory is at most 13 times the
/// file's.
inline Result<std::vector<float>> read_gguf(const std::string& path, const GgufTensor& t) {
  const GgmlBlock* block = ggml_block(t.type);
  if (block == nullptr) {
    std::string known;
    for (const GgmlBlock& b : ggml_blocks) known += (known.empty() ? "" : " ") + std::string(b.name);
    return Error{ErrorCode::unsupported, path + ": tensor '" + detail::shown(t.name, 120) + "'",
                 "a type among " + known, std::string(ggml_type_name(t.type)) + " (" + std::to_string(t.type) + ")"};
  }
  std::vector<float> out(std::size_t(*detail::element_count(t.shape)));
  dequantize_blocks(*block, t.data, out);
  return out;
}

}  // namespace klens
