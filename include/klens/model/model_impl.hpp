// Bodies of model.hpp.
#pragma once

#include <klens/model/model.hpp>

#include <sys/mman.h>
#include <unistd.h>

namespace klens {
namespace detail {

/// Lets go of a mapped tensor's pages: they are clean, and come back from the file when read again.
inline void release_pages(std::span<const std::byte> data) {
  const std::uintptr_t page = std::uintptr_t(sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(data.data()) + page - 1) / page * page;
  const std::uintptr_t end = reinterpret_cast<std::uintptr_t>(data.data() + data.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

/// The packed format that holds a tensor's numbers exactly (F64: rounded to f32).
inline Precision exact_format(DType type) {
  if (type == DType::f16) return {16, floats(Grid::f16)};
  if (type == DType::bf16) return {16, floats(Grid::bf16)};
  return {};
}

}  // namespace detail

inline Result<const TensorView*> Model::require(const std::string& name, std::span<const std::int64_t> shape) const {
  const TensorView* t = find_tensor(name);
  if (t == nullptr) return Error{ErrorCode::missing, path_, "tensor '" + name + "' " + shape_text(shape), "no such tensor"};
  if (!std::ranges::equal(t->shape, shape)) return Error{ErrorCode::shape, detail::place_of(*t), "shape " + shape_text(shape), shape_text(t->shape)};
  if (!is_float(t->dtype)) return Error{ErrorCode::unsupported, detail::place_of(*t), "F32, F16, BF16 or F64", t->dtype_name};
  return t;
}

inline Result<const float*> Model::load_vector(const LayerTensor& how) {
  KLENS_TRY(const TensorView* const t, require(how.name, how.shape));
  Buffer<float> values(std::size_t(t->count()));
  KLENS_OK(read_f32(*t, values.span()));
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      return Error{ErrorCode::format, detail::place_of(*t), "finite values", std::to_string(values[i]) + " at " + std::to_string(i)};
  if (std::ranges::find(small_, t) == small_.end()) {   // halves of one bias
    small_.push_back(t);
    small_bytes_ += packed_tensor_bytes(std::int64_t(t->data.size()));
    small_parameters_ += t->count();
  }
  const std::int64_t width = how.width, padded = how.padded(), columns = how.columns();
  Buffer<float> out(std::size_t(padded * columns));   // [columns][padded]: conv taps and states come first
  for (std::int64_t i = 0; i < width; ++i)
    for (std::int64_t k = 0; k < columns; ++k) {
      float v = values[std::size_t((how.first + WeightSource::interleaved_row(i, width, how.interleave)) * columns + k)];
      if (how.use == Use::a_log) {
        v = det::decay_rate(v);
        if (!std::isfinite(v)) return Error{ErrorCode::overflow, detail::place_of(*t), "values below 88", "one above at row " + std::to_string(i)};
      }
      out[std::size_t(k * padded + how.place(i))] = v;
    }
  buffers_.push_back(std::move(out));
  return buffers_.back().data();
}

inline Result<const float*> Model::load_meta() {
  const Shape& s = view_.shape;
  if (s.meta == 0) return nullptr;
  const std::int64_t extent[] = {s.meta, s.hidden}, stride = row_stride(s.hidden);
  KLENS_TRY(const TensorView* const t, require(std::string(reader_of(s.family).names.meta), extent));
  Buffer<float> values(std::size_t(t->count())), out(std::size_t(s.meta * stride));
  KLENS_OK(read_f32(*t, values.span()));
  for (std::int64_t i = 0; i < t->count(); ++i) {
    const float v = values[std::size_t(i)];
    if (!std::isfinite(v)) return Error{ErrorCode::format, detail::place_of(*t), "finite values", std::to_string(v) + " at " + std::to_string(i)};
    out[std::size_t(i / s.hidden * stride + i % s.hidden)] = v;
  }
  small_.push_back(t);
  small_bytes_ += packed_tensor_bytes(std::int64_t(t->data.size()));
  small_parameters_ += t->count();
  buffers_.push_back(std::move(out));
  return buffers_.back().data();
}

inline Result<void> Model::load_scales() {
  const auto scale = reader_of(view_.shape.family).output_scale;
  if (scale == nullptr) return {};
  for (const Component& c : components_) {
    if (c.expert > 0) {   // as the layer's first expert
      site_at(c).scale = expert_member(experts_[expert_index(skeleton_, c.layer, 0)], c.role).scale;
      continue;
    }
    KLENS_TRY(const std::vector<float> values, scale(config_, skeleton_, c.role, c.layer));
    if (values.empty()) continue;
    Buffer<float> padded(std::size_t(round_up(c.rows, lanes)));
    std::copy(values.begin(), values.end(), padded.data());
    buffers_.push_back(std::move(padded));
    if (c.role == Role::embedding && view_.shape.tied_head) view_.head.scale = buffers_.back().data();
    else if (c.role == Role::lm_head) view_.head.scale = buffers_.back().data();
    else if (c.layer >= 0) site_at(c).scale = buffers_.back().data();
  }
  return {};
}

inline Result<void> Model::check_format(int component, const Precision& precision) const {
  const Component& c = components_[std::size_t(component)];
  Finding finding;
  detail::weight_rules(precision, field_of(c.role), c.layer, finding);
  if (finding.rule == Rule::none) return {};
  return Error{ErrorCode::unsupported, path_ + ": component '" + c.name + "'" + detail::text_of(finding.rule).member,
               detail::text_of(finding.rule).expected, detail::found_text(finding)};
}

/// The states of the skeleton, in its formats (a checkpoint's: f32).
inline void Model::list_states() {
  for_each_state(skeleton_, [this](const StateSite& site) {
    states_.push_back({component_name(skeleton_.shape.family, site.kind, site.layer), site.kind, site.layer});
    reference_states_.push_back(site.format);
  });
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const LayerPlan& plan = skeleton_.layers[l];
    layers_[l].states = {plan.attention.state, plan.conv.state, plan.scan.state};
  }
}

inline Result<void> Model::check_state(const StateComponent& c, State format) const {
  Finding finding;
  detail::state_rules(c.kind, state_precision(format), c.layer, finding);
  if (finding.rule == Rule::none) return {};
  return Error{ErrorCode::unsupported, path_ + ": component '" + c.name + "'" + detail::text_of(finding.rule).member,
               detail::text_of(finding.rule).expected, detail::found_text(finding)};
}

/// The formats that a packed file says; states it does not name are f32.
inline Result<void> Model::load_states() {
  if (!packed_) return {};
  for (const auto& [name, format] : packed_->info().sites) {
    const auto state = parse_state(format);
    if (!state) return Error{ErrorCode::format, path_ + ": site '" + name.substr(0, 120) + "'", "f32, f16, s16, s8 or s4", "'" + format + "'"};
    KLENS_OK(set_state_format(name, *state));
  }
  for (int s = 0; s < int(states_.size()); ++s) reference_states_[std::size_t(s)] = state_format(s);
  return {};
}

inline Result<void> Model::load_component(int component) {
  const Component& c = components_[std::size_t(component)];
  Slot& slot = slots_[std::size_t(component)];
  if (packed_) {
    const std::string where = path_ + ": matrix '" + c.name + "'";
    const PackedMatrix* m = packed_->matrix(c.name);
    if (m == nullptr) return Error{ErrorCode::missing, where, detail::shape_text(c.rows, c.cols), "no such matrix"};
    if (m->rows != c.rows || m->cols != c.cols)
      return Error{ErrorCode::shape, where, detail::shape_text(c.rows, c.cols), detail::shape_text(m->rows, m->cols)};
    KLENS_OK(check_format(component, m->precision));
    slot.placed = *m;
    slot.reference = m->precision;
    bind(component, *m);
    return {};
  }
  const WeightSource source = source_at(c);
  KLENS_TRY(slot.pristine, require(source.tensor, source.shape));
  slot.first_row = source.first_row, slot.interleave = source.interleave;
  slot.reference = detail::exact_format(slot.pristine->dtype);
  KLENS_TRY(slot.owned, quantize(component, slot.reference));
  bind(component, slot.owned.matrix());
  return {};
}

inline Result<void> Model::check_names() const {
  std::vector<std::string> known;
  for (const Component& c : components_) known.push_back(packed_ ? c.name : source_at(c).tensor);
  for (const TensorView* t : small_) known.push_back(t->name);
  std::ranges::sort(known);
  const auto check = [&](std::string_view name) -> Result<void> {
    if (std::ranges::binary_search(known, name) || may_ignore(view_.shape, name)) return {};
    return Error{ErrorCode::unsupported, path_, "only tensors of a " + std::string(name_of(family())) + " model of this config",
                 "tensor '" + std::string(name.substr(0, 120)) + "'"};
  };
  if (packed_) {
    for (const std::string& name : packed_->names()) KLENS_OK(check(name));
  } else {
    for (const std::string_view name : checkpoint_->names()) KLENS_OK(check(name));
  }
  return {};
}

/// A LayerView per layer of the skeleton, and the experts' behind them.
inline void Model::lay_out_layers() {
  layers_.resize(skeleton_.layers.size()), experts_.resize(skeleton_.experts.size());
  view_.layers = layers_.data();
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    LayerView& layer = layers_[l];
    const LayerPlan& plan = skeleton_.layers[l];
    layer.window = plan.window, layer.kv_source = plan.kv_source, layer.mixer = plan.mixer, layer.ffn = plan.ffn;
    layer.block_source = plan.block_source;
    if (has_experts(plan.ffn)) layer.experts = experts_.data() + expert_index(skeleton_, int(l), 0);
  }
}

/// What a layer that runs another's block takes from it beside the weights (bind).
inline void Model::share_block(int layer) {
  LayerView& to = layers_[std::size_t(layer)];
  if (to.block_source < 0 || to.block_source == layer) return;
  const LayerView& from = layers_[std::size_t(to.block_source)];
  to.block_norm = from.block_norm, to.ffn_norm = from.ffn_norm;
  for (const Role role : layer_roles)
    if (is_block_role(to.mixer, role)) member_of(to, role).bias = member_of(from, role).bias;
}

inline Result<void> Model::load(bool packed) {
  KLENS_TRY(skeleton_, read_skeleton(config_));
  const Shape& s = view_.shape = skeleton_.shape;
  const FamilyReader& reader = reader_of(s.family);
  lay_out_layers();
  for_each_site(skeleton_, [this](const Site& site) {
    components_.push_back({component_name(view_.shape.family, site.role, site.layer, site.expert), site.role, site.layer, site.rows, site.cols, site.expert});
  });
  slots_.resize(components_.size());
  list_states();
  // Small tensors first: a checkpoint of another shape is refused before its projections are packed.
  for (int l = 0; l < s.layers; ++l) {
    LayerView& layer = layers_[std::size_t(l)];
    for (const LayerTensor& t : layer_tensors(reader, skeleton_, l)) {
      KLENS_TRY(kept_in(layer, t), load_vector(t));
    }
    share_block(l);
  }
  KLENS_TRY(view_.final_norm, load_vector({std::string(reader.names.final_norm), {s.hidden}, Use::vector, nullptr}));
  KLENS_TRY(view_.meta, load_meta());
  if (s.qk_dim > 0)   // both operations are exact to rounding in IEEE 754
    view_.attention_scale = s.attention_scale != 0 ? s.attention_scale : float(1.0 / std::sqrt(double(s.qk_dim)));
  KLENS_OK(load_scales());
  KLENS_OK(check_names());
  for (int c = 0; c < int(components_.size()); ++c) KLENS_OK(load_component(c));
  KLENS_OK(load_states());
  if (packed && packed_->info().shape_hash != hash())
    return Error{ErrorCode::shape, path_ + ": shape hash", std::to_string(hash()), std::to_string(packed_->info().shape_hash)};
  return {};
}

inline Result<void> Model::pristine_rows(int component, std::int64_t first, const Rows<float>& out) const {
  const Component& c = components_[std::size_t(component)];
  const TensorView* t = slot(component).pristine;
  if (t == nullptr)
    return Error{ErrorCode::unsupported, path_ + ": component '" + c.name + "'", "a checkpoint folder, which has pristine weights",
                 random_ ? "random weights" : "a packed file"};
  TensorView part = *t;
  const std::size_t row_bytes = std::size_t(c.cols) * std::size_t(size_of(t->dtype));
  if (first < 0 || out.rows < 0 || first + out.rows > c.rows || out.cols != c.cols || out.stride < out.cols)
    return Error{ErrorCode::usage, path_ + ": component '" + c.name + "'", "rows of a " + detail::shape_text(c.rows, c.cols) + " matrix",
                 detail::shape_text(out.rows, out.cols) + " from row " + std::to_string(first)};
  part.shape = {1, c.cols};
  for (std::int64_t r = 0; r < out.rows; ++r) {
    part.data = t->data.subspan(std::size_t(slot(component).first_row + WeightSource::interleaved_row(first + r, c.rows, slot(component).interleave)) * row_bytes, row_bytes);
    KLENS_OK(read_f32(part, std::span(row(out, r), std::size_t(c.cols))));
  }
  return {};
}

inline Result<PackedBuffer> Model::quantize(int component, const Precision& precision, QuantizeNotes* notes) const {
  const Component& c = components_[std::size_t(component)];
  const std::string where = path_ + ": component '" + c.name + "'";
  const auto named = [&where](Error e) { return e.where = where + ": " + e.where, e; };
  KLENS_OK(check_format(component, precision));
  auto made = PackedBuffer::make(precision, c.rows, c.cols);
  if (!made) return named(made.error());
  PackedBuffer whole = *std::move(made);
  // 4 MiB of f32 at a time: panels are contiguous and rows independent, so a block of panels packs to a run of bytes.
  const std::int64_t block = std::max<std::int64_t>(lanes, (std::int64_t(1) << 20) / c.cols / lanes * lanes);
  Buffer<float> wide(std::size_t(std::min<std::int64_t>(block, c.rows) * c.cols));
  const PackedLayout& l = whole.layout();
  for (std::int64_t first = 0; first < c.rows; first += block) {
    const Rows<float> rows{wide.data(), std::min<std::int64_t>(block, c.rows - first), c.cols, c.cols};
    KLENS_OK(pristine_rows(component, first, rows));
    QuantizeNotes found;
    auto part = quantize_rtn(precision, {rows.data, rows.rows, rows.cols, rows.stride}, &found);
    if (!part) return named([&](Error e) { return first == 0 ? e : (e.where = "from row " + std::to_string(first) + ", " + e.where, e); }(part.error()));
    const std::int64_t panel = first / lanes;
    std::memcpy(whole.panel_lines(panel), part->lines().data(), part->lines().size());
    if (l.scale_plane_bytes > 0) std::memcpy(whole.panel_scales(panel), part->scales().data(), part->scales().size());
    if (notes != nullptr && found.lost_groups != 0) {
      if (notes->lost_groups == 0) notes->first_row = first + found.first_row, notes->first_col = found.first_col;
      notes->lost_groups += found.lost_groups, notes->lost_weights += found.lost_weights;
    }
  }
  if (!slot(component).pristine->in_memory) detail::release_pages(slot(component).pristine->data);
  return whole;
}

inline void Model::gather_weights(bool mapped) {
  constexpr std::int64_t huge_from = std::int64_t(4) << 20, block_bytes = std::int64_t(32) << 20;   // Buffer's; of one copy in memory twice
  const auto bytes_of = [&](std::size_t c) {   // 0: stays where it is
    const Slot& s = slots_[c];
    const bool moves = s.owned.rows() != 0 ? s.owned.bytes() < huge_from : mapped && s.block == nullptr;
    const PackedMatrix own = s.own();
    return moves ? round_up(packed_bytes(own.precision, own.rows, own.cols), line_bytes) : 0;
  };
  std::size_t end = 0;
  for (std::size_t first = 0; first < slots_.size(); first = end) {
    std::int64_t total = bytes_of(first);
    for (end = first + 1; end < slots_.size() && total + bytes_of(end) <= block_bytes; ++end) total += bytes_of(end);
    if (total < huge_from) continue;
    const auto block = std::make_shared<Buffer<unsigned char>>(std::size_t(total));
    std::int64_t at = 0;
    for (std::size_t c = first; c < end; ++c) {
      const std::int64_t bytes = bytes_of(c);
      if (bytes == 0) continue;
      Slot& s = slots_[c];
      const PackedMatrix from = s.own();
      const PackedLayout l = layout_of(from.precision, from.rows, from.cols);
      unsigned char* const lines = block->data() + at;
      std::memcpy(lines, from.lines, std::size_t(l.line_plane_bytes));
      if (l.scale_plane_bytes > 0) std::memcpy(lines + l.line_plane_bytes, from.scales, std::size_t(l.scale_plane_bytes));
      if (s.owned.rows() == 0 && s.block == nullptr) {
        detail::release_pages({reinterpret_cast<const std::byte*>(from.lines), std::size_t(l.line_plane_bytes)});
        detail::release_pages({static_cast<const std::byte*>(from.scales), std::size_t(l.scale_plane_bytes)});
      }
      const bool in_use = s.matrix.lines == from.lines;
      s.placed = {lines, l.scale_plane_bytes > 0 ? lines + l.line_plane_bytes : nullptr, from.rows, from.cols, from.precision};
      s.owned = {}, s.block = block;
      if (in_use) bind(int(c), s.placed);
      at += bytes;
    }
  }
}

inline Result<void> Model::write(const std::string& path, const PackOptions& options) const {
  if (random_) return Error{ErrorCode::unsupported, path, "the weights of a checkpoint", path_};
  std::vector<PackedItem> items;
  for (int c = 0; c < int(components_.size()); ++c) items.push_back({components_[std::size_t(c)].name, weights(c), DType::f32, {}, {}});
  for (const TensorView* t : small_) items.push_back({t->name, {}, t->dtype, t->shape, t->data});
  PackedInfo info;
  info.config_json = config_.text, info.tokenizer_json = options.tokenizer_json, info.plan_json = options.plan_json;
  info.provenance = options.provenance, info.shape_hash = hash();
  info.chat_json = options.chat_json, info.generation_json = options.generation_json;
  for (int s = 0; s < int(states_.size()); ++s)
    if (state_format(s) != State::f32) info.sites[states_[std::size_t(s)].name] = name_of(state_format(s));
  return write_packed(path, info, items);
}

inline Result<Model> load_model(const std::string& path, const LoadOptions& options) {
  Model m;
  m.path_ = path;
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return detail::io_error(path, "cannot open", errno);
  if (S_ISDIR(status.st_mode) || is_gguf_file(path)) {
    KLENS_TRY(m.checkpoint_, Checkpoint::open(path));
    m.config_ = m.checkpoint_->config();
  } else if (is_packed_file(path)) {
    KLENS_TRY(m.packed_, PackedFile::open(path, options.verify));
    KLENS_TRY(m.config_, parse_config(m.packed_->info().config_json, path + ": config"));
  } else {
    return Error{ErrorCode::format, path, "a checkpoint folder, a GGUF file or a packed .klens file", "another kind of file"};
  }
  KLENS_OK(m.load(m.packed_.has_value()));
  return m;
}

}  // namespace klens
