// A session on disk: token ids, and the states they left in the layers of a model. Little-endian.
//
//   byte 0   8   magic "klses\x1a\r\n"             (a text-mode transfer breaks it visibly)
//        8   4   version, session_file_version
//       12   4   number of sections
//       16   8   bytes of the file
//       24   8   XXH64 of everything from byte 64 on
//       32  24   0
//       56   8   XXH64 of bytes 0..55
//       64       sections, each padded with zeros to a multiple of 64 bytes:
//                  4   tag   4  0   8  bytes of content      48  head (see below)     then the content
//   "MODL"  head: shape hash, weights hash, position (8 bytes each)        content: what the model was, for people
//   "TOKN"                                                                 content: int32 ids
//   "LOGI"                                                                 content: f32 logits after the last token
//   "STAT"  head: int32 layer, uint32 kind, 8 bytes format name, 4 x int64 dims    content: the state (StatePart)
//
// A reader skips a section whose tag it does not know and whose first letter is small: newer writers may add such; a
// capital letter says that the state cannot be used without it. The version changes only where the frame does. Equal
// states give equal bytes. Nothing of a file is believed before its checksum, and no size before it is compared with
// the file's own. Test: tests/io/session_file.cpp.
#pragma once

#include <klens/core/rows.hpp>
#include <klens/io/atomic_file.hpp>
#include <klens/io/checksum.hpp>
#include <klens/io/json.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// Version of the session file; readers refuse a newer one.
inline constexpr std::uint32_t session_file_version = 1;

enum class StatePartKind : std::uint32_t { scan = 1, conv = 2, k = 3, v = 4, k_scale = 5, v_scale = 6 };

constexpr std::string_view name_of(StatePartKind kind) {
  switch (kind) {
    case StatePartKind::scan: return "scan";
    case StatePartKind::conv: return "conv";
    case StatePartKind::k: return "k";
    case StatePartKind::v: return "v";
    case StatePartKind::k_scale: return "k_scale";
    case StatePartKind::v_scale: return "v_scale";
  }
  return "unknown";
}

/// One state of one layer, as kernels hold it (kernel/sequence_args.hpp), with its scales; of K and V, whose scales are
/// parts of their own, only the positions in use. Padding is zero.
struct StatePart {
  std::int32_t layer = 0;
  StatePartKind kind = StatePartKind::scan;
  std::string format = "f32";             // 1 to 8 letters and digits: f32, f16, s8, ...
  std::array<std::int64_t, 4> dims = {};  // outermost first; 1 where there are fewer
  std::vector<std::byte> bytes = {};
  bool operator==(const StatePart&) const = default;
};

/// Everything that a sequence left behind. Owns its bytes.
struct SessionState {
  std::uint64_t shape_hash = 0, weights_hash = 0;  // of the model it belongs to (model/session_state.hpp)
  std::string made_with = {};                      // the model's formats, for people: "w4g32"
  std::int64_t position = 0;                       // positions in use, meta tokens counted
  std::vector<std::int32_t> ids = {};              // all tokens
  std::vector<float> logits = {};                  // after the last token; none where ids is empty
  std::vector<StatePart> parts = {};
  bool operator==(const SessionState&) const = default;

  /// Payload of the state and of the file, nearly.
  std::int64_t bytes() const {
    std::int64_t total = std::int64_t(4 * (ids.size() + logits.size()));
    for (const StatePart& p : parts) total += std::int64_t(p.bytes.size());
    return total;
  }
};

namespace detail {

inline constexpr std::string_view session_magic{"klses\x1a\r\n", 8};
inline constexpr std::int64_t session_max_extent = std::int64_t(1) << 40;

struct SessionPreamble {
  char magic[8];
  std::uint32_t version, sections;
  std::uint64_t bytes, sum;
  std::uint64_t zero[3];
  std::uint64_t own_sum;
};
struct SessionSection {
  char tag[4];
  std::uint32_t zero;
  std::uint64_t bytes;
  char head[48];
};
struct SessionModelHead {
  std::uint64_t shape_hash, weights_hash;
  std::int64_t position;
};
struct SessionStateHead {
  std::int32_t layer;
  std::uint32_t kind;
  char format[8];
  std::int64_t dims[4];
};
static_assert(sizeof(SessionPreamble) == 64 && sizeof(SessionSection) == 64 && sizeof(SessionStateHead) == 48,
              "klens: structures of a session file have these sizes on disk");

inline bool is_format_word(std::string_view text) {
  return !text.empty() && text.size() <= 8 &&
         std::ranges::all_of(text, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); });
}

