// A file mapped read-only into memory. Pages are read when touched, so that opening a large checkpoint costs nothing
// and two programs that read it share its memory. The file must not be truncated by others while it is mapped.
#pragma once

#include <klens/core/result.hpp>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace klens {
namespace detail {

/// An Error of the operating system: "model.safetensors: cannot open: No such file or directory".
inline Error io_error(const std::string& path, std::string_view what, int number) {
  return Error{ErrorCode::io, path + ": " + std::string(what), "", std::strerror(number)};
}

}  // namespace detail

/// Owns one mapping. Moves, never copies; the bytes stay at their address for the object's life, moves included.
class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (data_ != nullptr) munmap(data_, size_);
  }

  /// Maps a regular file; an empty one has no bytes and no mapping.
  static Result<MappedFile> open(const std::string& path) {
    if (path.find('\0') != std::string::npos)
      return Error{ErrorCode::io, path, "a file name", "a name with a NUL byte"};
    const int fd =
        ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // O_NONBLOCK: never wait for a pipe's writer
    if (fd < 0) return detail::io_error(path, "cannot open", errno);
    MappedFile file;
    file.path_ = path;
    struct stat status {};
    if (fstat(fd, &status) != 0) {
      const int number = errno;
      ::close(fd);
      return detail::io_error(path, "cannot read", number);
    }
    if (!S_ISREG(status.st_mode)) {
      ::close(fd);
      return Error{ErrorCode::io, path, "a regular file", S_ISDIR(status.st_mode) ? "a folder" : "something else"};
    }
    if (status.st_size > 0) {
      void* p = mmap(nullptr, std::size_t(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
      if (p == MAP_FAILED) {
        const int number = errno;
        ::close(fd);
        return detail::io_error(path, "cannot map", number);
      }
      file.data_ = p;
      file.size_ = std::size_t(status.st_size);
    }
    ::close(fd);
    return file;
  }

  const std::string& path() const { return path_; }
  std::size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  std::string path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Whole content of a small file, at most `limit` bytes.
inline Result<std::string> read_text(const std::string& path, std::size_t limit) {
  KLENS_TRY(const MappedFile file, MappedFile::open(path));
  if (file.size() > limit)
    return Error{ErrorCode::overflow, path, "at most " + std::to_string(limit) + " bytes", std::to_string(file.size())};
  return std::string(file.text());
}

}  // namespace klens
