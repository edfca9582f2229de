// Bodies of packed.hpp.
#pragma once

#include <klens/format/name.hpp>
#include <klens/format/state.hpp>
#include <klens/io/atomic_file.hpp>
#include <klens/io/checksum.hpp>
#include <klens/io/packed.hpp>
#include <klens/version.hpp>

#include <algorithm>
#include <set>

namespace klens {
namespace detail {

inline constexpr std::string_view packed_magic{"klens\x1a\r\n", 8};
inline constexpr std::int64_t packed_page = 4096;
inline constexpr std::int64_t packed_max_extent = std::int64_t(1)
                                                  << 26;  // rows, cols: f32 planes stay below 2^55 bytes

struct PackedPreamble {
  char magic[8];
  std::uint32_t version, zero;
  std::uint64_t header_bytes, payload_offset, payload_bytes;
  std::uint64_t header_sum, payload_sum, own_sum;
};
static_assert(sizeof(PackedPreamble) == 64, "klens: the preamble of a packed file is 64 bytes on disk");

inline std::uint64_t preamble_sum(const PackedPreamble& p) {
  return checksum(std::as_bytes(std::span(&p, 1)).first(56));
}

/// Where each plane of an entry lies in the payload.
struct PackedPlace {
  std::int64_t lines = 0, lines_bytes = 0;  // or the tensor's data
  std::int64_t scales = 0, scales_bytes = 0;
};

inline bool has_group_scales(const Precision& p) { return p.scheme.scale == Granularity::group; }

/// Lays entries out in the order of the file's plan; returns the size of the payload.
struct PackedExtent {
  bool is_matrix;
  Precision precision;
  std::int64_t rows, cols, bytes;
};

inline std::int64_t lay_out(std::span<const PackedExtent> entries, std::vector<PackedPlace>& places) {
  std::int64_t at = 0;
  places.assign(entries.size(), {});
  const auto each = [&](auto&& body) {
    for (std::size_t i = 0; i < entries.size(); ++i) body(entries[i], places[i]);
  };
  each([&](const PackedExtent& e, PackedPlace& p) {
    if (!e.is_matrix) return;
    const PackedLayout l = layout_of(e.precision, e.rows, e.cols);
    p = {at, l.line_plane_bytes, 0, l.scale_plane_bytes};
    at += l.line_plane_bytes;
  });
  each([&](const PackedExtent& e, PackedPlace& p) {
    if (e.is_matrix) return;
    p = {at, e.bytes, 0, 0};
    at += packed_tensor_bytes(e.bytes);
  });
  for (const bool grouped : {false, true})
    each([&](const PackedExtent& e, PackedPlace& p) {
      if (!e.is_matrix || has_group_scales(e.precision) != grouped) return;
      p.scales = at;
      at += p.scales_bytes;
    });
  return at;
}

/// Calls sink(bytes) for the whole payload, in order, padding included; stops at the first error.
template <class Sink>
Result<void> for_each_plane(std::span<const PackedItem> items, std::span<const PackedPlace> places, Sink&& sink) {
  static constexpr std::byte zeros[64] = {};
  for (std::size_t i = 0; i < items.size(); ++i)
    if (items[i].matrix.lines)
      KLENS_OK(sink(
          std::span(reinterpret_cast<const std::byte*>(items[i].matrix.lines), std::size_t(places[i].lines_bytes))));
  for (const PackedItem& item : items)
    if (!item.matrix.lines) {
      const std::int64_t bytes = std::int64_t(item.data.size());
      KLENS_OK(sink(item.data));
      KLENS_OK(sink(std::span(zeros, std::size_t(packed_tensor_bytes(bytes) - bytes))));
    }
  for (const bool grouped : {false, true})
    for (std::size_t i = 0; i < items.size(); ++i)
      if (items[i].matrix.lines && has_group_scales(items[i].matrix.precision) == grouped)
        KLENS_OK(sink(
            std::span(static_cast<const std::byte*>(items[i].matrix.scales), std::size_t(places[i].scales_bytes))));
  return {};
}

inline Result<PackedExtent> extent_to_write(const std::string& path, const PackedItem& item) {
  const std::string where = path + ": entry '" + item.name + "'";
  if (item.matrix.lines) {
    const PackedMatrix& m = item.matrix;
    if (!storable(m.precision.weight_bits, m.precision.scheme))
      return Error{ErrorCode::unsupported, where, "a format with a packed layout", "none"};
    if (m.rows < 1 || m.cols < 1 || m.rows > packed_max_extent || m.cols > packed_max_extent)
      return Error{ErrorCode::shape, where, "1.." + std::to_string(packed_max_extent) + " rows and columns",
                   std::to_string(m.rows) + " x " + std::to_string(m.cols)};
    if (m.scales == nullptr && layout_of(m.precision, m.rows, m.cols).scale_plane_bytes > 0)
      return Error{ErrorCode::usage, where, "a plane of scales", "none"};
    return PackedExtent{true, m.precision, m.rows, m.cols, 0};
  }
  const std::optional<std::int64_t> count = element_count(item.shape);
  if (item.dtype == DType::other || !count || __int128(*count) * size_of(item.dtype) != __int128(item.data.size()))
    return Error{ErrorCode::shape, where, std::string(name_of(item.dtype)) + " " + klens::shape_text(item.shape),
                 std::to_string(item.data.size()) + " bytes"};
  return PackedExtent{false, {}, 0, 0, std::int64_t(item.data.size())};
}

}  // namespace detail

inline Result<void> write_packed(const std::string& path, const PackedInfo& info, std::span<const PackedItem> items) {
  using namespace detail;
  std::vector<PackedExtent> extents;
  std::set<std::string_view> seen;
  for (const PackedItem& item : items) {
    KLENS_TRY(const PackedExtent extent, extent_to_write(path, item));
    if (!seen.insert(item.name).second)
      return Error{ErrorCode::usage, path + ": entry '" + item.name + "'", "every name once", "it twice"};
    extents.push_back(extent);
  }
  for (const auto& [site, format] : info.sites)
    if (!parse_state(format))
      return Error{ErrorCode::usage, path + ": site '" + site + "'", "f32, f16, s16, s8 or s4", "'" + format + "'"};
  std::vector<PackedPlace> places;
  const std::int64_t payload_bytes = lay_out(extents, places);

  nlohmann::ordered_json header;
  header["config"] = info.config_json;
  header["tokenizer"] = info.tokenizer_json;
  header["plan"] = info.plan_json;
  header["provenance"] = info.provenance;
  header["shape_hash"] = hex64(info.shape_hash);
  header["sites"] = info.sites;
  if (!info.chat_json.empty()) header["chat"] = info.chat_json;
  if (!info.generation_json.empty()) header["generation"] = info.generation_json;
  header["tensors"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < items.size(); ++i) {
    const PackedItem& item = items[i];
    if (item.matrix.lines)
      header["tensors"].push_back({{"name", item.name},
                                   {"format", format_name(item.matrix.precision)},
                                   {"rows", item.matrix.rows},
                                   {"cols", item.matrix.cols},
                                   {"lines", places[i].lines},
                                   {"scales", places[i].scales}});
    else
      header["tensors"].push_back(
          {{"name", item.name}, {"dtype", name_of(item.dtype)}, {"shape", item.shape}, {"data", places[i].lines}});
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const std::exception& e) {
    return Error{ErrorCode::format, path + ": header", "texts in UTF-8", e.what()};
  }

  Checksum sum;
  KLENS_OK(for_each_plane(items, places,
                          [&](std::span<const std::byte> b) -> Result<void> { return sum.update(b), Result<void>(); }));
  PackedPreamble p{};
  std::memcpy(p.magic, packed_magic.data(), 8);
  p.version = packed_file_version;
  p.header_bytes = text.size();
  p.payload_offset = std::uint64_t(round_up(std::int64_t(64 + text.size()), packed_page));
  p.payload_bytes = std::uint64_t(payload_bytes);
  p.header_sum = checksum(text);
  p.payload_sum = sum.value();
  p.own_sum = preamble_sum(p);

  KLENS_TRY(AtomicFile file, AtomicFile::create(path));
  KLENS_OK(file.write(std::as_bytes(std::span(&p, 1))));
  KLENS_OK(file.write(text));
  KLENS_OK(file.pad_to(packed_page));
  KLENS_OK(for_each_plane(items, places, [&](std::span<const std::byte> b) { return file.write(b); }));
  return file.commit();
}

inline bool is_packed_file(const std::string& path) {
  const auto file = MappedFile::open(path);
  return file && file->text().starts_with(detail::packed_magic);
}

inline const PackedMatrix* PackedFile::matrix(std::string_view name) const {
  const auto it = matrices_.find(name);
  return it == matrices_.end() ? nullptr : &it->second;
}

inline const TensorView* PackedFile::tensor(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

inline Result<PackedFile> PackedFile::open(const std::string& path, bool verify_payload) {
  using namespace detail;
  PackedFile f;
  KLENS_TRY(f.file_, MappedFile::open(path));
  const std::span<const std::byte> bytes = f.file_.bytes();
  if (!f.file_.text().starts_with(packed_magic))
    return Error{ErrorCode::format, path, "a packed klens file", "other bytes at its start"};
  if (bytes.size() < 64) return Error{ErrorCode::format, path, "at least 64 bytes", std::to_string(bytes.size())};
  PackedPreamble p;
  std::memcpy(&p, bytes.data(), 64);
  const auto mismatch = [&](std::string_view part, std::uint64_t want, std::uint64_t got) {
    return Error{ErrorCode::format, path + ": " + std::string(part), "checksum " + hex64(want),
                 hex64(got) + " (the file is damaged)"};
  };
  if (p.version > packed_file_version || p.version == 0)
    return Error{ErrorCode::unsupported, path, "version " + std::to_string(packed_file_version),
                 std::to_string(p.version)};
  if (const std::uint64_t got = preamble_sum(p); got != p.own_sum) return mismatch("bytes 0..63", p.own_sum, got);
  if (p.header_bytes > bytes.size() - 64)
    return Error{ErrorCode::format, path + ": header", std::to_string(p.header_bytes) + " bytes",
                 std::to_string(bytes.size() - 64)};
  const std::uint64_t offset = std::uint64_t(round_up(std::int64_t(64 + p.header_bytes), packed_page));
  if (p.zero != 0 || p.payload_offset != offset)
    return Error{ErrorCode::format, path + ": payload", "offset " + std::to_string(offset),
                 std::to_string(p.payload_offset)};
  if (offset > bytes.size() || p.payload_bytes != bytes.size() - offset)
    return Error{ErrorCode::format, path + ": payload", std::to_string(p.payload_bytes) + " bytes",
                 std::to_string(offset > bytes.size() ? 0 : bytes.size() - offset)};
  const std::string_view text = f.file_.text().substr(64, p.header_bytes);
  if (const std::uint64_t got = checksum(text); got != p.header_sum) return mismatch("header", p.header_sum, got);
  const std::span<const std::byte> payload = bytes.subspan(offset);
  if (verify_payload)
    if (const std::uint64_t got = checksum(payload); got != p.payload_sum)
      return mismatch("payload", p.payload_sum, got);
  f.payload_bytes_ = std::int64_t(p.payload_bytes);
  f.payload_checksum_ = p.payload_sum;
  KLENS_OK(f.read_header(text, payload));
  return f;
}

inline Result<void> PackedFile::read_header(std::string_view text, std::span<const std::byte> payload) {
  using namespace detail;
  const std::string place = path() + ": header";
  KLENS_TRY(const Json header, parse_json(text, place));
  KLENS_TRY(info_.config_json, json_string(header, "config", place));
  KLENS_TRY(info_.tokenizer_json, json_string(header, "tokenizer", place));
  KLENS_TRY(info_.plan_json, json_string(header, "plan", place));
  KLENS_TRY(info_.provenance, json_string(header, "provenance", place));
  KLENS_TRY(info_.chat_json, json_string_or(header, "chat", place, ""));
  KLENS_TRY(info_.generation_json, json_string_or(header, "generation", place, ""));
  KLENS_TRY(const std::string hash, json_string(header, "shape_hash", place));
  for (char c : hash) {
    const std::size_t digit = std::string_view("0123456789abcdef").find(c);
    if (hash.size() != 16 || digit == std::string_view::npos)
      return Error{ErrorCode::format, place + ": 'shape_hash'", "16 hexadecimal digits", "'" + clip(hash, 40) + "'"};
    info_.shape_hash = info_.shape_hash << 4 | digit;
  }
  if (hash.empty()) return Error{ErrorCode::format, place + ": 'shape_hash'", "16 hexadecimal digits", "''"};
  KLENS_TRY(const Json* const sites, json_object(header, "sites", place));
  for (const auto& [site, value] : sites->items()) {
    if (!value.is_string() || !parse_state(value.get_ref<const std::string&>()))
      return Error{ErrorCode::format, place + ": site '" + clip(site, 120) + "'", "f32, f16, s16, s8 or s4", describe(value)};
    info_.sites.emplace(site, value.get_ref<const std::string&>());
  }
  KLENS_TRY(const Json* const table, json_array(header, "tensors", place));
  std::vector<PackedExtent> extents;
  for (std::size_t i = 0; i < table->size(); ++i)
    KLENS_OK(read_entry((*table)[i], place + ": tensors[" + std::to_string(i) + "]"));
  for (const std::string& name : names_) {
    const PackedMatrix* m = matrix(name);
    extents.push_back(m ? PackedExtent{true, m->precision, m->rows, m->cols, 0}
                        : PackedExtent{false, {}, 0, 0, tensor(name)->count() * size_of(tensor(name)->dtype)});
  }
  // Sizes are bounded entry by entry; their sum too must not wrap before it is compared with the file.
  __int128 total = 0;
  for (const PackedExtent& e : extents)
    total += e.is_matrix ? packed_bytes(e.precision, e.rows, e.cols) : packed_tensor_bytes(e.bytes);
  if (total != __int128(payload.size()))
    return Error{ErrorCode::shape, place + ": tensors", std::to_string(payload.size()) + " bytes, as in the file",
                 total > (__int128(1) << 62) ? "more than 2^62" : std::to_string(std::int64_t(total))};
  std::vector<PackedPlace> places;
  lay_out(extents, places);
  for (std::size_t i = 0; i < names_.size(); ++i) {
    const Json& entry = (*table)[i];
    const std::string where = place + ": tensor '" + clip(names_[i], 120) + "'";
    const auto expect = [&](const char* key, std::int64_t want) -> Result<void> {
      KLENS_TRY(const std::int64_t got, json_int(entry, key, where));
      if (got != want)
        return Error{ErrorCode::format, where + ": '" + key + "'", "offset " + std::to_string(want),
                     std::to_string(got)};
      return {};
    };
    if (extents[i].is_matrix) {
      KLENS_OK(expect("lines", places[i].lines));
      KLENS_OK(expect("scales", places[i].scales));
      PackedMatrix& m = matrices_.find(names_[i])->second;
      m.lines = reinterpret_cast<const unsigned char*>(payload.data() + places[i].lines);
      m.scales = places[i].scales_bytes ? payload.data() + places[i].scales : nullptr;
    } else {
      KLENS_OK(expect("data", places[i].lines));
      tensors_.find(names_[i])->second.data =
          payload.subspan(std::size_t(places[i].lines), std::size_t(places[i].lines_bytes));
    }
  }
  return {};
}

/// Reads name, format or type, and extents; places come when all entries are known.
inline Result<void> PackedFile::read_entry(const Json& entry, const std::string& where) {
  using namespace detail;
  KLENS_TRY(const std::string name, json_string(entry, "name", where));
  const std::string place = where + " '" + clip(name, 120) + "'";
  if (matrix(name) || tensor(name)) return Error{ErrorCode::format, place, "every name once", "it twice"};
  if (entry.contains("format")) {
    KLENS_TRY(const std::string format, json_string(entry, "format", place));
    const std::optional<Precision> precision = parse_format(format);
    if (!precision) return Error{ErrorCode::unsupported, place, "a format name", "'" + clip(format, 40) + "'"};
    PackedMatrix m;
    m.precision = *precision;
    KLENS_TRY(const std::int64_t rows, json_int(entry, "rows", place, 1, packed_max_extent));
    KLENS_TRY(const std::int64_t cols, json_int(entry, "cols", place, 1, packed_max_extent));
    m.rows = std::int32_t(rows);
    m.cols = std::int32_t(cols);
    matrices_.emplace(name, m);
  } else {
    TensorView t;
    t.name = name;
    t.file = path();
    KLENS_TRY(t.dtype_name, json_string(entry, "dtype", place));
    t.dtype = parse_dtype(t.dtype_name);
    if (t.dtype == DType::other)
      return Error{ErrorCode::unsupported, place, "a known element type", "'" + clip(t.dtype_name, 40) + "'"};
    KLENS_TRY(t.shape, json_ints(entry, "shape", place, 0, std::int64_t(1) << 40, 32));
    const std::optional<std::int64_t> count = element_count(t.shape);
    if (!count || *count > std::int64_t(1) << 56)
      return Error{ErrorCode::overflow, place, "a shape that fits in memory", shape_text(t.shape)};
    tensors_.emplace(name, std::move(t));
  }
  names_.push_back(name);
  return {};
}

}  // namespace klens
