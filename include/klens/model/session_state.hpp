// SessionState (io/session_file.hpp) against a model and a session: which weights it belongs to, and where its parts
// lie.
//
// Memory of a state: 4 bytes per token, 4 per vocabulary row (logits), the scan and conv states of every layer, and K
// and V of the positions in use. Hymba-1.5B in f32: 8 MiB + 15 KiB per token; a checkpoint within a session (no K, no
// V): 8 MiB.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/core/det_math.hpp>
#include <klens/core/random.hpp>
#include <klens/io/checksum.hpp>
#include <klens/io/session_file.hpp>
#include <klens/model/model.hpp>

#include <unistd.h>

#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace klens {

/// Equal for models that give the same bits to the same tokens: the numbers of every component and of every small tensor as
/// kernels read them, with their formats, from a checkpoint folder or a packed file alike. Reads all weights: 3 GB/s.
inline std::uint64_t weights_hash(const Model& model) {
  Checksum sum;
  for (int c = 0; c < int(model.components().size()); ++c) {
    const PackedMatrix& m = model.weights(c);
    const PackedLayout l = layout_of(m.precision, m.rows, m.cols);
    sum.update(model.components()[std::size_t(c)].name);
    sum.update(format_name(m.precision));
    sum.update(std::as_bytes(std::span(m.lines, std::size_t(l.line_plane_bytes))));
    if (l.scale_plane_bytes > 0)
      sum.update(std::span(static_cast<const std::byte*>(m.scales), std::size_t(l.scale_plane_bytes)));
  }
  for (const Buffer<float>& small : model.small_tensors()) sum.update(std::as_bytes(small.span()));
  return sum.value();
}

/// The formats of a model for people: "w4g32", or "f16 and 3 other formats".
inline std::string formats_text(const Model& model) {
  std::vector<std::string> names;
  for (int c = 0; c < int(model.components().size()); ++c) {
    std::string name = format_name(model.precision(c));
    if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
  }
  if (names.size() < 2) return names.empty() ? "nothing" : names[0];
  return names[0] + " and " + std::to_string(names.size() - 1) +
         (names.size() == 2 ? " other format" : " other formats");
}

/// The program can run the model in its present formats: every linear has a kernel, or is what the program was compiled
/// for.
inline Result<void> check_program(const Model& model, const Program& program) {
  if (program.specialised && program.policy == Policy::fast)
    return Error{ErrorCode::usage, model.path() + ": policy of the program",
                 "exact: a specialised program has no faster linears", "fast"};
  if (program.specialised && program.shape_hash != model.hash())
    return Error{ErrorCode::shape, model.path() + ": shape of the model", "the shape the program was compiled for",
                 "another"};
  for (int c = 0; c < int(model.components().size()); ++c) {
    const Precision& p = model.precision(c);
    const std::string where = model.path() + ": component '" + model.components()[std::size_t(c)].name + "'";
    if (program.specialised) {
      const bool known = c < program.sites;
      if (known && p == program.formats[c]) continue;
      return Error{
          ErrorCode::format, where,
          known ? format_name(program.formats[c]) + ", which the program was compiled for" : "no such component",
          format_name(p)};
    }
    if (linear_of(*program.table, p) != nullptr) continue;
    return Error{ErrorCode::no_kernel, where, "a format with a kernel on level " + std::string(name_of(program.level)),
                 format_name(p)};
  }
  for (int i = 0; program.specialised && i < int(model.states().size()); ++i) {  // behind the sites' formats
    const State format = model.state_format(i), compiled = program.formats[program.sites + i].state;
    if (format == compiled) continue;
    return Error{ErrorCode::format, model.path() + ": component '" + model.states()[std::size_t(i)].name + "'",
                 std::string(name_of(compiled)) + ", which the program was compiled for", std::string(name_of(format))};
  }
  return {};
}

/// What a state was made with, for people. The policy `fast` gives bits of its level's own.
inline std::string made_with(const Model& model, const Program& program) {
  const bool exact = program.policy == Policy::exact;
  return formats_text(model) + (exact ? "" : ", policy fast on " + std::string(name_of(program.level)));
}

/// The hash that a state and a session must share; weights are read once per change of the model.
class StateIdentity {
 public:
  std::uint64_t hash(const Model& model, const Program& program) {
    if (version_ != model.version()) weights_ = weights_hash(model), version_ = model.version();
    return program.policy == Policy::exact ? weights_ : mix64(weights_ + std::uint64_t(program.level) + 1);
  }

 private:
  std::uint64_t version_ = 0, weights_ = 0;
};

