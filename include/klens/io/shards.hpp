// Checkpoints cut into shards: NAME.index.json says in "weight_map" which file beside it has which tensor. What the
// readers of safetensors and of torch files share. Tests: tests/io/safetensors.cpp, tests/io/torch_file.cpp.
#pragma once

#include <klens/io/json.hpp>
#include <klens/io/mapped_file.hpp>
#include <klens/io/tensor.hpp>

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// Tensors by name. Views stay valid while the files they came from are mapped.
using TensorMap = std::map<std::string, TensorView, std::less<>>;

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

}  // namespace detail
}  // namespace klens
