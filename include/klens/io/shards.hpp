// Checkpoints cut into shards: NAME.index.json says in "weight_map" which file beside it has which tensor. What the
// readers of safetensors and of torch files share. Tests: tests/io/safetensors.cpp, tests/io/torch_file.cpp.
#pragma once

#include <klens/io/json.hpp>
#include <klens/io/mapped_file.hpp>
#include <klens/io/tensor.hpp>

#include <sys/stat.h>

#include <cerrno>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// Tensors by name. Views stay valid while the files they came from are mapped.
using TensorMap = std::map<std::string, TensorView, std::less<>>;

/// nullptr where there is none of that name.
inline const TensorView* find_tensor(const TensorMap& tensors, std::string_view name) {
  const auto it = tensors.find(name);
  return it == tensors.end() ? nullptr : &it->second;
}

/// In ascending order.
inline std::vector<std::string_view> tensor_names(const TensorMap& tensors) {
  std::vector<std::string_view> all;
  for (const auto& entry : tensors) all.push_back(entry.first);
  return all;
}

namespace detail {

inline constexpr std::size_t index_limit = 100'000'000;  // bytes of an index; published ones have at most 1 MB

/// All tensors of the shards that an index lists. `read` gives the tensors of one mapped file; the mappings are added
/// to `files`. Every tensor of a shard must be listed, and as being there.
template <class Read>
Result<TensorMap> read_shards(const std::string& folder, const std::string& index, std::vector<MappedFile>& files,
                              const Read& read) {
  KLENS_TRY(const Json json, read_json(index, {.bytes = index_limit}));
  KLENS_TRY(const Json* const map, json_object(json, "weight_map", index));
  std::map<std::string, TensorMap, std::less<>> shards;
  TensorMap all;
  for (auto item = map->begin(); item != map->end(); ++item) {
    const std::string& name = item.key();
    const Json& value = *item;
    const std::string where = index + ": tensor '" + clip(name, 120) + "'";
    if (!value.is_string()) return Error{ErrorCode::format, where, "a file name", describe(value)};
    const std::string& file = value.get_ref<const std::string&>();
    // A shard lies beside its index: no separator, no parent, so that no path leads out of the folder.
    if (file.empty() || file == "." || file == ".." ||
        file.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos)
      return Error{ErrorCode::format, where, "a file name without folders", "'" + clip(file, 80) + "'"};
    auto shard = shards.find(file);
    if (shard == shards.end()) {
      KLENS_TRY(MappedFile mapped, MappedFile::open(folder + "/" + file));
      KLENS_TRY(TensorMap tensors, read(mapped));
      files.push_back(std::move(mapped));
      shard = shards.emplace(file, std::move(tensors)).first;
    }
    const auto tensor = shard->second.find(name);
    if (tensor == shard->second.end())
      return Error{ErrorCode::missing, where, "the tensor in " + file, "no such tensor there"};
    all.emplace(name, tensor->second);
  }
  for (const auto& [file, tensors] : shards)
    for (const auto& [name, tensor] : tensors) {
      const auto listed = all.find(name);
      if (listed == all.end() || listed->second.data.data() != tensor.data.data() || listed->second.file != tensor.file)
        return Error{ErrorCode::format, folder + "/" + file + ": tensor '" + clip(name, 120) + "'",
                     "the index to place it in this file", listed != all.end() ? "another file" : "no mention"};
    }
  return all;
}

/// All tensors of `path`: a file, or a folder with the file `name` or with shards listed in `name`.index.json.
template <class Read>
Result<TensorMap> read_file_or_shards(const std::string& path, const std::string& name, std::vector<MappedFile>& files,
                                      const Read& read) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return io_error(path, "cannot open", errno);
  const std::string single = S_ISDIR(status.st_mode) ? path + "/" + name : path, index = single + ".index.json";
  if (stat(single.c_str(), &status) == 0) {
    KLENS_TRY(MappedFile file, MappedFile::open(single));
    KLENS_TRY(TensorMap tensors, read(file));
    files.push_back(std::move(file));
    return tensors;
  }
  if (stat(index.c_str(), &status) == 0) return read_shards(path, index, files, read);
  return Error{ErrorCode::missing, path, name + " or " + name + ".index.json", "neither"};
}

}  // namespace detail
}  // namespace klens
