// Session: one sequence running through a model; over 400 lines because it is one class. Owns the states (K and V, conv,
// scan), the rope table and the workspace.
//
// Any cut of the same tokens into prefill() and step() calls gives the same bits, for any number of threads. Windowed
// layers keep all positions of the context: the window is a mask (i - j <= window, or j is a meta token), always.
//
// A sequence can be saved (snapshot, restore), doubled (fork) and taken back (checkpoint, roll_back); what follows has
// the bits of a session that never went there. K and V are cut off where the sequence is; scan and conv states cannot
// be undone, so a session keeps them at checkpoints and computes the tokens since again. step() allocates nothing.
// Tests: tests/model/equality.cpp, tests/model/session.cpp.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/core/denormals.hpp>
#include <klens/core/result.hpp>
#include <klens/model/model.hpp>
#include <klens/model/session_state.hpp>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace klens {

struct SessionOptions {
  int context = 512;    // text tokens that fit; meta tokens come on top
  int chunk = 128;      // rows per pass of prefill: weights are expanded once per pass; bits do not change
  int checkpoints = 0;  // the last so many, for roll_back(); each costs the scan and conv states and a row of logits
};

/// What a run leaves behind, for the tokens it was given (n of them, meta tokens not counted unless said).
struct Outputs {
  Rows<float> logits = {};  // of the last `rows` tokens; stride >= round_up(vocab, 16), padding is written
  // None, or layers + 1 of [n, hidden]: embedding, each layer, the last after the final norm.
  std::span<const Rows<float>> hidden = {};
  std::span<const Rows<float>> inputs =
      {};  // none, or one per layer of [meta + n, hidden]: what run_from() starts with
  std::span<std::int64_t> routed = {};  // none, or [layers][experts]: rows that passed each expert are added
};

/// Floats from one logit row to the next.
constexpr std::int64_t logit_stride(const Shape& s) { return round_up(s.vocab, lanes); }

class Session {
 public:
  /// `model` and the team's owner must outlive the session and stay where they are. Formats of the model may change
  /// between calls.
  static Result<Session> create(const Model& model, const Program& program, Team team = {},
                                SessionOptions options = {}) {
    const Shape& s = model.shape();
    const std::string where = "session for " + model.path();
    const std::int64_t capacity = round_up(std::int64_t(s.meta) + options.context, lanes);
    if (options.context < 1 || capacity > max_capacity)
      return Error{ErrorCode::usage, where + ": context", "1 to " + std::to_string(max_capacity - s.meta) + " tokens",
                   std::to_string(options.context)};
    if (options.chunk < 1 || options.chunk > max_chunk)
      return Error{ErrorCode::usage, where + ": chunk", "1 to " + std::to_string(max_chunk) + " rows",
                   std::to_string(options.chunk)};
    if (options.checkpoints < 0 || options.checkpoints > max_checkpoints)
      return Error{ErrorCode::usage, where + ": checkpoints", "0 to " + std::to_string(max_checkpoints),
                   std::to_string(options.checkpoints)};
    KLENS_OK(check_memory(model, team, int(capacity), options));
    Session session(model, program, team, int(capacity), options, rope_table(s, int(capacity)));
    KLENS_OK(session.check_kernels());
    return session;
  }

  /// Back to an empty sequence.
  void reset() {
    states_.clear();
    position_ = 0;
    ids_.clear();
    marks_.clear();
  }

  /// Appends tokens; the meta tokens go first where the sequence is empty. logits() holds those of the last token.
  Result<void> prefill(std::span<const std::int32_t> ids, const Outputs& out = {}) {
    KLENS_OK(check(ids.size(), out));
    const std::int32_t vocab = model_->shape().vocab;
    for (const std::int32_t id : ids)
      if (id < 0 || id >= vocab)
        return Error{ErrorCode::usage, model_->path() + ": token id", "0 to " + std::to_string(vocab - 1),
                     std::to_string(id)};
    if (ids.empty()) return {};
    made_by_ = position_ == 0 || made_by_ == model_->version() ? model_->version() : 0;
    run(0, std::max(model_->shape().meta - position_, 0) + int(ids.size()), ids.data(), {}, out);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    return {};
  }