/// cos and sin of position * theta^(-2i/d), i < d/2, for positions [0, capacity): row = cosines, then sines.
inline Buffer<float> rope_table(const Shape& s, int capacity) {
  Buffer<float> table(std::size_t(rope_floats(s, capacity)));
  const int half_dim = s.rotary_dim / 2;
  for (int i = 0; i < half_dim; ++i) {
    const double frequency = det::pow(double(s.rope_theta), -2.0 * i / s.rotary_dim);
    for (int p = 0; p < capacity; ++p) {
      table[std::size_t(p) * std::size_t(s.rotary_dim) + std::size_t(i)] = float(det::cos(p * frequency));
      table[std::size_t(p) * std::size_t(s.rotary_dim) + std::size_t(half_dim + i)] = float(det::sin(p * frequency));
    }
  }
  return table;
}

/// `need` bytes fit in the machine's memory beside what is `taken`; else an error at `where`.
inline Result<void> check_memory(const std::string& where, double need, double taken = 0) {
  const double have = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGESIZE)) - taken;
  if (need <= have) return {};
  return Error{ErrorCode::overflow, where, "states that fit in " + std::to_string(std::int64_t(have / 0x1p20)) + " MiB of memory",
               std::to_string(std::int64_t(need / 0x1p20)) + " MiB"};
}

/// One state of a sequence: what it is, and where: `runs` pieces of `run_bytes`, each `stride` bytes after the other.
struct StatePlace {
  StatePart part;  // without bytes
  std::byte* at = nullptr;
  std::int64_t runs = 1, run_bytes = 0, stride = 0;

  bool recurrent() const { return part.kind == StatePartKind::scan || part.kind == StatePartKind::conv; }
  std::int64_t bytes() const { return runs * run_bytes; }
};

/// Owns the states of one sequence: K and V for `capacity` positions, conv and scan. Moves; copy_from() copies what is
/// in use.
class SequenceStates {
 public:
  SequenceStates() = default;
  SequenceStates(const Model& model, int capacity) : view_(&model.view()), capacity_(capacity) {
    const Shape& s = view_->shape;
    memory_ = Buffer<unsigned char>(std::size_t(bytes_for(model, capacity)));
    layers_.reserve(std::size_t(s.layers));
    unsigned char* next = memory_.data();
    for (int l = 0; l < s.layers; ++l) {
      const LayerView& layer = view_->layers[l];
      formats_.push_back(layer.states);
      const KvView shared = layer.kv_source < l ? layers_[std::size_t(layer.kv_source)].kv : KvView{};
      layers_.push_back(layer_state(next, s, layer.mixer, layer.kv_source == l, layer.states, capacity, shared));
      next += extent(l).bytes();
    }
  }

  /// Bytes of the states, and of those that are no K and V.
  static std::int64_t bytes_for(const Model& model, int capacity) { return sum(model, capacity, true); }
  static std::int64_t recurrent_bytes_for(const Model& model) { return sum(model, 0, false); }
  std::int64_t bytes() const { return std::int64_t(memory_.size()); }

  /// What the kernels read, with the table of angles.
  StateView view(const float* rope) { return {layers_.data(), rope, capacity_}; }

  /// Formats of the model's states may change; memory has been laid out for one set of them. The first layer that
  /// differs, or -1.
  int changed_layer() const {
    for (std::size_t l = 0; l < formats_.size(); ++l)
      if (formats_[l] != view_->layers[l].states) return int(l);
    return -1;
  }

  /// As an error for the owner, "session" or "batch".
  Result<void> check_formats(const Model& model, const std::string& owner) const {
    const int l = changed_layer();
    if (l < 0) return {};
    return Error{ErrorCode::format, model.path() + ": states of layer " + std::to_string(l),
                 "the formats the " + owner + " was made with", "others: make another " + owner};
  }

  /// Conv and scan states of an empty sequence; K and V beyond the position are never read.
  void clear() {
    for (int l = 0; l < int(layers_.size()); ++l) {
      const StateExtent e = extent(l);
      if (e.conv > 0) std::memset(layers_[std::size_t(l)].conv, 0, std::size_t(e.conv));
      if (e.scan > 0) std::memset(layers_[std::size_t(l)].scan, 0, std::size_t(e.scan));
    }
  }

