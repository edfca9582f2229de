// Checkpoint: the config and the tensors of a model, whatever container they came in, under the names of transformers.
// A folder with config.json and, in this order: model.safetensors, its shards, pytorch_model.bin, its shards; or a GGUF
// file. Any other source (with a config of its own) comes in by of(). Tests: tests/model/{original,gguf,load}.cpp.
#pragma once

#include <klens/io/config.hpp>
#include <klens/io/gguf_checkpoint.hpp>
#include <klens/io/safetensors.hpp>
#include <klens/io/torch_file.hpp>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace klens {
namespace detail {

/// What stands before "layers.N." in all names that have it; none where they differ or no name has it.
inline std::optional<std::string> layers_prefix(const TensorMap& tensors) {
  std::optional<std::string> prefix;
  for (const auto& [name, tensor] : tensors) {
    for (std::size_t at = name.find("layers."); at != std::string::npos; at = name.find("layers.", at + 1)) {
      if ((at > 0 && name[at - 1] != '.') || at + 7 >= name.size() || name[at + 7] < '0' || name[at + 7] > '9') continue;
      if (prefix && *prefix != name.substr(0, at)) return std::nullopt;
      prefix = name.substr(0, at);
      break;
    }
  }
  return prefix;
}

/// The same tensors under the family's names: published checkpoints differ in what stands before "layers." ("model.",
/// "backbone.", both, nothing: a model without its head), and state-spaces' own call the embedding "embedding". Names that
/// are the family's already stay; so do unknown prefixes, for the loader to refuse.
inline Result<TensorMap> with_family_names(TensorMap tensors, Family family) {
  const FamilyNames names = names_of(family);
  const std::string own(names.layers.substr(0, names.layers.size() - std::string_view("layers.").size()));
  constexpr std::array<std::string_view, 4> known = {"", "model.", "backbone.", "model.backbone."};
  const std::optional<std::string> found = layers_prefix(tensors);
  const bool other = found && *found != own && std::ranges::find(known, *found) != known.end();
  const auto renamed = [&](const std::string& name) -> std::string {
    std::string now = name;
    if (other) {
      const bool head = name.ends_with("lm_head.weight") || name.ends_with("lm_head.bias");
      if (head && (name.starts_with("model.lm_head.") || name.starts_with(*found + "lm_head."))) now = name.substr(name.find("lm_head."));
      else if (!name.starts_with("lm_head.") && name.starts_with(*found)) now = own + name.substr(found->size());
    }
    if (now == own + "embedding.weight" && names.embedding == own + "embeddings") now = own + "embeddings.weight";
    return now;
  };
  TensorMap result;
  for (auto& [name, tensor] : tensors) {
    const std::string now = renamed(name);
    if (now != name) tensor.name = now, tensor.file += " (there '" + clip(name, 120) + "')";
    const auto [it, inserted] = result.emplace(now, tensor);
    if (!inserted)
      return Error{ErrorCode::format, tensor.file, "one tensor '" + clip(now, 120) + "'", "another, in " + clip(it->second.file, 400)};
  }
  return result;
}

}  // namespace detail

/// Moves; TensorViews stay valid, and at their address, while it (or what it was moved to) lives.
class Checkpoint {
 public:
  /// A checkpoint folder, or a GGUF file.
  static Result<Checkpoint> open(const std::string& path) {
    if (is_gguf_file(path)) {
      KLENS_TRY(GgufCheckpoint file, GgufCheckpoint::open(path));
      KLENS_TRY(ModelConfig config, parse_config(file.config_text(), path + ": config"));
      return own(std::move(config), path, std::move(file));
    }
    KLENS_TRY(ModelConfig config, read_config(path));
    struct stat status {};
    const auto has = [&](const char* file) { return stat((path + "/" + file).c_str(), &status) == 0; };
    if (has("model.safetensors") || has("model.safetensors.index.json")) {
      KLENS_TRY(Safetensors file, Safetensors::open(path));
      return own(std::move(config), path, std::move(file));
    }
    if (has("pytorch_model.bin") || has("pytorch_model.bin.index.json")) {
      KLENS_TRY(TorchFile file, TorchFile::open(path));
      return own(std::move(config), path, std::move(file));
    }
    return Error{ErrorCode::missing, path, "model.safetensors, pytorch_model.bin or an index of either (.index.json)", "none of them"};
  }

  /// Any source: its config (in transformers' spelling), its tensors, and what keeps their bytes alive.
  static Result<Checkpoint> of(ModelConfig config, std::string path, TensorMap tensors, std::shared_ptr<const void> owner) {
    Checkpoint c;
    const Family family = Family(index_of(family_names, config.model_type));  // parse_config has checked it
    KLENS_TRY(c.tensors_, detail::with_family_names(std::move(tensors), family));
    c.config_ = std::move(config), c.path_ = std::move(path), c.owner_ = std::move(owner);
    return c;
  }

  const ModelConfig& config() const { return config_; }
  const std::string& path() const { return path_; }

  const TensorView* find(std::string_view name) const { return find_tensor(tensors_, name); }

  /// Names in ascending order.
  std::vector<std::string_view> names() const { return tensor_names(tensors_); }

 private:
  Checkpoint() = default;

  template <class Source>
  static Result<Checkpoint> own(ModelConfig config, const std::string& path, Source source) {
    const auto kept = std::make_shared<const Source>(std::move(source));
    return of(std::move(config), path, kept->tensors(), kept);
  }

  std::string path_;
  ModelConfig config_;
  std::shared_ptr<const void> owner_;
  TensorMap tensors_;
};

}  // namespace klens