  /// Appends one token and returns the logits after it (vocab of them), valid until the next call.
  Result<std::span<const float>> step(std::int32_t id) {
    KLENS_OK(prefill(std::span(&id, 1)));
    return logits();
  }

  /// Replays a sequence from the inputs of its layers (Outputs::inputs of an earlier run on an empty sequence),
  /// skipping the layers below `layer`: their formats must not have changed since. Where `layer` reads another layer's
  /// K and V, the run starts at that one, because the cache may hold K and V of another run. Afterwards only layers
  /// from there on hold a state: reset() before the next prefill(). Logits are those of prefill() bit for bit.
  Result<void> run_from(int layer, std::span<const Rows<float>> inputs, const Outputs& out) {
    const Shape& s = model_->shape();
    if (layer < 0 || layer >= s.layers || int(inputs.size()) != s.layers)
      return Error{ErrorCode::usage, "run_from",
                   "a layer below " + std::to_string(s.layers) + " and inputs of each layer", std::to_string(layer)};
    const int start = first_layer_of(layer);
    const std::int64_t rows = inputs[std::size_t(start)].rows;
    if (rows <= s.meta) return Error{ErrorCode::usage, "run_from", "more rows than meta tokens", std::to_string(rows)};
    reset();
    KLENS_OK(check(std::size_t(rows - s.meta), out));
    made_by_ = 0;  // not a whole sequence
    run(start, int(rows), nullptr, inputs, out);
    return {};
  }

  /// Advances by tokens (and the meta tokens, where they are due) that are never run: K, V and recurrent states stay
  /// what they are, zeros in a new session. A later step costs what it costs behind real tokens; its logits mean
  /// nothing. For benches.
  Result<void> skip(int tokens) {
    if (tokens < 0 || tokens > options_.context - length())
      return Error{ErrorCode::usage, "session for " + model_->path(),
                   "at most " + std::to_string(options_.context) + " tokens of context",
                   std::to_string(std::int64_t(length()) + tokens)};
    made_by_ = 0;  // not a whole sequence
    position_ = std::max(position_, model_->shape().meta) + tokens;
    return {};
  }

  /// Where run_from(layer) starts: the first layer whose K and V it or a later layer reads.
  int first_layer_of(int layer) const {
    int start = layer;
    for (int l = layer; l < model_->shape().layers; ++l) start = std::min(start, model_->view().layers[l].kv_source);
    return start;
  }

  /// A copy of the sequence: ids, logits after the last of them, states of the positions in use (memory:
  /// session_state.hpp). Reads all weights of the model once, for their hash.
  Result<SessionState> snapshot() {
    KLENS_OK(check_kernels());
    KLENS_OK(check_whole("snapshot"));
    SessionState state;
    state.shape_hash = model_->hash(), state.weights_hash = identity_.hash(*model_, program_);
    state.made_with = made_with(*model_, program_), state.position = position_, state.ids = ids_;
    if (!ids_.empty()) state.logits.assign(logits_.data(), logits_.data() + model_->shape().vocab);
    state.parts = states_.save(position_);
    return state;
  }

  /// Continues a snapshot, of this session or of any other of a model with the same weights and formats: on another
  /// machine, level, number of threads, with another context (its tokens must fit). A program of the policy `fast`
  /// continues its own level's only. The session stays as it is on an error.
  Result<void> restore(const SessionState& state) {
    KLENS_OK(check_kernels());
    KLENS_OK(check_state(state, *model_, program_, identity_, states_, options_.context));
    reset();
    position_ = int(state.position);
    made_by_ = model_->version();
    ids_.assign(state.ids.begin(), state.ids.end());
    std::copy(state.logits.begin(), state.logits.end(), logits_.data());
    states_.load(state.parts, position_);
    return {};
  }