  /// Calls visit(place) for every state at `position` (positions in use), layer by layer: scan, conv, k, v, their
  /// scales.
  template <class Visit>
  void for_each(std::int64_t position, Visit&& visit) const {
    const Shape& s = view_->shape;
    for (int l = 0; l < s.layers; ++l) {
      const LayerState& state = layers_[std::size_t(l)];
      const LayerView& layer = view_->layers[l];
      const StateFormats& f = formats_[std::size_t(l)];
      const KvView& kv = state.kv;
      const StateExtent e =
          extent(l);  // scales of the scan and the convolution lie behind their values: one run holds both
      const auto place = [&](StatePartKind kind, State format, void* at, std::array<std::int64_t, 4> dims,
                             std::int64_t runs, std::int64_t run_bytes, std::int64_t stride) {
        const StatePart part{l, kind, std::string(name_of(format)), dims, {}};
        visit(StatePlace{part, static_cast<std::byte*>(at), runs, run_bytes, stride});
      };
      if (e.scan > 0)
        place(StatePartKind::scan, f.scan, state.scan, {div_up(s.inner, lanes), s.n_state, lanes, 1}, 1, e.scan, 0);
      if (e.conv > 0)
        place(StatePartKind::conv, f.conv, state.conv, {s.conv_taps - 1, conv_channels(s, layer.mixer), 1, 1}, 1,
              e.conv, 0);
      if (layer.kv_source != l || !has_attention(layer.mixer)) continue;
      const std::int64_t block = kv_k_block_bytes(f.kv, s.qk_dim), row = kv_v_row_bytes(f.kv, s.v_dim);
      const std::int64_t heads = s.kv_heads, blocks = div_up(position, lanes), capacity = capacity_;
      place(StatePartKind::k, f.kv, kv.k, {heads, blocks, s.qk_dim, lanes}, heads, blocks * block,
            capacity / lanes * block);
      place(StatePartKind::v, f.kv, kv.v, {heads, position, s.v_dim, 1}, heads, position * row, capacity * row);
      if (!is_quantized_kv(f.kv)) continue;
      const auto scales = [&](StatePartKind kind, bf16* at, int dim) {
        const std::int64_t groups = kv_groups(f.kv, dim), one = sizeof(bf16);
        place(kind, f.kv, at, {heads, groups, position, 1}, heads * groups, position * one, capacity * one);
      };
      scales(StatePartKind::k_scale, kv.k_scale, s.qk_dim);
      scales(StatePartKind::v_scale, kv.v_scale, s.v_dim);
    }
  }

  /// Copies of all states at `position`, and back.
  std::vector<StatePart> save(std::int64_t position) const {
    std::vector<StatePart> parts;
    for_each(position, [&](StatePlace&& place) {
      place.part.bytes.resize(std::size_t(place.bytes()));
      copy(place, place.part.bytes.data());
      clear_unused_keys(place.part, formats_[std::size_t(place.part.layer)].kv, position);
      parts.push_back(std::move(place.part));
    });
    return parts;
  }
  void load(std::span<const StatePart> parts, std::int64_t position) {
    std::size_t next = 0;
    for_each(position, [&](const StatePlace& place) { copy(parts[next++].bytes.data(), place); });
  }

  /// The states of another sequence of the same model, whatever its capacity.
  void copy_from(const SequenceStates& other, std::int64_t position) {
    std::vector<StatePlace> from;
    other.for_each(position, [&](StatePlace&& place) { from.push_back(std::move(place)); });
    std::size_t next = 0;
    for_each(position, [&](const StatePlace& to) {
      const StatePlace& f = from[next++];
      for (std::int64_t r = 0; r < to.runs && to.run_bytes > 0; ++r)
        std::memcpy(to.at + r * to.stride, f.at + r * f.stride, std::size_t(to.run_bytes));
    });
  }

  /// Conv and scan states alone: into and out of recurrent_bytes_for(model) bytes.
  void save_recurrent(std::byte* to) const {
    for_each(0, [&](const StatePlace& place) {
      if (place.recurrent()) copy(place, to), to += place.bytes();
    });
  }
  void load_recurrent(const std::byte* from) {
    for_each(0, [&](const StatePlace& place) {
      if (place.recurrent()) copy(from, place), from += place.bytes();
    });
  }

 private:
  static std::int64_t sum(const Model& model, int capacity, bool with_kv) {
    std::int64_t bytes = 0;
    for (int l = 0; l < model.shape().layers; ++l) {
      const LayerView& layer = model.view().layers[l];
      const StateExtent e = state_extent(model.shape(), layer.mixer, layer.kv_source == l, layer.states, capacity);
      bytes += e.conv + e.scan + (with_kv ? e.kv : 0);
    }
    return bytes;
  }
  StateExtent extent(int l) const {
    const LayerView& layer = view_->layers[l];
    return state_extent(view_->shape, layer.mixer, layer.kv_source == l, formats_[std::size_t(l)], capacity_);
  }

