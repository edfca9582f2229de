// The entries of a ZIP file whose content is stored, not compressed: where each one lies in the mapped file. ZIP64 and
// data descriptors as torch.save writes them (sizes come from the central directory). Every offset, size and count is
// checked against the file, and entries must not overlap. Checksums are not: torch can write files without
// (set_crc32_options). Layout: PKWARE's APPNOTE 4.3. Tests: tests/io/torch_file.cpp.
#pragma once

#include <klens/core/result.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// Bytes of every entry by its name; both lie in the mapped file.
using ZipEntries = std::map<std::string_view, std::span<const std::byte>>;

namespace detail {

/// `count` (2, 4 or 8) bytes at `at`, little endian. The caller has checked that they are there.
inline std::uint64_t zip_number(std::span<const std::byte> b, std::uint64_t at, int count) {
  std::uint64_t n = 0;
  for (int i = 0; i < count; ++i) n |= std::to_integer<std::uint64_t>(b[std::size_t(at) + std::size_t(i)]) << 8 * i;
  return n;
}

inline std::string_view zip_text(std::span<const std::byte> b, std::uint64_t at, std::uint64_t size) {
  return {reinterpret_cast<const char*>(b.data()) + at, std::size_t(size)};
}

inline constexpr std::uint32_t zip_local = 0x04034b50, zip_central = 0x02014b50, zip_end = 0x06054b50,
                               zip64_end = 0x06064b50, zip64_locator = 0x07064b50;

class StoredZip {
 public:
  StoredZip(std::span<const std::byte> file, const std::string& path) : file_(file), path_(path) {}