  /// A second session with the same contents, checkpoints too. It runs on the same team (or on another): sessions of
  /// one team take turns.
  Result<Session> fork() const { return fork(team_); }
  Result<Session> fork(Team team) const {
    KLENS_OK(states_.check_formats(*model_, "session"));
    KLENS_OK(check_memory(*model_, team, capacity_, options_));
    Buffer<float> rope(rope_.size());
    std::memcpy(rope.data(), rope_.data(), rope_.size() * sizeof(float));
    Session other(*model_, program_, team, capacity_, options_, std::move(rope));
    other.states_.copy_from(states_, position_);
    if (logits_.size() > 0) std::memcpy(other.logits_.data(), logits_.data(), logits_.size() * sizeof(float));
    if (ring_.size() > 0) std::memcpy(other.ring_.data(), ring_.data(), ring_.size());
    other.ids_.assign(ids_.begin(), ids_.end());
    other.marks_.assign(marks_.begin(), marks_.end());
    other.position_ = position_, other.made_by_ = made_by_, other.seen_ = seen_, other.next_slot_ = next_slot_;
    return other;
  }

  /// Keeps the scan and conv states of here; the oldest checkpoint goes when there are options.checkpoints of them.
  /// Before drafted tokens, one checkpoint makes taking them back cost the accepted ones again; one after each token,
  /// nothing.
  Result<void> checkpoint() {
    KLENS_OK(check_whole("checkpoint"));
    if (options_.checkpoints == 0)
      return Error{ErrorCode::usage, "checkpoint", "a session with options.checkpoints above 0", "0"};
    if (!marks_.empty() && marks_.back().length == length()) return {};
    if (int(marks_.size()) == options_.checkpoints) marks_.erase(marks_.begin());
    marks_.push_back({length(), next_slot_});
    std::byte* slot = ring_.data() + next_slot_ * slot_bytes_;
    std::memcpy(slot, logits_.data(), 4 * logits_.size());
    states_.save_recurrent(slot + 4 * logits_.size());
    next_slot_ = (next_slot_ + 1) % options_.checkpoints;
    return {};
  }

  /// Takes back all tokens from number `length` on. Starts from the latest checkpoint at or before it (the empty
  /// sequence is always one) and runs the tokens since again. Later checkpoints are gone. logits() is valid where
  /// length is above 0.
  Result<void> roll_back(int length) {
    KLENS_OK(check_whole("roll_back"));
    if (length < 0 || length > this->length())
      return Error{ErrorCode::usage, "roll_back", "0 to " + std::to_string(this->length()) + " tokens",
                   std::to_string(length)};
    if (length == this->length()) return {};
    while (!marks_.empty() && marks_.back().length > length) {
      next_slot_ = marks_.back().slot;
      marks_.pop_back();
    }
    const int from = marks_.empty() ? 0 : marks_.back().length;
    if (from == 0) {
      states_.clear();
      position_ = 0;
    } else {
      const std::byte* slot = ring_.data() + marks_.back().slot * slot_bytes_;
      std::memcpy(logits_.data(), slot, 4 * logits_.size());
      states_.load_recurrent(slot + 4 * logits_.size());
      position_ = model_->shape().meta + from;
    }
    if (length > from)
      run(0, std::max(model_->shape().meta - position_, 0) + length - from, ids_.data() + from, {}, {});
    ids_.resize(std::size_t(length));
    return {};
  }

  /// All tokens of the sequence (meta tokens have no id).
  std::span<const std::int32_t> ids() const { return ids_; }
  std::span<const float> logits() const { return {logits_.data(), std::size_t(model_->shape().vocab)}; }
  /// Text tokens so far.
  int length() const { return std::max(position_ - model_->shape().meta, 0); }
  int context() const { return options_.context; }
  const Model& model() const { return *model_; }
  const Program& program() const { return program_; }
  /// Bytes of states, checkpoints, rope table and workspace.
  std::int64_t bytes() const {
    return std::int64_t(std::size_t(states_.bytes()) + ring_.size() +
                        4 * (rope_.size() + arena_.size() + logits_.size()));
  }

