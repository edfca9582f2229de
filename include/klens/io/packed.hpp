// model.klens: a model packed for the kernels, mapped as it lies in the file. Little-endian.
//
//   byte 0   8   magic "klens\x1a\r\n"           (a text-mode transfer breaks it visibly)
//        8   4   version, packed_file_version
//       12   4   0
//       16   8   header bytes
//       24   8   payload offset, the next multiple of 4096 after the header
//       32   8   payload bytes = "bytes" of every table and budget
//       40   8   XXH64 of the header, 48: of the payload, 56: of bytes 0..55
//       64       header, JSON: config, tokenizer, plan (texts), shape_hash, provenance, sites, tensors; chat and
//                generation (texts), where there are any. Other keys mean nothing
//   payload      line planes | small tensors, each padded to 64 bytes | row-scale planes | group-scale planes
//
// The order of the payload keeps line planes, tensors and row scales at multiples of 64 bytes and group scales at
// multiples of 32 without any gap, so payload = sum of packed_bytes(matrix) + sum of round_up(tensor bytes, 64).
#pragma once

#include <klens/format/dline.hpp>
#include <klens/io/json.hpp>
#include <klens/io/mapped_file.hpp>
#include <klens/io/tensor.hpp>

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// What a packed file says beside its numbers. All texts may be empty.
struct PackedInfo {
  std::string config_json;       // of the checkpoint: parse_config rebuilds the model from it
  std::string tokenizer_json;    // Tokenizer::parse
  std::string plan_json;         // the plan it was packed for; empty for a uniform format
  std::string provenance;        // who made it of what, for people
  std::uint64_t shape_hash = 0;  // of the model's Shape; a specialised program compares it
  std::map<std::string, std::string>
      sites;  // formats of states that are not f32: "model.layers.0.mamba.scan_state" -> "s8"
  std::string chat_json = {};        // ChatFolder::parse; files of before have none
  std::string generation_json = {};  // GenerationConfig::parse
};

/// One entry to write: a matrix (lines set), or a small tensor in the checkpoint's type.
struct PackedItem {
  std::string name;
  PackedMatrix matrix = {};
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape = {};
  std::span<const std::byte> data = {};
};

/// Bytes a small tensor takes in the payload.
constexpr std::int64_t packed_tensor_bytes(std::int64_t bytes) { return round_up(bytes, 64); }

/// Bytes of the payload that write_packed makes of these items.
inline std::int64_t packed_payload_bytes(std::span<const PackedItem> items) {
  std::int64_t total = 0;
  for (const PackedItem& item : items)
    total += item.matrix.lines ? packed_bytes(item.matrix.precision, item.matrix.rows, item.matrix.cols)
                               : packed_tensor_bytes(std::int64_t(item.data.size()));
  return total;
}

/// Writes the file (beside, then renamed). Errors: a matrix without a packed layout, a tensor whose bytes do not fit
/// its shape.
inline Result<void> write_packed(const std::string& path, const PackedInfo& info, std::span<const PackedItem> items);

/// True if the file begins like a packed one.
inline bool is_packed_file(const std::string& path);

/// A mapped packed file. Views stay valid while it (or what it was moved to) lives.
class PackedFile {
 public:
  /// Verifies header and layout; the payload's checksum too, unless told not to (3 GB/s).
  static Result<PackedFile> open(const std::string& path, bool verify_payload = true);

  const PackedMatrix* matrix(std::string_view name) const;          // nullptr: no matrix of that name
  const TensorView* tensor(std::string_view name) const;            // nullptr: no small tensor of that name
  const std::vector<std::string>& names() const { return names_; }  // all entries, in the order written
  const PackedInfo& info() const { return info_; }
  std::int64_t payload_bytes() const { return payload_bytes_; }
  std::uint64_t payload_checksum() const { return payload_checksum_; }
  const std::string& path() const { return file_.path(); }

 private:
  PackedFile() = default;
  Result<void> read_header(std::string_view text, std::span<const std::byte> payload);
  Result<void> read_entry(const Json& entry, const std::string& where);

  MappedFile file_;
  PackedInfo info_;
  std::vector<std::string> names_;
  std::map<std::string, PackedMatrix, std::less<>> matrices_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::int64_t payload_bytes_ = 0;
  std::uint64_t payload_checksum_ = 0;
};

}  // namespace klens

#include <klens/io/packed_impl.hpp>