  Result<ZipEntries> entries() {
    KLENS_OK(find_directory());
    struct Extent {
      std::uint64_t begin, end;
      std::string_view name;
    };
    std::vector<Extent> extents;
    ZipEntries all;
    std::uint64_t at = directory_;
    for (std::uint64_t i = 0; i < count_; ++i) {
      KLENS_TRY(const Entry e, entry(at));
      extents.push_back({e.header, e.data + e.size, e.name});
      if (!all.emplace(e.name, file_.subspan(std::size_t(e.data), std::size_t(e.size))).second)
        return fault("entry '" + shown(e.name) + "'", "every name once", "a second one");
    }
    if (at != directory_ + directory_bytes_)
      return fault("directory", std::to_string(directory_bytes_) + " bytes in " + std::to_string(count_) + " entries",
                   std::to_string(at - directory_));
    std::ranges::sort(extents, [](const Extent& a, const Extent& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    for (std::size_t i = 1; i < extents.size(); ++i)
      if (extents[i].begin < extents[i - 1].end)
        return fault("entry '" + shown(extents[i].name) + "'",
                     "a place from byte " + std::to_string(extents[i - 1].end) + " on (no overlap)",
                     "byte " + std::to_string(extents[i].begin));
    return all;
  }

 private:
  struct Entry {
    std::uint64_t header = 0, data = 0, size = 0;
    std::string_view name;
  };

  std::uint64_t number(std::uint64_t at, int count) const { return zip_number(file_, at, count); }
  static std::string shown(std::string_view name) {
    std::string text(name.substr(0, 120));
    for (char& c : text)
      if (static_cast<unsigned char>(c) >= 127) c = '?';
    return text;
  }
  Error fault(std::string place, std::string expected, std::string found) const {
    return {ErrorCode::format, path_ + ": " + std::move(place), std::move(expected), std::move(found)};
  }

  /// The central directory: where, how long, how many entries.
  Result<void> find_directory() {
    const std::uint64_t size = file_.size();
    if (size < 22) return Error{ErrorCode::format, path_, "a ZIP file of at least 22 bytes", std::to_string(size)};
    // The end record is last but for a comment of up to 65535 bytes, whose length it says.
    const std::uint64_t first = size > 22 + 65535 ? size - 22 - 65535 : 0;
    std::uint64_t end = size - 22;
    while (number(end, 4) != zip_end || number(end + 20, 2) != size - 22 - end) {
      if (end == first)
        return Error{ErrorCode::format, path_, "a ZIP file, with its end record", "none: truncated, or no ZIP file"};
      --end;
    }
    if (number(end + 4, 2) != 0 || number(end + 6, 2) != 0 || number(end + 8, 2) != number(end + 10, 2))
      return fault("end record", "one volume", "several");
    count_ = number(end + 10, 2), directory_bytes_ = number(end + 12, 4), directory_ = number(end + 16, 4);
    std::uint64_t limit = end;
    if (end >= 20 && number(end - 20, 4) == zip64_locator) {
      const std::uint64_t locator = end - 20, at = number(locator + 8, 8);
      if (locator < 56 || at > locator - 56 || number(at, 4) != zip64_end)
        return fault("ZIP64 locator", "the place of the ZIP64 end record", "byte " + std::to_string(at));
      if (number(at + 4, 8) != locator - at - 12)
        return fault("ZIP64 end record", "one that ends at its locator", "another length");
      if (number(at + 16, 4) != 0 || number(at + 20, 4) != 0 || number(at + 24, 8) != number(at + 32, 8))
        return fault("ZIP64 end record", "one volume", "several");
      count_ = number(at + 32, 8), directory_bytes_ = number(at + 40, 8), directory_ = number(at + 48, 8);
      limit = at;
    }
    if (directory_ > limit || directory_bytes_ > limit - directory_)
      return fault("directory", "bytes below " + std::to_string(limit),
                   std::to_string(directory_bytes_) + " from " + std::to_string(directory_));
    if (count_ > directory_bytes_ / 46)
      return fault("directory", "at most " + std::to_string(directory_bytes_ / 46) + " entries in its bytes",
                   std::to_string(count_));
    return {};
  }

  /// The directory's entry at `at`, which moves behind it.
  Result<Entry> entry(std::uint64_t& at) const {
    const std::uint64_t end = directory_ + directory_bytes_;
    const std::string place = "directory at byte " + std::to_string(at);
    if (end - at < 46 || number(at, 4) != zip_central) return fault(place, "an entry", "none");
    const std::uint64_t name_bytes = number(at + 28, 2), extra_bytes = number(at + 30, 2),
                        comment_bytes = number(at + 32, 2);
    if (end - at - 46 < name_bytes + extra_bytes + comment_bytes)
      return fault(place, "an entry inside the directory", "one beyond its end");
    Entry e;
    e.name = zip_text(file_, at + 46, name_bytes);
    const std::string where = "entry '" + shown(e.name) + "'";
    std::uint64_t stored = number(at + 20, 4);
    e.size = number(at + 24, 4), e.header = number(at + 42, 4);
    KLENS_OK(read_zip64(e, stored, at + 46 + name_bytes, extra_bytes, where));
    if ((number(at + 8, 2) & 1) != 0) return fault(where, "plain bytes", "an encrypted entry");
    if (number(at + 10, 2) != 0)
      return fault(where, "stored bytes, as torch.save writes them",
                   "compression method " + std::to_string(number(at + 10, 2)));
    if (stored != e.size) return fault(where, std::to_string(e.size) + " stored bytes", std::to_string(stored));
    if (directory_ < 30 || e.header > directory_ - 30 || number(e.header, 4) != zip_local)
      return fault(where, "its header before the directory", "none at byte " + std::to_string(e.header));
    const std::uint64_t local_name = number(e.header + 26, 2), local_extra = number(e.header + 28, 2);
    if (directory_ - 30 - e.header < local_name + local_extra || zip_text(file_, e.header + 30, local_name) != e.name)
      return fault(where, "the same name in its header", "another");
    e.data = e.header + 30 + local_name + local_extra;
    if (e.size > directory_ - e.data)
      return fault(where, "at most " + std::to_string(directory_ - e.data) + " bytes", std::to_string(e.size));
    at += 46 + name_bytes + extra_bytes + comment_bytes;
    return e;
  }

  /// Extra field 1 holds, in this order, those of size, stored size and header's place that are all ones in the entry.
  Result<void> read_zip64(Entry& e, std::uint64_t& stored, std::uint64_t at, std::uint64_t bytes,
                          const std::string& where) const {
    constexpr std::uint64_t absent = 0xffffffff;
    while (bytes >= 4) {
      const std::uint64_t kind = number(at, 2), size = number(at + 2, 2);
      if (size > bytes - 4) return fault(where, "extra fields inside the entry", "one beyond its end");
      if (kind == 1) {
        std::uint64_t field = at + 4, left = size;
        for (std::uint64_t* value : {&e.size, &stored, &e.header}) {
          if (*value != absent) continue;
          if (left < 8) return fault(where, "its sizes in the ZIP64 field", std::to_string(size) + " bytes");
          *value = number(field, 8), field += 8, left -= 8;
        }
      }
      at += 4 + size, bytes -= 4 + size;
    }
    return {};
  }

  std::span<const std::byte> file_;
  const std::string& path_;
  std::uint64_t directory_ = 0, directory_bytes_ = 0, count_ = 0;
};

}  // namespace detail

/// All entries of a mapped ZIP file; `path` begins every error.
inline Result<ZipEntries> read_stored_zip(std::span<const std::byte> file, const std::string& path) {
  return detail::StoredZip(file, path).entries();
}

}  // namespace klens