  static void copy(const StatePlace& from, std::byte* to) {
    for (std::int64_t r = 0; r < from.runs && from.run_bytes > 0; ++r)
      std::memcpy(to + r * from.run_bytes, from.at + r * from.stride, std::size_t(from.run_bytes));
  }
  static void copy(const std::byte* from, const StatePlace& to) {
    for (std::int64_t r = 0; r < to.runs && to.run_bytes > 0; ++r)
      std::memcpy(to.at + r * to.stride, from + r * to.run_bytes, std::size_t(to.run_bytes));
  }

  /// Positions that K holds beyond the sequence (a longer one that was rolled back) become zeros: equal sequences,
  /// equal bytes. A block is rows of 16 positions; a position takes 4, 2 or 1 bytes of a row (s4: 1, two columns share
  /// a row).
  static void clear_unused_keys(StatePart& part, State format, std::int64_t position) {
    const std::int64_t used = position % lanes, bytes = format == State::f32 ? 4 : format == State::f16 ? 2 : 1;
    if (part.kind != StatePartKind::k || used == 0) return;
    const std::int64_t head = std::int64_t(part.bytes.size()) / part.dims[0], block = head / part.dims[1];
    for (std::int64_t h = 1; h <= part.dims[0]; ++h)
      for (std::int64_t row = h * head - block; row < h * head; row += lanes * bytes)
        std::memset(part.bytes.data() + row + used * bytes, 0, std::size_t((lanes - used) * bytes));
  }

  const ModelView* view_ = nullptr;
  int capacity_ = 0;
  Buffer<unsigned char> memory_;
  std::vector<LayerState> layers_;
  std::vector<StateFormats> formats_;  // as they were when the memory was laid out
};

/// Whether a state can go into a sequence of a model: shape, weights, formats, tokens, and every part's place and size.
inline Result<void> check_state(const SessionState& state, const Model& model, const Program& program,
                                StateIdentity& identity, const SequenceStates& states, int context) {
  const Shape& s = model.shape();
  const std::string where = "state for " + model.path();
  if (state.shape_hash != model.hash())
    return Error{ErrorCode::shape, where, "a model of shape " + hex64(model.hash()), hex64(state.shape_hash)};
  const std::uint64_t hash = identity.hash(model, program);
  if (state.weights_hash != hash)
    return Error{ErrorCode::format, where,
                 "the weights and formats of this model (" + made_with(model, program) + ", " + hex64(hash) + ")",
                 "others (" + detail::clip(state.made_with, 80) + ", " + hex64(state.weights_hash) + ")"};
  if (state.ids.size() > std::size_t(context))
    return Error{ErrorCode::usage, where, "at most " + std::to_string(context) + " tokens of context",
                 std::to_string(state.ids.size())};
  const std::int64_t position = state.ids.empty() ? 0 : s.meta + std::int64_t(state.ids.size());
  if (state.position != position)
    return Error{ErrorCode::format, where + ": position", std::to_string(position), std::to_string(state.position)};
  for (const std::int32_t id : state.ids)
    if (id < 0 || id >= s.vocab)
      return Error{ErrorCode::format, where + ": token id", "0 to " + std::to_string(s.vocab - 1), std::to_string(id)};
  const std::size_t logits = state.ids.empty() ? 0 : std::size_t(s.vocab);
  if (state.logits.size() != logits)
    return Error{ErrorCode::format, where + ": logits", std::to_string(logits), std::to_string(state.logits.size())};
  const auto text = [](const StatePart& p, std::int64_t bytes) {
    return "layer " + std::to_string(p.layer) + " " + std::string(name_of(p.kind)) + " " + p.format + " " +
           shape_text(p.dims) + " of " + std::to_string(bytes) + " bytes";
  };
  std::size_t next = 0;
  std::string expected;  // of the first part that is not as it should be
  states.for_each(position, [&](const StatePlace& place) {
    if (!expected.empty()) return;
    const StatePart* p = next < state.parts.size() ? &state.parts[next] : nullptr;
    const StatePart& mine = place.part;
    if (p != nullptr && p->layer == mine.layer && p->kind == mine.kind && p->format == mine.format &&
        p->dims == mine.dims && std::int64_t(p->bytes.size()) == place.bytes())
      ++next;
    else
      expected = text(mine, place.bytes());
  });
  if (expected.empty() && next == state.parts.size()) return {};
  return Error{ErrorCode::format, where, expected.empty() ? std::to_string(next) + " states" : expected,
               next == state.parts.size() ? std::to_string(next) + " states"
                                          : text(state.parts[next], std::int64_t(state.parts[next].bytes.size()))};
}

}  // namespace klens
