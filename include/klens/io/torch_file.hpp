// pytorch_model.bin, read: what torch.save (1.6 and later) makes of a dict of tensors. A ZIP of stored entries:
// X/data.pkl says names, types and shapes, X/data/N are the bytes. Files are mapped, tensors are views into them,
// nothing is executed.
//
// A tensor is torch._utils._rebuild_tensor_v2(storage, offset, sizes, strides, ...) of a storage ('storage',
// torch.XStorage, N, device, count). Storages may be shared; strides must be C-contiguous. Checked before a byte is
// used: the ZIP (io/stored_zip.hpp), the pickle (io/pickle.hpp), that each storage has the bytes it says and each
// tensor lies inside its own. Tests: tests/io/torch_file.cpp.
#pragma once

#include <klens/io/pickle.hpp>
#include <klens/io/shards.hpp>
#include <klens/io/stored_zip.hpp>

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace klens {
namespace detail {

/// What a state dict's pickle may name. Storages first, in the order of torch_types.
inline constexpr std::array<DType, 10> torch_types = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64,
                                                      DType::i32, DType::i16, DType::i8,  DType::u8,   DType::boolean};
inline constexpr PickleName torch_names[] = {{"torch", "DoubleStorage"},
                                             {"torch", "FloatStorage"},
                                             {"torch", "HalfStorage"},
                                             {"torch", "BFloat16Storage"},
                                             {"torch", "LongStorage"},
                                             {"torch", "IntStorage"},
                                             {"torch", "ShortStorage"},
                                             {"torch", "CharStorage"},
                                             {"torch", "ByteStorage"},
                                             {"torch", "BoolStorage"},
                                             {"torch.storage", "DoubleStorage"},
                                             {"torch.storage", "FloatStorage"},
                                             {"torch.storage", "HalfStorage"},
                                             {"torch.storage", "BFloat16Storage"},
                                             {"torch.storage", "LongStorage"},
                                             {"torch.storage", "IntStorage"},
                                             {"torch.storage", "ShortStorage"},
                                             {"torch.storage", "CharStorage"},
                                             {"torch.storage", "ByteStorage"},
                                             {"torch.storage", "BoolStorage"},
                                             {"collections", "OrderedDict"},
                                             {"torch._utils", "_rebuild_tensor_v2"},
                                             {"torch._utils", "_rebuild_parameter"}};
inline constexpr std::int64_t torch_storages = 20, torch_ordered_dict = 20, torch_tensor = 21, torch_parameter = 22;

/// The tensors of one mapped file.
class TorchReader {
 public:
  explicit TorchReader(const MappedFile& file) : file_(file), path_(file.path()) {}

  Result<TensorMap> read() {
    // Before 1.6: pickles one after the other, the first a number of 10 bytes.
    if (file_.text().starts_with("\x80\x02\x8a\x0a"))
      return Error{ErrorCode::unsupported, path_, "a file of torch.save of torch 1.6 or later, a ZIP",
                   "torch's older format"};
    KLENS_TRY(entries_, read_stored_zip(file_.bytes(), path_));
    std::string_view pickle;
    int found = 0;
    for (const auto& [name, bytes] : entries_) {
      const std::size_t slash = name.find('/');
      if (slash == std::string_view::npos || name.substr(slash + 1) != "data.pkl") continue;
      folder_ = std::string(name.substr(0, slash + 1)), pickle = text_of(bytes), ++found;
    }
    if (found != 1) return Error{ErrorCode::format, path_, "one entry FOLDER/data.pkl", std::to_string(found)};
    if (const auto order = entries_.find(folder_ + "byteorder");
        order != entries_.end() && text_of(order->second) != "little")
      return Error{ErrorCode::unsupported, path_ + ": entry 'byteorder'", "'little'",
                   "'" + clip(text_of(order->second), 20) + "'"};
    where_ = path_ + ": data.pkl";
    KLENS_TRY(tree_, read_pickle(pickle, where_, torch_names));
    return tensors();
  }

 private:
  static std::string_view text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  bool is_call_of(const PickleValue& v, std::int64_t callable) const {
    return v.kind == PickleKind::call && tree_[v.items[0]].number == callable;
  }
  /// Arguments of a call, elements of a tuple.
  const std::vector<std::uint32_t>& arguments(const PickleValue& call) const { return tree_[call.items[1]].items; }

  Error fault(const PickleValue& v, const std::string& what, std::string expected, std::string found = {}) const {
    return {ErrorCode::format, where_ + ": byte " + std::to_string(v.at) + ": " + what, std::move(expected),
            found.empty() ? describe(v) : std::move(found)};
  }

  Result<TensorMap> tensors() const {
    const PickleValue& root = tree_[tree_.root];
    const bool ordered = is_call_of(root, torch_ordered_dict);
    if (!ordered && root.kind != PickleKind::dict) return fault(root, "content", "a dict of tensors");
    if (ordered && !arguments(root).empty())
      return fault(root, "content", "an OrderedDict filled after it is made", "arguments");
    TensorMap all;
    for (std::size_t i = ordered ? 2 : 0; i + 1 < root.items.size(); i += 2) {
      const PickleValue& key = tree_[root.items[i]];
      if (key.kind != PickleKind::text) return fault(key, "name of a tensor", "a string");
      const std::string name(key.text);
      KLENS_TRY(TensorView t, tensor(tree_[root.items[i + 1]], name));
      if (!all.emplace(name, std::move(t)).second)
        return fault(key, "tensor '" + clip(name, 120) + "'", "every name once", "a second one");
    }
    return all;
  }

  Result<TensorView> tensor(const PickleValue& value, const std::string& name) const {
    const std::string what = "tensor '" + clip(name, 120) + "'";
    const PickleValue* v = &value;
    if (is_call_of(*v, torch_parameter)) {  // a torch.nn.Parameter: (tensor, requires_grad, hooks)
      if (arguments(*v).size() != 3)
        return fault(*v, what, "3 arguments of _rebuild_parameter", std::to_string(arguments(*v).size()));
      v = &tree_[arguments(*v)[0]];
    }
    if (!is_call_of(*v, torch_tensor)) return fault(*v, what, "a tensor");
    const std::vector<std::uint32_t>& a =
        arguments(*v);  // storage, offset, sizes, strides, requires_grad, hooks [, metadata]
    if (a.size() != 6 && a.size() != 7)
      return fault(*v, what, "6 or 7 arguments of _rebuild_tensor_v2", std::to_string(a.size()));
    if (a.size() == 7) {  // {'conj': True}, {'neg': True}
      const PickleValue& metadata = tree_[a[6]];
      if (metadata.kind != PickleKind::none && (metadata.kind != PickleKind::dict || !metadata.items.empty()))
        return fault(metadata, what, "a tensor without metadata");
    }
    KLENS_TRY(const Storage storage, storage_of(tree_[a[0]], what));
    KLENS_TRY(const std::int64_t offset, integer(tree_[a[1]], what + ": offset"));
    KLENS_TRY(std::vector<std::int64_t> shape, integers(tree_[a[2]], what + ": sizes"));
    KLENS_TRY(const std::vector<std::int64_t> strides, integers(tree_[a[3]], what + ": strides"));
    if (shape.size() != strides.size())
      return fault(*v, what, "as many strides as sizes", klens::shape_text(shape) + " and " + klens::shape_text(strides));
    const std::optional<std::int64_t> count = element_count(shape);
    if (!count)
      return Error{ErrorCode::overflow, where_ + ": " + what, "a shape that fits in memory", klens::shape_text(shape)};
    std::int64_t stride = 1;  // no overflow: count fits
    for (std::size_t d = shape.size(); *count > 0 && d-- > 0; stride *= shape[d])
      if (shape[d] != 1 && strides[d] != stride)
        return Error{ErrorCode::unsupported, where_ + ": " + what, "contiguous values (save it with .contiguous())",
                     "shape " + klens::shape_text(shape) + " with strides " + klens::shape_text(strides)};
    if (*count > storage.count || offset > storage.count - *count)
      return Error{ErrorCode::format, where_ + ": " + what, std::to_string(storage.count) + " values in its storage",
                   klens::shape_text(shape) + " from value " + std::to_string(offset)};
    TensorView t;
    const std::size_t size = std::size_t(size_of(storage.type));
    t.name = name, t.dtype = storage.type, t.dtype_name = std::string(name_of(storage.type)),
    t.shape = std::move(shape), t.file = path_;
    t.data = storage.bytes.subspan(std::size_t(offset) * size, std::size_t(*count) * size);
    return t;
  }

  struct Storage {
    DType type;
    std::int64_t count;
    std::span<const std::byte> bytes;
  };

  Result<Storage> storage_of(const PickleValue& v, const std::string& what) const {
    if (v.kind != PickleKind::persistent) return fault(v, what, "a storage");
    const PickleValue& id = tree_[v.items[0]];  // ('storage', torch.FloatStorage, '0', 'cpu', 768)
    if (id.kind != PickleKind::tuple || id.items.size() != 5) return fault(id, what + ": storage", "a tuple of 5");
    const PickleValue &tag = tree_[id.items[0]], &type = tree_[id.items[1]], &key = tree_[id.items[2]];
    if (tag.kind != PickleKind::text || tag.text != "storage")
      return fault(tag, what + ": storage", "the string 'storage'");
    if (type.kind != PickleKind::global || type.number >= torch_storages)
      return fault(type, what + ": storage", "a class of storages of torch");
    if (key.kind != PickleKind::text ||
        key.text.size() > 64)  // "0", "1", ..: a long one, shared by all tensors, would cost time
      return fault(key, what + ": storage", "its name, a string of at most 64 bytes");
    KLENS_TRY(const std::int64_t count, integer(tree_[id.items[4]], what + ": storage"));
    const std::string entry = folder_ + "data/" + std::string(key.text);
    const auto found = entries_.find(entry);
    if (found == entries_.end())
      return Error{ErrorCode::missing, path_ + ": " + what, "entry '" + clip(entry, 120) + "'", "no such entry"};
    const DType t = torch_types[std::size_t(type.number) % torch_types.size()];
    std::int64_t bytes = 0;
    if (__builtin_mul_overflow(count, std::int64_t(size_of(t)), &bytes) || std::uint64_t(bytes) != found->second.size())
      return Error{ErrorCode::format, path_ + ": entry '" + clip(entry, 120) + "'",
                   std::to_string(count) + " values of " + std::string(name_of(t)),
                   std::to_string(found->second.size()) + " bytes"};
    return Storage{t, count, found->second};
  }

  Result<std::int64_t> integer(const PickleValue& v, const std::string& what) const {
    if (v.kind != PickleKind::integer || v.number < 0)
      return fault(v, what, "an integer >= 0",
                   v.kind == PickleKind::integer ? std::to_string(v.number) : std::string());
    return v.number;
  }
  Result<std::vector<std::int64_t>> integers(const PickleValue& v, const std::string& what) const {
    if (v.kind != PickleKind::tuple || v.items.size() > 32)
      return fault(v, what, "a tuple of at most 32",
                   v.kind == PickleKind::tuple ? std::to_string(v.items.size()) : std::string());
    std::vector<std::int64_t> all;
    for (const std::uint32_t i : v.items) {
      KLENS_TRY(const std::int64_t n, integer(tree_[i], what));
      all.push_back(n);
    }
    return all;
  }

  const MappedFile& file_;
  const std::string& path_;
  std::string folder_, where_;
  ZipEntries entries_;
  Pickle tree_;
};

}  // namespace detail

/// A checkpoint. Moves; TensorViews stay valid while it (or what it was moved to) lives.
class TorchFile {
 public:
  /// A file of torch.save, or a folder with pytorch_model.bin or with shards listed in pytorch_model.bin.index.json.
  static Result<TorchFile> open(const std::string& path) {
    TorchFile f;
    f.path_ = path;
    const auto read = [](const MappedFile& file) { return detail::TorchReader(file).read(); };
    KLENS_TRY(f.tensors_, detail::read_file_or_shards(path, "pytorch_model.bin", f.files_, read));
    return f;
  }

  const TensorView* find(std::string_view name) const { return find_tensor(tensors_, name); }
  /// All of them, by name.
  const TensorMap& tensors() const { return tensors_; }
  const std::string& path() const { return path_; }

 private:
  TorchFile() = default;

  std::string path_;
  std::vector<MappedFile> files_;
  TensorMap tensors_;
};

}  // namespace klens
