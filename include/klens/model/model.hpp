// Model: a loaded checkpoint. Its components (2-D projections, embedding, head) may change format at any time, always from the
// pristine weights in the mapped file; everything else is widened to f32 once and never changes.
//
// The reference is what load_model() gives: checkpoint values exactly (f16 weights stay packed f16), f32 activations.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/format/name.hpp>
#include <klens/io/packed.hpp>
#include <klens/io/safetensors.hpp>
#include <klens/model/hymba.hpp>
#include <klens/quant/rtn.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace klens {

/// What a format applies to. A tied embedding and head are one component.
struct Component {
  std::string name;             // the checkpoint's, without ".weight": "model.layers.3.mamba.x_proj.0"
  Role role = Role::embedding;
  int layer = -1;               // -1: embedding, head
  int rows = 0, cols = 0;
  std::int64_t parameters() const { return std::int64_t(rows) * cols; }
};

struct LoadOptions {
  bool verify = true;           // packed files: check the payload's checksum
};

/// What goes into a packed file beside the weights.
struct PackOptions {
  std::string tokenizer_json, plan_json, provenance;
};

/// Moves, never copies. A Session holds a pointer to it: keep it in place while sessions live.
class Model {
 public:
  const Shape& shape() const { return view_.shape; }
  const ModelView& view() const { return view_; }
  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  /// A .klens file has its formats and no pristine weights.
  bool is_packed() const { return packed_.has_value(); }
  const PackedInfo* packed_info() const { return packed_ ? &packed_->info() : nullptr; }

  /// In the order of plan/sites.hpp: embedding, head (if not tied), then in_proj .. down_proj of each layer.
  std::span<const Component> components() const { return components_; }
  /// Index of a component, or -1.
  int find(std::string_view name) const {
    for (std::size_t i = 0; i < components_.size(); ++i)
      if (components_[i].name == name) return int(i);
    return -1;
  }

  const Precision& precision(int component) const { return slot(component).matrix.precision; }
  /// The format of the checkpoint's own numbers; of a packed file: the one it holds.
  const Precision& reference_precision(int component) const { return slot(component).reference; }
  const PackedMatrix& weights(int component) const { return slot(component).matrix; }
  std::int64_t component_bytes(int component) const {
    const Component& c = components_[std::size_t(component)];
    return packed_bytes(precision(component), c.rows, c.cols);
  }

  /// Quantizes and uses it. `notes` counts what rounding lost.
  Result<void> set_format(int component, const Precision& precision, QuantizeNotes* notes = nullptr) {
    if (precision == slot(component).matrix.precision) return {};
    KLENS_TRY(PackedBuffer buffer, quantize(component, precision, notes));
    slot(component).owned = std::move(buffer);
    bind(component, slot(component).owned.matrix());
    return {};
  }
  Result<void> set_format(std::string_view name, const Precision& precision, QuantizeNotes* notes = nullptr) {
    const int component = find(name);
    if (component < 0) return Error{ErrorCode::missing, path_, "a component of the model", "'" + std::string(name) + "'"};
    return set_format(component, precision, notes);
  }
  /// Every component in one format.
  Result<void> set_uniform(const Precision& precision, QuantizeNotes* notes = nullptr) {
    for (int c = 0; c < int(components_.size()); ++c) KLENS_OK(set_format(c, precision, notes));
    return {};
  }
  /// The checkpoint's own numbers again.
  Result<void> set_reference() {
    for (int c = 0; c < int(components_.size()); ++c) KLENS_OK(set_format(c, slot(c).reference));
    return {};
  }

  /// The pristine weights in another format, without using them.
  Result<PackedBuffer> quantize(int component, const Precision& precision, QuantizeNotes* notes = nullptr) const;