template <class Head>
SessionSection section_of(std::string_view tag, const Head& head, std::size_t bytes) {
  SessionSection s = {};
  std::memcpy(s.tag, tag.data(), 4);
  std::memcpy(s.head, &head, sizeof head);
  s.bytes = bytes;
  return s;
}

/// Calls sink(bytes) for everything from byte 64 on, in order.
template <class Sink>
Result<void> for_each_section(const SessionState& state, Sink&& sink) {
  static constexpr std::byte zeros[64] = {};
  const auto put = [&](const SessionSection& section, std::span<const std::byte> content) -> Result<void> {
    KLENS_OK(sink(std::as_bytes(std::span(&section, 1))));
    KLENS_OK(sink(content));
    return sink(std::span(zeros, std::size_t(round_up(std::int64_t(content.size()), 64)) - content.size()));
  };
  const auto bytes_of = [](const auto& values) { return std::as_bytes(std::span(values.data(), values.size())); };
  const SessionModelHead model{state.shape_hash, state.weights_hash, state.position};
  KLENS_OK(put(section_of("MODL", model, state.made_with.size()), bytes_of(state.made_with)));
  KLENS_OK(put(section_of("TOKN", '\0', 4 * state.ids.size()), bytes_of(state.ids)));
  KLENS_OK(put(section_of("LOGI", '\0', 4 * state.logits.size()), bytes_of(state.logits)));
  for (const StatePart& p : state.parts) {
    SessionStateHead head = {};
    head.layer = p.layer, head.kind = std::uint32_t(p.kind);
    std::copy(p.format.begin(), p.format.end(), head.format);
    std::copy(p.dims.begin(), p.dims.end(), head.dims);
    KLENS_OK(put(section_of("STAT", head, p.bytes.size()), p.bytes));
  }
  return {};
}

}  // namespace detail

/// Writes a state (beside, then renamed).
inline Result<void> write_session_file(const std::string& path, const SessionState& state) {
  using namespace detail;
  for (const StatePart& p : state.parts)
    if (!is_format_word(p.format))
      return Error{ErrorCode::usage, path + ": state", "a format of 1 to 8 letters and digits",
                   "'" + clip(p.format, 40) + "'"};
  SessionPreamble preamble = {};
  std::memcpy(preamble.magic, session_magic.data(), 8);
  preamble.version = session_file_version;
  preamble.sections = std::uint32_t(3 + state.parts.size());
  Checksum sum;
  std::uint64_t size = 64;
  KLENS_OK(for_each_section(state, [&](std::span<const std::byte> bytes) -> Result<void> {
    sum.update(bytes);
    size += bytes.size();
    return {};
  }));
  preamble.bytes = size, preamble.sum = sum.value();
  preamble.own_sum = checksum(std::as_bytes(std::span(&preamble, 1)).first(56));
  KLENS_TRY(AtomicFile file, AtomicFile::create(path));
  KLENS_OK(file.write(std::as_bytes(std::span(&preamble, 1))));
  KLENS_OK(for_each_section(state, [&](std::span<const std::byte> bytes) { return file.write(bytes); }));
  return file.commit();
}

