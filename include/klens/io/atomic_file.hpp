// Files are written beside their place and renamed, so that a reader sees the old file or the whole new one, and a
// failure leaves nothing behind. What is not a regular file (/dev/stdout, a pipe) is written directly: renaming would
// replace it.
#pragma once

#include <klens/io/mapped_file.hpp>

#include <atomic>
#include <climits>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

namespace klens {

/// create, write..., commit. Without commit the destructor removes what was written.
class AtomicFile {
 public:
  AtomicFile(AtomicFile&& other) noexcept
      : path_(std::move(other.path_)),
        target_(std::move(other.target_)),
        partial_(std::move(other.partial_)),
        buffer_(std::move(other.buffer_)),
        fd_(std::exchange(other.fd_, -1)),
        written_(other.written_) {
    other.partial_.clear();
  }
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile() { discard(); }

  static Result<AtomicFile> create(const std::string& path) {
    static std::atomic<unsigned> counter{0};
    if (path.empty() || path.find('\0') != std::string::npos)
      return Error{ErrorCode::io, "'" + path + "'", "a file name", path.empty() ? "nothing" : "a name with a NUL byte"};
    AtomicFile file;
    file.path_ = file.target_ = path;
    struct stat status {};
    const bool exists = stat(path.c_str(), &status) == 0;
    if (exists && S_ISDIR(status.st_mode)) return Error{ErrorCode::io, path, "a file to write", "a folder"};
    if (exists && !S_ISREG(status.st_mode)) {
      file.fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
      if (file.fd_ < 0) return detail::io_error(path, "cannot write", errno);
      return file;
    }
    if (exists) {  // a link keeps being a link: what it points to is replaced
      char resolved[PATH_MAX];
      if (realpath(path.c_str(), resolved) != nullptr) file.target_ = resolved;
    }
    // The name is unique per process and file; a few attempts step over leftovers of a killed process with our id.
    for (int attempt = 0; attempt < 100; ++attempt) {
      file.partial_ = file.target_ + "." + std::to_string(getpid()) + "-" + std::to_string(counter++) + ".partial";
      const mode_t mode = exists ? status.st_mode & 0777 : 0666;
      file.fd_ = ::open(file.partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
      if (file.fd_ >= 0) return file;
      if (errno != EEXIST) break;
    }
    const int number = errno;
    file.partial_.clear();
    return detail::io_error(path, "cannot write", number);
  }

  Result<void> write(std::span<const std::byte> bytes) {
    if (fd_ < 0) return Error{ErrorCode::io, path_, "an open file", "one that failed or was committed"};
    written_ += bytes.size();
    if (buffer_.size() + bytes.size() < buffer_bytes) {
      buffer_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return {};
    }
    KLENS_OK(flush());
    return put(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  Result<void> write(std::string_view text) { return write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Zero bytes up to the next multiple of `unit`.
  Result<void> pad_to(std::size_t unit) {
    static constexpr char zeros[64] = {};
    for (std::size_t left = (unit - written_ % unit) % unit; left > 0;) {
      const std::size_t n = left < sizeof zeros ? left : sizeof zeros;
      KLENS_OK(write(std::string_view(zeros, n)));
      left -= n;
    }
    return {};
  }

  /// Bytes written so far.
  std::uint64_t size() const { return written_; }
  const std::string& path() const { return path_; }

  /// Puts the file in its place.
  Result<void> commit() {
    if (fd_ < 0) return Error{ErrorCode::io, path_, "an open file", "one that failed or was committed"};
    KLENS_OK(flush());
    const int closed = ::close(std::exchange(fd_, -1));
    if (closed != 0) {  // some file systems report a full disk only here
      const int number = errno;
      discard();
      return detail::io_error(path_, "cannot write", number);
    }
    if (partial_.empty()) return {};
    if (std::rename(partial_.c_str(), target_.c_str()) != 0) {
      const int number = errno;
      discard();
      return detail::io_error(path_, "cannot rename " + partial_, number);
    }
    partial_.clear();
    return {};
  }

 private:
  AtomicFile() = default;

  static constexpr std::size_t buffer_bytes = 64 << 10;

  void discard() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    if (!partial_.empty()) unlink(partial_.c_str());
    partial_.clear();
  }

  Result<void> flush() {
    const std::string pending = std::exchange(buffer_, std::string());
    return put(pending.data(), pending.size());
  }

  Result<void> put(const char* data, std::size_t size) {
    while (size > 0) {
      const ssize_t n = ::write(fd_, data, size);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        const int number = n < 0 ? errno : ENOSPC;
        discard();
        return detail::io_error(path_, "cannot write", number);
      }
      data += n;
      size -= std::size_t(n);
    }
    return {};
  }

  std::string path_, target_, partial_, buffer_;
  int fd_ = -1;
  std::uint64_t written_ = 0;
};

/// Writes a whole file at once.
inline Result<void> write_file(const std::string& path, std::string_view content) {
  KLENS_TRY(AtomicFile file, AtomicFile::create(path));
  KLENS_OK(file.write(content));
  return file.commit();
}

}  // namespace klens
