// Session files: round trip, what a newer version may add, and refusing.
#include "io/fuzz.hpp"

#include <klens/io/session_file.hpp>

using namespace klens;

namespace {

StatePart part(int layer, StatePartKind kind, const char* format, std::array<std::int64_t, 4> dims, std::size_t bytes) {
  StatePart p{layer, kind, format, dims, std::vector<std::byte>(bytes)};
  for (std::size_t i = 0; i < bytes; ++i) p.bytes[i] = std::byte(unsigned(layer * 31 + int(kind) * 7) + i * 13);
  return p;
}

SessionState sample() {
  SessionState s;
  s.shape_hash = 0xfedcba9876543210u, s.weights_hash = 0x123456789abcdef0u, s.made_with = "w4g32";
  s.position = 19;
  s.ids = {5, 0, 4095};
  s.logits = {1.5f, -0.0f, 3e-40f, -2};
  s.parts.push_back(part(0, StatePartKind::scan, "f32", {2, 3, 16, 1}, 384));
  s.parts.push_back(part(0, StatePartKind::conv, "s16", {3, 32, 1, 1}, 195));
  s.parts.push_back(part(0, StatePartKind::k, "f32", {1, 2, 1, 16}, 128));
  s.parts.push_back(part(0, StatePartKind::v, "s4", {1, 19, 16, 1}, 1));
  s.parts.push_back(part(7, StatePartKind::scan, "f16", {0, 1, 1, 1}, 0));
  return s;
}

/// Signs a file again, so that what is inside is judged and not the checksum.
std::string signed_again(std::string file) {
  detail::SessionPreamble p;
  std::memcpy(&p, file.data(), 64);
  p.bytes = file.size();
  p.sum = checksum(std::string_view(file).substr(64));
  p.own_sum = checksum(std::as_bytes(std::span(&p, 1)).first(56));
  std::memcpy(file.data(), &p, 64);
  return file;
}

std::string with_section(std::string file, const detail::SessionSection& section, std::string content) {
  content.resize(std::size_t(round_up(std::int64_t(content.size()), 64)));
  file.append(reinterpret_cast<const char*>(&section), 64);
  file += content;
  std::uint32_t count;
  std::memcpy(&count, file.data() + 12, 4);
  ++count;
  std::memcpy(file.data() + 12, &count, 4);
  return signed_again(std::move(file));
}

std::string error_of(const std::string& path, const std::string& content) {
  test::put(path, content);
  const auto state = read_session_file(path);
  return state ? std::string() : state.error().message().substr(path.size());
}

}  // namespace

TEST_CASE("session file: round trip, equal bytes for equal states") {
  test::TempFolder dir;
  const std::string path = dir / "a.session";
  const SessionState state = sample();
  REQUIRE(write_session_file(path, state));
  const auto read = read_session_file(path);
  REQUIRE_MESSAGE(read, read.error().message());
  CHECK(*read == state);
  const std::string first = test::get(path);
  CHECK(first.size() % 64 == 0);
  CHECK(first.substr(0, 8) == "klses\x1a\r\n");
  REQUIRE(write_session_file(path, state));
  CHECK(test::get(path) == first);
  REQUIRE(write_session_file(path, {}));
  CHECK(*read_session_file(path) == SessionState{});
  CHECK(state.bytes() == 12 + 16 + 384 + 195 + 128 + 1);

  // Tripwire: the comparison sees one bit.
  SessionState changed = state;
  changed.parts[1].bytes[100] ^= std::byte(1);
  CHECK_FALSE(changed == state);
  REQUIRE(write_session_file(path, changed));
  CHECK(test::get(path) != first);
}

TEST_CASE("session file: a section of a newer version is skipped or refused, as its first letter says") {
  test::TempFolder dir;
  const std::string path = dir / "a.session";
  REQUIRE(write_session_file(path, sample()));
  const std::string good = test::get(path);
  test::put(path, with_section(good, detail::section_of("note", '\0', 100), std::string(100, 'x')));
  const auto read = read_session_file(path);
  REQUIRE_MESSAGE(read, read.error().message());
  CHECK(*read == sample());
  CHECK(error_of(path, with_section(good, detail::section_of("NOTE", '\0', 100), std::string(100, 'x'))) ==
        ": section 8: expected a section that this version knows, found 'NOTE'");
  CHECK(error_of(path, with_section(good, detail::section_of("\xff\n A", '\0', 0), "")).find("found '???A'") !=
        std::string::npos);
  std::string newer = good;
  newer[8] = 2;
  CHECK(error_of(path, newer) == ": expected version 1, found 2");
}