namespace detail {

/// Reads one section into the state; `content` has the size that its frame gives.
inline Result<void> read_section(const SessionSection& s, std::span<const std::byte> content, const std::string& where,
                                 SessionState& state) {
  const std::string_view tag(s.tag, 4);
  const auto copy = [&](auto& to, std::string_view what) -> Result<void> {
    using Value = typename std::remove_reference_t<decltype(to)>::value_type;
    if (!to.empty()) return Error{ErrorCode::format, where, std::string(what) + " once", "them twice"};
    if (content.size() % sizeof(Value) != 0)
      return Error{ErrorCode::format, where, "a multiple of " + std::to_string(sizeof(Value)) + " bytes",
                   std::to_string(content.size())};
    to.resize(content.size() / sizeof(Value));
    if (!content.empty()) std::memcpy(to.data(), content.data(), content.size());
    return {};
  };
  if (tag == "MODL") {
    SessionModelHead head;
    std::memcpy(&head, s.head, sizeof head);
    if (content.size() > 4096)
      return Error{ErrorCode::format, where, "at most 4096 bytes", std::to_string(content.size())};
    if (head.position < 0)
      return Error{ErrorCode::format, where + ": position", "0 or more", std::to_string(head.position)};
    state.shape_hash = head.shape_hash, state.weights_hash = head.weights_hash, state.position = head.position;
    return copy(state.made_with, "formats");
  }
  if (tag == "TOKN") return copy(state.ids, "tokens");
  if (tag == "LOGI") return copy(state.logits, "logits");
  if (tag == "STAT") {
    SessionStateHead head;
    std::memcpy(&head, s.head, sizeof head);
    StatePart p;
    p.layer = head.layer, p.kind = StatePartKind(head.kind);
    p.format = std::string(head.format, strnlen(head.format, sizeof head.format));
    std::copy(std::begin(head.dims), std::end(head.dims), p.dims.begin());
    if (head.kind < 1 || head.kind > 6)
      return Error{ErrorCode::unsupported, where + ": kind", "1 to 6", std::to_string(head.kind)};
    if (p.layer < 0) return Error{ErrorCode::format, where + ": layer", "0 or more", std::to_string(p.layer)};
    if (!is_format_word(p.format))
      return Error{ErrorCode::format, where + ": format", "1 to 8 letters and digits", "others"};
    for (const std::int64_t d : p.dims)
      if (d < 0 || d > session_max_extent)
        return Error{ErrorCode::format, where + ": dims", "0 to 2^40", std::to_string(d)};
    p.bytes.assign(content.begin(), content.end());
    state.parts.push_back(std::move(p));
    return {};
  }
  if (tag[0] >= 'a' && tag[0] <= 'z') return {};
  std::string shown;
  for (const char c : tag) shown += c > 32 && c < 127 ? c : '?';
  return Error{ErrorCode::unsupported, where, "a section that this version knows", "'" + shown + "'"};
}

}  // namespace detail

/// Reads a state; whether it fits a model is Session::restore's question. Memory: at most the size of the file.
inline Result<SessionState> read_session_file(const std::string& path) {
  using namespace detail;
  KLENS_TRY(const MappedFile file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file.bytes();
  if (!file.text().starts_with(session_magic))
    return Error{ErrorCode::format, path, "a klens session", "other bytes at its start"};
  if (bytes.size() < 64) return Error{ErrorCode::format, path, "at least 64 bytes", std::to_string(bytes.size())};
  SessionPreamble p;
  std::memcpy(&p, bytes.data(), 64);
  if (p.version > session_file_version || p.version == 0)
    return Error{ErrorCode::unsupported, path, "version " + std::to_string(session_file_version),
                 std::to_string(p.version)};
  const auto mismatch = [&](std::string_view part, std::uint64_t want, std::uint64_t got) {
    return Error{ErrorCode::format, path + ": " + std::string(part), "checksum " + hex64(want),
                 hex64(got).append(" (the file is damaged)")};
  };
  if (const std::uint64_t got = checksum(bytes.first(56)); got != p.own_sum)
    return mismatch("bytes 0..63", p.own_sum, got);
  if (p.bytes != bytes.size())
    return Error{ErrorCode::format, path, std::to_string(p.bytes) + " bytes", std::to_string(bytes.size())};
  if (const std::uint64_t got = checksum(bytes.subspan(64)); got != p.sum) return mismatch("sections", p.sum, got);

  SessionState state;
  std::size_t at = 64;
  bool has_model = false;
  for (std::uint32_t i = 0; i < p.sections; ++i) {
    const std::string where = path + ": section " + std::to_string(i);
    if (bytes.size() - at < 64) return Error{ErrorCode::format, where, "64 bytes", std::to_string(bytes.size() - at)};
    SessionSection section;
    std::memcpy(&section, bytes.data() + at, 64);
    at += 64;
    if (section.bytes > bytes.size() - at)
      return Error{ErrorCode::format, where, std::to_string(section.bytes) + " bytes",
                   std::to_string(bytes.size() - at)};
    const std::size_t padded = std::size_t(round_up(std::int64_t(section.bytes), 64));
    if (padded > bytes.size() - at)
      return Error{ErrorCode::format, where, "padding to 64 bytes", "the end of the file"};
    if (std::string_view(section.tag, 4) == "MODL" && std::exchange(has_model, true))
      return Error{ErrorCode::format, where, "one model", "two"};
    KLENS_OK(read_section(section, bytes.subspan(at, std::size_t(section.bytes)), where, state));
    at += padded;
  }
  if (at != bytes.size())
    return Error{ErrorCode::format, path, "nothing after its sections", std::to_string(bytes.size() - at) + " bytes"};
  if (!has_model) return Error{ErrorCode::missing, path, "a section 'MODL'", "none"};
  return state;
}

}  // namespace klens