 private:
  static constexpr std::int64_t max_capacity = 1 << 22;
  static constexpr int max_chunk = 4096, max_checkpoints = 4096;

  /// A checkpoint: after how many tokens, and which slot of ring_ holds its states.
  struct Mark {
    int length, slot;
  };

  static Result<void> check_memory(const Model& model, Team team, int capacity, const SessionOptions& options) {
    return klens::check_memory("session for " + model.path() + ": context " + std::to_string(options.context),
                               bytes_needed(model, team, capacity, options));
  }

  static double bytes_needed(const Model& model, Team team, int capacity, const SessionOptions& options) {
    const Shape& s = model.shape();
    const double floats =
        double(rope_floats(s, capacity)) + double(logit_stride(s)) +
        double(workspace_layout(s, model.uses(), std::min(options.chunk, capacity), std::max(team.threads, 1), capacity)
                   .floats);
    const double checkpoint = 4.0 * double(logit_stride(s)) + double(SequenceStates::recurrent_bytes_for(model));
    return 4 * floats + double(SequenceStates::bytes_for(model, capacity)) + options.checkpoints * checkpoint;
  }

  Session(const Model& model, const Program& program, Team team, int capacity, const SessionOptions& options,
          Buffer<float> rope)
      : model_(&model), program_(program), team_(team), options_(options), capacity_(capacity) {
    const Shape& s = model.shape();
    states_ = SequenceStates(model, capacity);
    rope_ = std::move(rope);
    work_.at =
        workspace_layout(s, model.uses(), std::min(options.chunk, capacity), std::max(team.threads, 1), capacity);
    arena_ = Buffer<float>(std::size_t(work_.at.floats));
    work_.base = arena_.data();
    logits_ = Buffer<float>(std::size_t(logit_stride(s)));
    ids_.reserve(std::size_t(options.context));
    if (options.checkpoints > 0) {
      slot_bytes_ = 4 * logit_stride(s) + SequenceStates::recurrent_bytes_for(model);
      ring_ = Buffer<std::byte>(std::size_t(options.checkpoints * slot_bytes_));
      marks_.reserve(std::size_t(options.checkpoints));
    }
  }

  /// The states are those of all ids_, computed with the model's present formats.
  Result<void> check_whole(const char* what) const {
    if (position_ == 0 || made_by_ == model_->version()) return {};
    return Error{ErrorCode::usage, std::string(what) + " of a session for " + model_->path(),
                 "a sequence run as a whole in the model's present formats",
                 "formats that changed since, or run_from()"};
  }

