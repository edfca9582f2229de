// Mapped and atomically written files; the checksum.
#include "io/fuzz.hpp"

#include <klens/io/atomic_file.hpp>
#include <klens/io/checksum.hpp>
#include <klens/io/mapped_file.hpp>

#include <sys/stat.h>

using namespace klens;
namespace fs = std::filesystem;

static int entries(const std::string& folder) { return int(std::distance(fs::directory_iterator(folder), {})); }

TEST_CASE("mapped file: content, moves, what is not a file") {
  test::TempFolder dir;
  test::put(dir / "a", "hello");
  auto a = MappedFile::open(dir / "a");
  REQUIRE(a);
  const std::byte* data = a->bytes().data();
  MappedFile moved = *std::move(a);
  CHECK(moved.text() == "hello");
  CHECK(moved.bytes().data() == data);
  test::put(dir / "empty", "");
  auto empty = MappedFile::open(dir / "empty");
  REQUIRE(empty);
  CHECK(empty->bytes().empty());
  CHECK(MappedFile::open(dir / "none").error().message() ==
        (dir / "none") + ": cannot open: No such file or directory");
  CHECK(MappedFile::open(dir.path()).error().message() == dir.path() + ": expected a regular file, found a folder");
  REQUIRE(mkfifo((dir / "pipe").c_str(), 0600) == 0);
  CHECK_FALSE(MappedFile::open(dir / "pipe"));  // and does not wait for a writer
  CHECK_FALSE(MappedFile::open(std::string("a\0b", 3)));
  CHECK(read_text(dir / "a", 4).error().message() == (dir / "a") + ": expected at most 4 bytes, found 5");
}

TEST_CASE("atomic file: the old file stays until commit, nothing stays behind") {
  test::TempFolder dir;
  const std::string path = dir / "out";
  REQUIRE(write_file(path, "old"));
  {
    auto file = AtomicFile::create(path);
    REQUIRE(file);
    REQUIRE(file->write(std::string(200'000, 'x')));
    CHECK(test::get(path) == "old");
    CHECK(entries(dir.path()) == 2);
  }
  CHECK(test::get(path) == "old");
  CHECK(entries(dir.path()) == 1);
  auto file = AtomicFile::create(path);
  REQUIRE(file);
  std::string want;
  for (int i = 0; i < 3000; ++i) {
    const std::string piece(std::size_t(i % 97), char('a' + i % 26));
    want += piece;
    REQUIRE(file->write(piece));
  }
  REQUIRE(file->write(std::string(100'000, 'z')));
  REQUIRE(file->pad_to(4096));
  want += std::string(100'000, 'z');
  want.resize((want.size() + 4095) / 4096 * 4096);
  CHECK(file->size() == want.size());
  REQUIRE(file->commit());
  CHECK(test::get(path) == want);
  CHECK(entries(dir.path()) == 1);
  CHECK_FALSE(file->write("late"));
}

TEST_CASE("atomic file: links, devices, places that cannot be written") {
  test::TempFolder dir;
  test::put(dir / "real", "1");
  fs::create_symlink(dir / "real", dir / "link");
  REQUIRE(write_file(dir / "link", "2"));
  CHECK(fs::is_symlink(dir / "link"));
  CHECK(test::get(dir / "real") == "2");
  fs::permissions(dir / "real", fs::perms::owner_read | fs::perms::owner_write);
  REQUIRE(write_file(dir / "real", "3"));
  CHECK((fs::status(dir / "real").permissions() & fs::perms::others_read) == fs::perms::none);
  CHECK(write_file("/dev/null", "x"));
  CHECK(fs::is_character_file("/dev/null"));
  CHECK(write_file("/dev/full", "x").error().message() == "/dev/full: cannot write: No space left on device");
  CHECK(write_file(dir / "no/file", "x").error().message() ==
        (dir / "no/file") + ": cannot write: No such file or directory");
  CHECK(write_file(dir.path(), "x").error().message() == dir.path() + ": expected a file to write, found a folder");
  CHECK_FALSE(write_file("", "x"));
  CHECK(entries(dir.path()) == 2);
}

TEST_CASE("checksum: published answers of XXH64, pieces of any size") {
  CHECK(hex64(checksum("")) == "ef46db3751d8e999");
  CHECK(hex64(checksum("abc")) == "44bc2cf5ad770999");
  CHECK(hex64(checksum("Nobody inspects the spammish repetition")) == "fbcea83c8a378bf1");
  test::Mutator random(7);
  std::string text(1000, ' ');
  for (char& c : text) c = char(random.random());
  for (int round = 0; round < 50; ++round) {
    Checksum c;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = std::min(1 + random.below(100), text.size() - at);
      c.update(std::string_view(text).substr(at, n));
      at += n;
    }
    CHECK(c.value() == checksum(text));
  }
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string flipped = text;
    flipped[i] = char(flipped[i] ^ (1 << (i % 8)));
    CHECK(checksum(flipped) != checksum(text));
  }
}
