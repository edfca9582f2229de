// Session: one sequence running through a model. Owns the states (K and V, conv, scan), the rope table and the workspace.
//
// Any cut of the same tokens into prefill() and step() calls gives the same bits, for any number of threads. Windowed layers keep
// all positions of the context: the window is a mask (i - j <= window, or j is a meta token), in prefill and in decoding alike.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/core/denormals.hpp>
#include <klens/core/det_math.hpp>
#include <klens/core/result.hpp>
#include <klens/model/model.hpp>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

namespace klens {

struct SessionOptions {
  int context = 512;   // text tokens that fit; meta tokens come on top
  int chunk = 128;     // rows per pass of prefill: weights are expanded once per pass; bits do not change
};

/// What a run leaves behind, for the tokens it was given (n of them, meta tokens not counted unless said).
struct Outputs {
  Rows<float> logits = {};                     // of the last `rows` tokens; stride >= round_up(vocab, 16), padding is written
  std::span<const Rows<float>> hidden = {};    // none, or layers + 1 of [n, hidden]: embedding, each layer, the last after the final norm
  std::span<const Rows<float>> inputs = {};    // none, or one per layer of [meta + n, hidden]: what run_from() starts with
};

/// Floats from one logit row to the next.
constexpr std::int64_t logit_stride(const Shape& s) { return round_up(s.vocab, lanes); }

/// cos and sin of position * theta^(-2i/d), i < d/2, for positions [0, capacity): row = cosines, then sines.
inline Buffer<float> rope_table(const Shape& s, int capacity) {
  Buffer<float> table(std::size_t(rope_floats(s, capacity)));
  const int half_dim = s.qk_dim / 2;
  for (int i = 0; i < half_dim; ++i) {
    const double frequency = det::pow(double(s.rope_theta), -2.0 * i / s.qk_dim);
    for (int p = 0; p < capacity; ++p) {
      table[std::size_t(p) * std::size_t(s.qk_dim) + std::size_t(i)] = float(det::cos(p * frequency));
      table[std::size_t(p) * std::size_t(s.qk_dim) + std::size_t(half_dim + i)] = float(det::sin(p * frequency));
    }
  }
  return table;
}

class Session {
 public:
  /// `model` and the team's owner must outlive the session and stay where they are. Formats of the model may change between calls.
  static Result<Session> create(const Model& model, const Program& program, Team team = {}, SessionOptions options = {}) {
    const Shape& s = model.shape();
    const std::string where = "session for " + model.path();
    const std::int64_t capacity = round_up(std::int64_t(s.meta) + options.context, lanes);
    if (options.context < 1 || capacity > max_capacity)
      return Error{ErrorCode::usage, where + ": context", "1 to " + std::to_string(max_capacity - s.meta) + " tokens", std::to_string(options.context)};
    if (options.chunk < 1 || options.chunk > max_chunk)
      return Error{ErrorCode::usage, where + ": chunk", "1 to " + std::to_string(max_chunk) + " rows", std::to_string(options.chunk)};
    const double need = bytes_needed(model, team, int(capacity), options), have = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGESIZE));
    if (need > have)
      return Error{ErrorCode::overflow, where + ": context " + std::to_string(options.context),
                   "states that fit in " + std::to_string(std::int64_t(have / 0x1p20)) + " MiB of memory",
                   std::to_string(std::int64_t(need / 0x1p20)) + " MiB"};
    Session session(model, program, team, int(capacity), options);
    KLENS_OK(session.check_kernels());
    return session;
  }

  /// Back to an empty sequence.
  void reset() {
    for (LayerState& l : layers_) clear(l);
    position_ = 0;
  }

  /// Appends tokens; the meta tokens go first where the sequence is empty. Without out.logits, logits() holds those of the last token.
  Result<void> prefill(std::span<const std::int32_t> ids, const Outputs& out = {}) {
    KLENS_OK(check(ids.size(), out));
    const std::int32_t vocab = model_->shape().vocab;
    for (const std::int32_t id : ids)
      if (id < 0 || id >= vocab)
        return Error{ErrorCode::usage, model_->path() + ": token id", "0 to " + std::to_string(vocab - 1), std::to_string(id)};
    if (ids.empty()) return {};
    run(0, std::max(model_->shape().meta - position_, 0) + int(ids.size()), ids.data(), {}, out);
    return {};
  }

  /// Appends one token and returns the logits after it (vocab of them), valid until the next call.
  Result<std::span<const float>> step(std::int32_t id) {
    KLENS_OK(prefill(std::span(&id, 1)));
    return logits();
  }

  /// Replays a sequence from the inputs of its layers (Outputs::inputs of an earlier run on an empty sequence), skipping the layers
  /// below `layer`: their formats must not have changed since. Where `layer` reads another layer's K and V, the run starts at that
  /// one, because the cache may hold K and V of another run. Afterwards only layers from there on hold a state: reset() before
  /// the next prefill(). Logits are those of prefill() bit for bit.
  Result<void> run_from(int layer, std::span<const Rows<float>> inputs, const Outputs& out) {
    const Shape& s = model_->shape();
    if (layer < 0 || layer >= s.layers || int(inputs.size()) != s.layers)
      return Error{ErrorCode::usage, "run_from", "a layer below " + std::to_string(s.layers) + " and inputs of each layer", std::to_string(layer)};
    const int start = first_layer_of(layer);
    const std::int64_t rows = inputs[std::size_t(start)].rows;
    if (rows <= s.meta) return Error{ErrorCode::usage, "run_from", "more rows than meta tokens", std::to_string(rows)};
    reset();
    KLENS_OK(check(std::size_t(rows - s.meta), out));
    run(start, int(rows), nullptr, inputs, out);
    return {};
  }

  /// Where run_from(layer) starts: the first layer whose K and V it or a later layer reads.
  int first_layer_of(int layer) const {
    int start = layer;
    for (int l = layer; l < model_->shape().layers; ++l) start = std::min(start, model_->view().layers[l].kv_source);
    return start;
  }

  std::span<const float> logits() const { return {logits_.data(), std::size_t(model_->shape().vocab)}; }
  /// Text tokens so far.
  int length() const { return std::max(position_ - model_->shape().meta, 0); }
  int context() const { return options_.context; }
  const Program& program() const { return program_; }
  /// Bytes of states, rope table and workspace.
  std::int64_t bytes() const { return std::int64_t(4 * (states_.size() + rope_.size() + arena_.size() + logits_.size())); }

 private:
  static constexpr std::int64_t max_capacity = 1 << 22;
  static constexpr int max_chunk = 4096;

  static double bytes_needed(const Model& model, Team team, int capacity, const SessionOptions& options) {
    const Shape& s = model.shape();
    double floats = double(rope_floats(s, capacity)) + double(logit_stride(s)) +
                    double(workspace_layout(s, std::min(options.chunk, capacity), std::max(team.threads, 1), capacity).floats);
    for (int l = 0; l < s.layers; ++l) {
      const StateExtent e = state_extent(s, model.view().layers[l].kv_source == l, capacity);
      floats += double(e.k + e.v + e.conv + e.scan);
    }
    return 4 * floats;
  }

  Session(const Model& model, const Program& program, Team team, int capacity, const SessionOptions& options)
      : model_(&model), program_(program), team_(team), options_(options), capacity_(capacity) {
    const Shape& s = model.shape();
    const ModelView& view = model.view();
    std::int64_t floats = 0;
    for (int l = 0; l < s.layers; ++l) {
      const StateExtent e = state_extent(s, view.layers[l].kv_source == l, capacity);
      floats += e.k + e.v + e.conv + e.scan;
    }
    states_ = Buffer<float>(std::size_t(floats));
    layers_.resize(std::size_t(s.layers));
    float* next = states_.data();
    for (int l = 0; l < s.layers; ++l) {
      const int source = view.layers[l].kv_source;
      const StateExtent e = state_extent(s, source == l, capacity);
      LayerState& state = layers_[std::size_t(l)];
      if (source == l) state.kv = {next, next + e.k, capacity, s.kv_heads, s.qk_dim, s.v_dim};
      else state.kv = layers_[std::size_t(source)].kv;
      state.conv = next + e.k + e.v;
      state.scan = state.conv + e.conv;
      next = state.scan + e.scan;
    }
    rope_ = rope_table(s, capacity);
    work_.at = workspace_layout(s, std::min(options.chunk, capacity), std::max(team.threads, 1), capacity);
    arena_ = Buffer<float>(std::size_t(work_.at.floats));
    work_.base = arena_.data();
    logits_ = Buffer<float>(std::size_t(logit_stride(s)));
  }

  void clear(LayerState& l) {
    const StateExtent e = state_extent(model_->shape(), false, capacity_);
    std::memset(l.conv, 0, std::size_t(e.conv) * sizeof(float));
    std::memset(l.scan, 0, std::size_t(e.scan) * sizeof(float));
  }

  /// Every site's format needs a kernel; asked once per change of a format.
  Result<void> check_kernels() {
    if (seen_ == model_->version()) return {};
    if (program_.specialised && program_.policy == Policy::fast)
      return Error{ErrorCode::usage, model_->path() + ": policy of the program",
                   "exact: a specialised program has no faster linears", "fast"};
    if (program_.specialised && program_.shape_hash != model_->hash())
      return Error{ErrorCode::shape, model_->path() + ": shape of the model", "the shape the program was compiled for", "another"};
    for (int c = 0; c < int(model_->components().size()); ++c) {
      const Precision& p = model_->precision(c);
      if (program_.specialised) {
        const bool known = c < program_.sites;
        if (known && p == program_.formats[c]) continue;
        return Error{ErrorCode::format, model_->path() + ": component '" + model_->components()[std::size_t(c)].name + "'",
                     known ? format_name(program_.formats[c]) + ", which the program was compiled for" : "no such component", format_name(p)};
      }
      if (linear_of(*program_.table, p) != nullptr) continue;
      return Error{ErrorCode::no_kernel, model_->path() + ": component '" + model_->components()[std::size_t(c)].name + "'",
                   "a format with a kernel on level " + std::string(name_of(program_.level)), format_name(p)};
    }
    seen_ = model_->version();
    return {};
  }

  Result<void> check(std::size_t tokens, const Outputs& out) {
    KLENS_OK(check_kernels());
    const Shape& s = model_->shape();
    const std::string where = "session for " + model_->path();
    if (tokens > std::size_t(options_.context - length()))
      return Error{ErrorCode::usage, where, "at most " + std::to_string(options_.context) + " tokens of context",
                   std::to_string(std::size_t(length()) + tokens)};
    const auto bad = [&](const Rows<float>& m, std::int64_t rows, std::int64_t stride) { return m.rows > rows || m.stride < stride; };
    if (out.logits.data != nullptr && bad(out.logits, std::int64_t(tokens), logit_stride(s)))
      return Error{ErrorCode::usage, where + ": logits", "at most " + std::to_string(tokens) + " rows with stride " + std::to_string(logit_stride(s)),
                   std::to_string(out.logits.rows) + " rows with stride " + std::to_string(out.logits.stride)};
    const auto wrong_taps = [&](std::span<const Rows<float>> taps, int count, std::int64_t rows) {
      if (taps.empty()) return false;
      if (int(taps.size()) != count) return true;
      for (const Rows<float>& m : taps)
        if (m.rows < rows || m.stride < s.hidden) return true;
      return false;
    };
    if (wrong_taps(out.hidden, s.layers + 1, std::int64_t(tokens)) ||
        wrong_taps(out.inputs, s.layers, std::int64_t(tokens) + std::max(s.meta - position_, 0)))
      return Error{ErrorCode::usage, where + ": hidden states", "a matrix of all rows per layer", "fewer rows or matrices"};
    return {};
  }

  /// Rows [0, rows) of x, from row `from` of the pass, into rows `to`.. of a caller's matrix.
  void copy_out(std::int64_t at, std::int64_t stride, int from, int rows, const Rows<float>& out, std::int64_t to) const {
    for (int r = 0; r < rows; ++r)
      std::memcpy(row(out, to + r), work_.base + at + (from + r) * stride, std::size_t(model_->shape().hidden) * sizeof(float));
  }

  /// Runs `rows` rows (meta tokens first, if any are due) through layers [start, L), in chunks.
  void run(int start, int rows, const std::int32_t* ids, std::span<const Rows<float>> inputs, const Outputs& out) {
    const FlushDenormals flush;
    const Shape& s = model_->shape();
    const StateView state{layers_.data(), rope_.data(), capacity_};
    const std::int64_t stride = work_.at.hidden_stride;
    const int before = position_, text_before = std::max(s.meta - position_, 0), text = rows - text_before;
    const int wanted = out.logits.data != nullptr ? int(out.logits.rows) : 1;   // logits of the last so many tokens
    Pass pass{&model_->view(), &state, &work_, program_.table, team_, nullptr, 0, 0};
    for (int done = 0; done < rows; done += pass.tokens) {
      pass.position = before + done;
      pass.tokens = std::min(rows - done, work_.at.tokens);
      const int meta_rows = std::clamp(text_before - done, 0, pass.tokens);   // of this chunk
      const int first = done + meta_rows - text_before, count = pass.tokens - meta_rows;   // its text tokens
      if (inputs.empty()) {
        pass.ids = ids + std::max(first, 0);
        program_.embed(pass);
      } else {
        for (int r = 0; r < pass.tokens; ++r)
          std::memcpy(work_.base + work_.at.x + r * stride, row(inputs[std::size_t(start)], done + r), std::size_t(s.hidden) * sizeof(float));
      }
      if (out.hidden.empty() && out.inputs.empty()) {
        program_.layers(pass, start, s.layers);
      } else {
        for (int l = start; l < s.layers; ++l) {
          if (!out.inputs.empty()) copy_out(work_.at.x, stride, 0, pass.tokens, out.inputs[std::size_t(l)], done);
          if (!out.hidden.empty()) copy_out(work_.at.x, stride, meta_rows, count, out.hidden[std::size_t(l)], first);
          program_.layers(pass, l, l + 1);
        }
        if (!out.hidden.empty() && count > 0) {
          program_.head(pass, meta_rows, pass.tokens, nullptr, 0);
          copy_out(work_.at.normed, stride, 0, count, out.hidden[std::size_t(s.layers)], first);
        }
      }
      const int begin = std::max(first, text - wanted), end = first + count;   // text tokens whose logits are wanted
      if (count > 0 && begin < end) {
        float* to = out.logits.data != nullptr ? row(out.logits, begin - (text - wanted)) : logits_.data();
        const std::int64_t to_stride = out.logits.data != nullptr ? out.logits.stride : logit_stride(s);
        program_.head(pass, meta_rows + begin - first, pass.tokens, to, to_stride);
      }
    }
    position_ = before + rows;
  }

  const Model* model_;
  Program program_;
  Team team_;
  SessionOptions options_;
  int capacity_ = 0, position_ = 0;
  std::uint64_t seen_ = ~std::uint64_t(0);   // version of the model whose formats were checked
  Buffer<float> states_, rope_, arena_, logits_;
  std::vector<LayerState> layers_;
  Workspace work_;
};

}  // namespace klens