  /// Every site's format needs a kernel; asked once per change of a format.
  Result<void> check_kernels() {
    if (seen_ == model_->version()) return {};
    KLENS_OK(check_program(*model_, program_));
    KLENS_OK(states_.check_formats(*model_, "session"));
    seen_ = model_->version();
    return {};
  }
  Result<void> check(std::size_t tokens, const Outputs& out) {
    KLENS_OK(check_kernels());
    const Shape& s = model_->shape();
    const auto where = [this] {
      return "session for " + model_->path();
    };  // made on errors only: a step allocates nothing
    if (tokens > std::size_t(options_.context - length()))
      return Error{ErrorCode::usage, where(), "at most " + std::to_string(options_.context) + " tokens of context",
                   std::to_string(std::size_t(length()) + tokens)};
    const auto bad = [&](const Rows<float>& m, std::int64_t rows, std::int64_t stride) {
      return m.rows > rows || m.stride < stride;
    };
    if (out.logits.data != nullptr && bad(out.logits, std::int64_t(tokens), logit_stride(s)))
      return Error{ErrorCode::usage, where() + ": logits",
                   "at most " + std::to_string(tokens) + " rows with stride " + std::to_string(logit_stride(s)),
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
      return Error{ErrorCode::usage, where() + ": hidden states", "a matrix of all rows per layer",
                   "fewer rows or matrices"};
    if (const std::size_t counters = std::size_t(s.layers) * std::size_t(s.experts); !out.routed.empty() && out.routed.size() != counters)
      return Error{ErrorCode::usage, where() + ": routed", std::to_string(counters) + " counters, layers times experts",
                   std::to_string(out.routed.size())};
    return {};
  }

  /// Rows [0, rows) of x, from row `from` of the pass, into rows `to`.. of a caller's matrix.
  void copy_out(std::int64_t at, std::int64_t stride, int from, int rows, const Rows<float>& out,
                std::int64_t to) const {
    for (int r = 0; r < rows; ++r)
      std::memcpy(row(out, to + r), work_.base + at + (from + r) * stride,
                  std::size_t(model_->shape().hidden) * sizeof(float));
  }

  /// Runs `rows` rows (meta tokens first, if any are due) through layers [start, L), in chunks.
  void run(int start, int rows, const std::int32_t* ids, std::span<const Rows<float>> inputs, const Outputs& out) {
    const FlushDenormals flush;
    const Shape& s = model_->shape();
    const StateView state = states_.view(rope_.data());
    const std::int64_t stride = work_.at.hidden_stride;
    const int before = position_, text_before = std::max(s.meta - position_, 0), text = rows - text_before;
    const bool into_rows = out.logits.data != nullptr && out.logits.rows > 0;
    const int wanted = into_rows ? int(out.logits.rows) : 1;  // logits of the last so many tokens
    Span span{&state, nullptr, 0, 0, 0};
    Pass pass{&model_->view(), &work_, program_.table, team_, &span, 1, 0, out.routed.empty() ? nullptr : out.routed.data()};
    for (int done = 0; done < rows; done += pass.tokens) {
      span.position = before + done;
      span.tokens = pass.tokens = std::min(rows - done, work_.at.tokens);
      const int meta_rows = std::clamp(text_before - done, 0, pass.tokens);               // of this chunk
      const int first = done + meta_rows - text_before, count = pass.tokens - meta_rows;  // its text tokens
      if (inputs.empty()) {
        span.ids = ids + std::max(first, 0);
        program_.embed(pass);
      } else {
        for (int r = 0; r < pass.tokens; ++r)
          std::memcpy(work_.base + work_.at.x + r * stride, row(inputs[std::size_t(start)], done + r),
                      std::size_t(s.hidden) * sizeof(float));
        for (int r = 0; work_.at.pair_stride > 0 && r < pass.tokens; ++r)   // shared blocks read the embedding's output too
          std::memcpy(work_.base + work_.at.first + r * stride, row(inputs[0], done + r), std::size_t(s.hidden) * sizeof(float));
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
      const int begin = std::max(first, text - wanted), end = first + count;  // text tokens whose logits are wanted
      if (count > 0 && begin < end) {
        float* to = into_rows ? row(out.logits, begin - (text - wanted)) : logits_.data();
        const std::int64_t to_stride = into_rows ? out.logits.stride : logit_stride(s);
        program_.head(pass, meta_rows + begin - first, pass.tokens, to, to_stride);
      }
    }
    if (into_rows) std::memcpy(logits_.data(), row(out.logits, wanted - 1), std::size_t(s.vocab) * sizeof(float));
    position_ = before + rows;
  }

  const Model* model_;
  Program program_;
  Team team_;
  SessionOptions options_;
  int capacity_ = 0, position_ = 0;
  std::uint64_t seen_ = ~std::uint64_t(0);  // version of the model whose formats were checked
  std::uint64_t made_by_ = 0;               // version of the model that made the states; 0: several, or not all of them
  StateIdentity identity_;
  SequenceStates states_;
  Buffer<float> rope_, arena_, logits_;
  Buffer<std::byte> ring_;  // [checkpoints][slot_bytes_]: logits, then scan and conv states
  std::int64_t slot_bytes_ = 0;
  int next_slot_ = 0;
  std::vector<Mark> marks_;        // oldest first; slots in order of the ring
  std::vector<std::int32_t> ids_;  // of the sequence; room for the whole context
  Workspace work_;
};

}  // namespace klens
