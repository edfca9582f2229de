// Model: a loaded checkpoint. Its components (2-D projections, embedding, head) may change format at any time, always from the
// pristine weights in the mapped file; everything else is widened to f32 once and never changes.
//
// The reference is what load_model() gives: checkpoint values exactly (f16 weights stay packed f16), f32 activations.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/format/name.hpp>
#include <klens/io/checkpoint.hpp>
#include <klens/io/packed.hpp>
#include <klens/model/families.hpp>
#include <klens/quant/rtn.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
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
  int expert = -1;              // -1: of no expert
  std::int64_t parameters() const { return std::int64_t(rows) * cols; }
};

/// A state of the sequences that run through a model: of a scan, of a convolution, or K and V of the layer that makes them.
struct StateComponent {
  std::string name;             // component_name(): "model.layers.3.mamba.scan_state"
  StateKind kind = StateKind::scan;
  int layer = 0;
};

struct LoadOptions {
  bool verify = true;           // packed files: check the payload's checksum
};

/// What goes into a packed file beside the weights.
struct PackOptions {
  std::string tokenizer_json, plan_json, provenance;
  std::string chat_json = {}, generation_json = {};   // PackedInfo
};

namespace detail {
/// Member of StateFormats, const or not, by kind.
template <class Formats>
auto& state_member(Formats& f, StateKind kind) {
  return kind == StateKind::scan ? f.scan : kind == StateKind::conv ? f.conv : f.kv;
}
}  // namespace detail

/// Moves, never copies. A Session holds a pointer to it: keep it in place while sessions live.
class Model {
 public:
  const Shape& shape() const { return view_.shape; }
  const ModelView& view() const { return view_; }
  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  Uses uses() const { return uses_of(std::span(layers_)); }
  Family family() const { return view_.shape.family; }
  /// A .klens file has its formats and no pristine weights.
  bool is_packed() const { return packed_.has_value(); }
  /// Random weights (model/random_model.hpp): no file, no pristine weights, nothing to write.
  bool is_random() const { return random_; }
  const PackedInfo* packed_info() const { return packed_ ? &packed_->info() : nullptr; }