TEST_CASE("session file: every flipped bit and every cut is noticed") {
  test::TempFolder dir;
  const std::string path = dir / "a.session";
  REQUIRE(write_session_file(path, sample()));
  const std::string good = test::get(path);
  test::Mutator random(11);
  const int count = test::fuzz_count(500);
  for (int i = 0; i < count; ++i) {
    const std::size_t at = i % 2 ? random.below(256) : random.below(good.size());
    CAPTURE(at);
    std::string bad = good;
    bad[at] = char(bad[at] ^ (1 << random.below(8)));
    for (const std::string& content : {bad, good.substr(0, random.below(good.size()))}) {
      test::put(path, content);
      const auto state = read_session_file(path);
      REQUIRE_FALSE(state);
      test::check_clear(state.error().message(), path);
    }
  }
  test::put(path, good + "x");
  CHECK_FALSE(read_session_file(path));
  CHECK(error_of(path, "GGUF").find(": expected a klens session, found other bytes at its start") == 0);
  CHECK_FALSE(read_session_file(dir / "none"));
  CHECK_FALSE(read_session_file(dir.path()));
}

TEST_CASE("session file: hostile content with a proper checksum") {
  test::TempFolder dir;
  const std::string path = dir / "a.session";
  REQUIRE(write_session_file(path, sample()));
  const std::string good = test::get(path);
  const auto number = [&](std::size_t at, std::uint64_t value, std::size_t bytes) {
    std::string bad = good;
    std::memcpy(bad.data() + at, &value, bytes);
    return error_of(path, signed_again(bad));
  };
  // MODL at 64, its text (64 bytes) at 128; TOKN at 192, ids at 256; LOGI at 320, 384; STAT at 448 with head at 464.
  CHECK(
      number(64 + 8, std::uint64_t(1) << 63, 8).starts_with(": section 0: expected 9223372036854775808 bytes, found "));
  CHECK(number(64 + 8, ~std::uint64_t(0), 8).starts_with(": section 0: expected 18446744073709551615 bytes, found "));
  CHECK(number(64 + 32, ~std::uint64_t(0), 8) == ": section 0: position: expected 0 or more, found -1");
  CHECK(number(192 + 8, 11, 8) == ": section 1: expected a multiple of 4 bytes, found 11");
  CHECK(number(464, 0x80000000u, 4) == ": section 3: layer: expected 0 or more, found -2147483648");
  CHECK(number(468, 9, 4) == ": section 3: kind: expected 1 to 6, found 9");
  CHECK(number(472, 0, 8) == ": section 3: format: expected 1 to 8 letters and digits, found others");
  CHECK(number(472, 0x0a323366, 8) == ": section 3: format: expected 1 to 8 letters and digits, found others");
  CHECK(number(480, ~std::uint64_t(0), 8) == ": section 3: dims: expected 0 to 2^40, found -1");
  CHECK(number(480, std::uint64_t(1) << 62, 8).starts_with(": section 3: dims: expected 0 to 2^40, found "));
  CHECK(number(12, 7, 4).starts_with(": expected nothing after its sections, found "));
  CHECK(number(12, 9, 4) == ": section 8: expected 64 bytes, found 0");
  CHECK(number(12, 0xffffffffu, 4) == ": section 8: expected 64 bytes, found 0");
  CHECK(number(64, 0x65746f6e, 4) == ": expected a section 'MODL', found none");  // "note"
  CHECK(error_of(path, with_section(good, detail::section_of("MODL", '\0', 0), "")) ==
        ": section 8: expected one model, found two");
  CHECK(error_of(path, with_section(good, detail::section_of("TOKN", '\0', 4), "abcd")) ==
        ": section 8: expected tokens once, found them twice");

  SessionState bad = sample();
  bad.parts[0].format = "no format";
  CHECK(write_session_file(dir / "b", bad).error().message().find("a format of 1 to 8 letters and digits") !=
        std::string::npos);
  CHECK_FALSE(std::filesystem::exists(dir / "b"));

  test::Mutator mutate(77);
  const int count = test::fuzz_count(500);
  int refused = 0;
  test::reset_largest_allocation();
  for (int i = 0; i < count; ++i) {
    std::string damaged = mutate(good, 900);
    if (damaged.size() < 64) damaged.resize(64);
    damaged.replace(0, 12, good, 0, 12);  // magic and version: what comes after them is the target
    test::put(path, signed_again(damaged));
    const auto state = read_session_file(path);
    if (state) {
      CHECK(state->bytes() <= std::int64_t(damaged.size()));
      continue;
    }
    ++refused;
    test::check_clear(state.error().message(), path);
  }
  CHECK(refused > count / 4);
  CHECK(test::largest_allocation() < (1 << 16));
}