  /// Uses weights that the caller owns (of the component's shape) until the next bind or set_format of the component.
  void bind(int component, const PackedMatrix& weights) {
    const Component& c = components_[std::size_t(component)];
    KLENS_ASSERT(weights.rows == c.rows && weights.cols == c.cols);
    slot(component).matrix = weights;
    if (c.role == Role::embedding) {
      view_.embedding = weights;
      if (view_.shape.tied_head) view_.head.w = weights;
    } else if (c.role == Role::lm_head) {
      view_.head.w = weights;
    } else {
      const_cast<SiteView&>(site_of(layers_[std::size_t(c.layer)], c.role)).w = weights;  // layers_ is not const
    }
    ++version_;
  }
  /// Uses the component's own buffer (the last set_format's, or the file's) again after bind().
  void unbind(int component) { bind(component, slot(component).owned.rows() != 0 ? slot(component).owned.matrix() : slot(component).mapped); }

  /// Pristine rows [first, first + out.rows) of a component, widened. Not for packed files.
  Result<void> pristine_rows(int component, std::int64_t first, const Rows<float>& out) const;

  /// Sizes and formats, as a plan's skeleton.
  RuntimePlan plan() const {
    RuntimePlan plan = skeleton_;
    for (int c = 0; c < int(components_.size()); ++c)
      *klens::detail::precision_at(plan, components_[std::size_t(c)].role, components_[std::size_t(c)].layer) = precision(c);
    return plan;
  }
  std::uint64_t hash() const { return shape_hash(skeleton_); }

  /// Payload of the packed file in the present formats; the part of it that no format changes; values in all tensors.
  std::int64_t payload_bytes() const {
    std::int64_t total = small_bytes_;
    for (int c = 0; c < int(components_.size()); ++c) total += component_bytes(c);
    return total;
  }
  std::int64_t small_payload_bytes() const { return small_bytes_; }
  std::int64_t parameters() const {
    std::int64_t total = small_parameters_;
    for (const Component& c : components_) total += c.parameters();
    return total;
  }

  /// Changes whenever weights do.
  std::uint64_t version() const { return version_; }

  /// Writes the model in its present formats.
  Result<void> write(const std::string& path, const PackOptions& options) const;

 private:
  friend Result<Model> load_model(const std::string& path, const LoadOptions& options);

  struct Slot {
    const TensorView* pristine = nullptr;
    PackedMatrix matrix, mapped;   // in use; the packed file's
    PackedBuffer owned;
    Precision reference;
  };

  Model() = default;
  Slot& slot(int component) { return slots_[std::size_t(component)]; }
  const Slot& slot(int component) const { return slots_[std::size_t(component)]; }

  const TensorView* find_tensor(std::string_view name) const { return packed_ ? packed_->tensor(name) : checkpoint_->find(name); }
  Result<const TensorView*> require(const std::string& name, std::span<const std::int64_t> shape) const;
  Result<const float*> load_vector(const std::string& name, std::span<const std::int64_t> shape, hymba::Use use);
  Result<const float*> load_meta();
  Result<void> load(bool packed);
  Result<void> load_component(int component);
  Result<void> check_format(int component, const Precision& precision) const;
  Result<void> check_names() const;

  std::string path_;
  ModelConfig config_;
  RuntimePlan skeleton_;
  std::optional<Safetensors> checkpoint_;
  std::optional<PackedFile> packed_;
  std::vector<Component> components_;
  std::vector<Slot> slots_;
  std::vector<LayerView> layers_;
  std::vector<Buffer<float>> buffers_;       // small tensors as kernels read them
  std::vector<const TensorView*> small_;     // as they lie in the file, in the order of plan/budget.hpp
  std::int64_t small_bytes_ = 0, small_parameters_ = 0;
  ModelView view_;
  std::uint64_t version_ = 1;
};

/// A checkpoint folder (config.json, safetensors), or a packed .klens file. Every tensor's name and shape is checked.
inline Result<Model> load_model(const std::string& path, const LoadOptions& options = {});

}  // namespace klens

#include <klens/model/model_impl.hpp>