  /// In the order of plan/sites.hpp: embedding, head (if not tied), then in_proj .. down_proj of each layer, its experts last.
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
    slot(component).owned = std::move(buffer), slot(component).block.reset();
    bind(component, slot(component).owned.matrix());
    return {};
  }
  Result<void> set_format(std::string_view name, const Precision& precision, QuantizeNotes* notes = nullptr) {
    const int component = find(name);
    if (component < 0) return Error{ErrorCode::missing, path_, "a component of the model", "'" + std::string(name) + "'"};
    return set_format(component, precision, notes);
  }
  /// Every component in one format, and every state in that of its suffix (w8a8s8; none: f32).
  Result<void> set_uniform(const Precision& precision, QuantizeNotes* notes = nullptr) {
    KLENS_OK(set_states(precision.state));
    Precision weights = precision;
    weights.state = State::f32;
    for (int c = 0; c < int(components_.size()); ++c) KLENS_OK(set_format(c, weights, notes));
    return {};
  }
  /// The checkpoint's own numbers again, states in f32; of a packed file: the formats it holds.
  Result<void> set_reference() {
    for (int s = 0; s < int(states_.size()); ++s) KLENS_OK(set_state_format(s, reference_states_[std::size_t(s)]));
    for (int c = 0; c < int(components_.size()); ++c) KLENS_OK(set_format(c, slot(c).reference));
    return {};
  }

  /// In the order of for_each_state: scan, conv and kv of each layer that has them. A session keeps the formats it was made with.
  std::span<const StateComponent> states() const { return states_; }
  /// Index of a state, or -1.
  int find_state(std::string_view name) const {
    for (std::size_t i = 0; i < states_.size(); ++i)
      if (states_[i].name == name) return int(i);
    return -1;
  }
  State state_format(int state) const {
    const StateComponent& c = states_[std::size_t(state)];
    return detail::state_member(layers_[std::size_t(c.layer)].states, c.kind);
  }
  State reference_state(int state) const { return reference_states_[std::size_t(state)]; }
  /// Errors: a format that this kind of state does not have.
  Result<void> set_state_format(int state, State format) {
    const StateComponent& c = states_[std::size_t(state)];
    KLENS_OK(check_state(c, format));
    if (format == state_format(state)) return {};
    for (LayerView& layer : layers_)   // K and V: in the layers that read them too
      if (&layer - layers_.data() == c.layer || (c.kind == StateKind::kv && layer.kv_source == c.layer))
        detail::state_member(layer.states, c.kind) = format;
    ++version_;
    return {};
  }
  Result<void> set_state_format(std::string_view name, State format) {
    const int state = find_state(name);
    if (state < 0) return Error{ErrorCode::missing, path_, "a state of the model", "'" + std::string(name.substr(0, 200)) + "'"};
    return set_state_format(state, format);
  }
  /// Every state in one format; nothing changes where one of them does not have it.
  Result<void> set_states(State format) {
    for (const StateComponent& c : states_) KLENS_OK(check_state(c, format));
    for (int s = 0; s < int(states_.size()); ++s) KLENS_OK(set_state_format(s, format));
    return {};
  }
  /// Bytes of a state per sequence in its present format; of K and V: for `context` tokens.
  std::int64_t state_bytes(int state, int context) const {
    const StateComponent& c = states_[std::size_t(state)];
    return klens::state_bytes(skeleton_, StateSite{c.kind, c.layer, state_format(state)}, context);
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
      site_at(c).w = weights;
      if (is_block_role(layers_[std::size_t(c.layer)].mixer, c.role))   // in every layer that shares the block
        for (LayerView& layer : layers_)
          if (layer.block_source == c.layer) member_of(layer, c.role).w = weights;
    }
    ++version_;
  }
  /// Uses the component's own buffer (the last set_format's, or the file's) again after bind().
  void unbind(int component) { bind(component, slot(component).own()); }

  /// Moves weights that lie in pages of 4 KiB into blocks of huge pages: the model's own matrices below 4 MiB and, if `mapped`,
  /// a packed file's. A core reads matrices of 1 to 4 MiB up to 1.4 times as fast (decode of mamba-130m, one thread, w8a8, Zen 4:
  /// 165 -> 216 tokens/s). No byte changes. Call it when formats are set: a later set_format() leaves a hole.
  void gather_weights(bool mapped = false);

  /// Pristine rows [first, first + out.rows) of a component, widened. Not for packed files.
  Result<void> pristine_rows(int component, std::int64_t first, const Rows<float>& out) const;

  /// Sizes and formats, as a plan's skeleton.
  RuntimePlan plan() const {
    RuntimePlan plan = skeleton_;
    for (int c = 0; c < int(components_.size()); ++c)
      *klens::detail::precision_at(plan, components_[std::size_t(c)].role, components_[std::size_t(c)].layer,
                                   components_[std::size_t(c)].expert) = precision(c);
    for (int s = 0; s < int(states_.size()); ++s)
      set_state(plan, states_[std::size_t(s)].kind, states_[std::size_t(s)].layer, state_format(s));
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
  /// Every tensor that no format applies to, and every multiplier, as kernels read them.
  std::span<const Buffer<float>> small_tensors() const { return buffers_; }
  std::int64_t parameters() const {
    std::int64_t total = small_parameters_;
    for (const Component& c : components_) total += c.parameters();
    return total;
  }

  /// Changes whenever weights or formats do.
  std::uint64_t version() const { return version_; }

  /// Writes the model in its present formats.
  Result<void> write(const std::string& path, const PackOptions& options) const;

 private:
  friend Result<Model> load_model(const std::string& path, const LoadOptions& options);
  friend Result<Model> random_model(const RuntimePlan& plan, const std::string& like);

  struct Slot {
    const TensorView* pristine = nullptr;
    std::int64_t first_row = 0;    // of `pristine`: WeightSource
    int interleave = 1;
    PackedMatrix matrix, placed;   // in use; in the packed file or in `block`
    PackedBuffer owned;            // empty: `placed`
    std::shared_ptr<Buffer<unsigned char>> block;   // gather_weights
    Precision reference;
    PackedMatrix own() const { return owned.rows() != 0 ? owned.matrix() : placed; }
  };

  Model() = default;
  void list_states();
  Result<void> load_states();
  Result<void> check_state(const StateComponent& c, State format) const;
  /// The site of a layer or of one of its experts.
  SiteView& site_at(const Component& c) {
    return c.expert < 0 ? member_of(layers_[std::size_t(c.layer)], c.role)
                        : expert_member(experts_[expert_index(skeleton_, c.layer, c.expert)], c.role);
  }
  /// Where a component lies in the checkpoint.
  WeightSource source_at(const Component& c) const {
    return source_of(reader_of(view_.shape.family), skeleton_, {c.role, c.layer, c.rows, c.cols, {}, c.expert});
  }
  void lay_out_layers();
  void share_block(int layer);
  Slot& slot(int component) { return slots_[std::size_t(component)]; }
  const Slot& slot(int component) const { return slots_[std::size_t(component)]; }

  const TensorView* find_tensor(std::string_view name) const { return packed_ ? packed_->tensor(name) : checkpoint_->find(name); }
  Result<const TensorView*> require(const std::string& name, std::span<const std::int64_t> shape) const;
  Result<const float*> load_vector(const LayerTensor& how);
  Result<const float*> load_meta();
  Result<void> load_scales();
  Result<void> load(bool packed);
  Result<void> load_component(int component);
  Result<void> check_format(int component, const Precision& precision) const;
  Result<void> check_names() const;

  std::string path_;
  ModelConfig config_;
  RuntimePlan skeleton_;
  std::optional<Checkpoint> checkpoint_;
  std::optional<PackedFile> packed_;
  std::vector<Component> components_;
  std::vector<StateComponent> states_;
  std::vector<State> reference_states_;
  std::vector<Slot> slots_;
  std::vector<LayerView> layers_;
  std::vector<ExpertView> experts_;          // as RuntimePlan::experts
  std::vector<Buffer<float>> buffers_;       // small tensors as kernels read them
  std::vector<const TensorView*> small_;     // as they lie in the file, in the order of plan/budget.hpp
  std::int64_t small_bytes_ = 0, small_parameters_ = 0;
  ModelView view_;
  std::uint64_t version_ = 1;
  bool random_ = false;                      // model/random_model.hpp: no file behind it
};

/// A checkpoint folder (io/checkpoint.hpp), or a packed .klens file. Every tensor's name and shape is checked.
inline Result<Model> load_model(const std::string& path, const LoadOptions& options = {});

}  // namespace klens

#include <klens/model/model_impl.hpp>
