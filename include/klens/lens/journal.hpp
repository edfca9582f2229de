// Journal: what a measurement has finished so far, beside its output file, so that a killed run goes on where it
// stopped and the percentiles need no memory. Fixed-size records in the order of the work; each carries a checksum.
//
//   header   magic, key (hash of everything that the results depend on), record size     32 bytes
//   record   checksum, WindowSums, then 2 x tokens floats: KL(q||p), KL(p||q) of each token
//
// Records come in units; a unit that is not whole and intact (a killed write) is cut off with all that follows.
#pragma once

#include <klens/io/checksum.hpp>
#include <klens/io/mapped_file.hpp>
#include <klens/lens/windows.hpp>

#include <sys/file.h>

namespace klens {

class Journal {
 public:
  Journal(Journal&& other) noexcept
      : path_(std::move(other.path_)),
        fd_(std::exchange(other.fd_, -1)),
        tokens_(other.tokens_),
        records_(other.records_) {}
  Journal& operator=(Journal&&) = delete;
  ~Journal() {
    if (fd_ >= 0) ::close(fd_);
  }

  /// Opens or makes the journal of the work `key`; a journal of other work is emptied. `units`: records of each unit,
  /// in order.
  static Result<Journal> open(const std::string& path, std::uint64_t key, int tokens, std::span<const int> units) {
    Journal j;
    j.path_ = path, j.tokens_ = tokens;
    j.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (j.fd_ < 0) return detail::io_error(path, "cannot open", errno);
    if (flock(j.fd_, LOCK_EX | LOCK_NB) != 0)
      return Error{ErrorCode::io, path, "no other run that measures into the same file", "one that holds its journal"};
    Header expected{magic, key, std::uint64_t(j.record_bytes()), 0}, found{};
    const bool ours = pread(j.fd_, &found, sizeof found, 0) == ssize_t(sizeof found) &&
                      std::memcmp(&found, &expected, sizeof found) == 0;
    if (!ours) {
      if (ftruncate(j.fd_, 0) != 0) return detail::io_error(path, "cannot empty", errno);
      KLENS_OK(j.put(&expected, sizeof expected, 0));
      return j;
    }
    std::string record(j.record_bytes(), '\0');
    for (const int unit : units) {
      for (int r = 0; r < unit; ++r)
        if (!j.fetch(record, j.records_ + r)) return j.cut();
      j.records_ += unit;
    }
    return j.cut();
  }

  /// Whole records, a multiple of units.
  std::int64_t records() const { return records_; }

  /// `kl`: 2 x tokens values. Appends a unit in one write.
  struct Record {
    WindowSums sums;
    const float* kl = nullptr;
  };
  Result<void> append(std::span<const Record> unit) {
    std::string bytes;
    bytes.reserve(unit.size() * record_bytes());
    for (const Record& r : unit) {
      std::string body(reinterpret_cast<const char*>(&r.sums), sizeof r.sums);
      body.append(reinterpret_cast<const char*>(r.kl), kl_bytes());
      const std::uint64_t sum = checksum(body);
      bytes.append(reinterpret_cast<const char*>(&sum), sizeof sum) += body;
    }
    KLENS_OK(put(bytes.data(), bytes.size(), offset(records_)));
    records_ += std::int64_t(unit.size());
    return {};
  }

  /// Reads a record back; `kl` gets its 2 x tokens values.
  Result<WindowSums> read(std::int64_t index, float* kl) const {
    std::string record(record_bytes(), '\0');
    if (!fetch(record, index))
      return Error{ErrorCode::io, path_ + ": record " + std::to_string(index), "an intact record", "a changed one"};
    WindowSums sums;
    std::memcpy(&sums, record.data() + sizeof(std::uint64_t), sizeof sums);
    std::memcpy(kl, record.data() + sizeof(std::uint64_t) + sizeof sums, kl_bytes());
    return sums;
  }

  /// The work is done: takes the file away.
  void remove() { unlink(path_.c_str()); }

 private:
  struct Header {
    std::uint64_t magic, key, record_bytes, reserved;
  };
  static constexpr std::uint64_t magic = 0x316c6e726a6e6c6b;  // "klnjrnl1"

  Journal() = default;
  std::size_t kl_bytes() const { return 2 * sizeof(float) * std::size_t(tokens_); }
  std::size_t record_bytes() const { return sizeof(std::uint64_t) + sizeof(WindowSums) + kl_bytes(); }
  off_t offset(std::int64_t record) const { return off_t(sizeof(Header)) + off_t(record) * off_t(record_bytes()); }

  bool fetch(std::string& record, std::int64_t index) const {
    if (pread(fd_, record.data(), record.size(), offset(index)) != ssize_t(record.size())) return false;
    std::uint64_t sum;
    std::memcpy(&sum, record.data(), sizeof sum);
    return sum == checksum(std::string_view(record).substr(sizeof sum));
  }

  Result<Journal> cut() {
    if (ftruncate(fd_, offset(records_)) != 0) return detail::io_error(path_, "cannot cut", errno);
    return std::move(*this);
  }

  Result<void> put(const void* data, std::size_t size, off_t at) {
    const char* p = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t n = pwrite(fd_, p, size, at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return detail::io_error(path_, "cannot write", n < 0 ? errno : ENOSPC);
      p += n, at += n, size -= std::size_t(n);
    }
    return {};
  }

  std::string path_;
  int fd_ = -1, tokens_ = 0;
  std::int64_t records_ = 0;
};

}  // namespace klens
