// Batch: several sequences of one model in one pass. A pass takes the tokens that wait: one row of every sequence that
// decodes, and as many more as fit of those whose prompt is still coming in; linears then read their weights once for
// all rows. Sequences come and go between passes.
//
// Each sequence has the bits of the same tokens in a Session alone, whatever runs beside it: linears and row-wise
// kernels give equal bits for any number of rows, convolutions, scans and attention run by sequence. Memory: states of
// every sequence for the whole context, one row of logits each; one workspace. A removed sequence's memory serves the
// next one. Tests: tests/model/batch.cpp.
#pragma once

#include <klens/model/session.hpp>

#include <memory>

namespace klens {

struct BatchOptions {
  int sequences = 8;  // at most, at a time
  int context = 512;  // text tokens of each that fit; meta tokens come on top
  int rows = 128;     // of a pass: bits do not change
};

class Batch {
 public:
  /// `model` and the team's owner must outlive the batch and stay where they are. Formats may change between passes as
  /// for a Session: sequences in them are then those of neither model.
  static Result<Batch> create(const Model& model, const Program& program, Team team = {}, BatchOptions options = {}) {
    const std::string where = "batch for " + model.path();
    const auto in_range = [&](const char* name, int value, std::int64_t most) -> Result<void> {
      if (value >= 1 && value <= most) return {};
      return Error{ErrorCode::usage, where + ": " + name, "1 to " + std::to_string(most), std::to_string(value)};
    };
    KLENS_OK(in_range("sequences", options.sequences, 1 << 16));
    KLENS_OK(in_range("context", options.context, (1 << 22) - model.shape().meta));
    KLENS_OK(in_range("rows", options.rows, 4096));
    Batch batch(model, program, team, options);
    KLENS_OK(batch.check_formats());
    return batch;
  }

  /// A new sequence, empty or the continuation of a snapshot (of a Session, or of a Batch). Its number stays its name
  /// until remove(). Fails where all `sequences` are taken or memory does not hold one more.
  Result<int> add() { return add(nullptr); }
  Result<int> add(const SessionState& state) { return add(&state); }

  Result<void> remove(int sequence) {
    KLENS_OK(check(sequence, "remove"));
    at(sequence).used = false;
    return {};
  }

  /// Tokens that the next passes run. All of them are checked first: an error changes nothing.
  Result<void> append(int sequence, std::span<const std::int32_t> ids) {
    KLENS_OK(check(sequence, "append"));
    Sequence& s = at(sequence);
    const std::int32_t vocab = model_->shape().vocab;
    if (ids.size() > std::size_t(options_.context) - s.ids.size())
      return Error{ErrorCode::usage, where(sequence),
                   "at most " + std::to_string(options_.context) + " tokens of context",
                   std::to_string(s.ids.size() + ids.size())};
    for (const std::int32_t id : ids)
      if (id < 0 || id >= vocab)
        return Error{ErrorCode::usage, where(sequence) + ": token id", "0 to " + std::to_string(vocab - 1),
                     std::to_string(id)};
    s.ids.insert(s.ids.end(), ids.begin(), ids.end());
    return {};
  }
  Result<void> append(int sequence, std::int32_t id) { return append(sequence, std::span(&id, 1)); }

  /// One pass over tokens that wait, options.rows at most. Returns how many rows it had; 0: nothing waits.
  Result<int> run() {
    KLENS_OK(check_formats());
    spans_.clear();
    running_.clear();
    int rows = 0;
    const int count = int(sequences_.size());
    const auto take = [&](int index, int most) {
      Sequence& s = *sequences_[std::size_t(index)];
      const int n = std::min({due(s), most, options_.rows - rows});
      if (n <= 0) return;
      const int text = s.position > meta() ? s.position - meta() : 0;
      spans_.push_back({&s.view, s.ids.data() + text, rows, n, s.position});
      running_.push_back(index);
      rows += n;
    };
    // Who decodes comes first, then prompts in turn; the first of either changes from pass to pass, so that nobody
    // waits for ever. Rows of a sequence are one span.
    for (const bool decoding : {true, false})
      for (int i = 0; i < count; ++i) {
        const int index = (first_ + i) % count;
        if (sequences_[std::size_t(index)]->used && (due(*sequences_[std::size_t(index)]) == 1) == decoding)
          take(index, options_.rows);
      }
    if (rows == 0) return 0;
    first_ = (first_ + 1) % count;

    const FlushDenormals flush;
    const Pass pass{&model_->view(), &work_, program_.table, team_, spans_.data(), int(spans_.size()), rows, nullptr};
    program_.embed(pass);
    program_.layers(pass, 0, model_->shape().layers);
    for (std::size_t i = 0; i < spans_.size(); ++i) {
      Sequence& s = *sequences_[std::size_t(running_[i])];
      s.made_by = s.position == 0 || s.made_by == model_->version() ? model_->version() : 0;
      s.position += spans_[i].tokens;
    }
    head(pass);
    return rows;
  }

  /// Runs until nothing waits.
  Result<void> run_all() {
    for (int rows = 1; rows > 0;) {
      KLENS_TRY(rows, run());
    }
    return {};
  }

  /// Tokens that wait, of one sequence.
  int waiting(int sequence) const { return int(ids(sequence).size()) - length(sequence); }
  /// Tokens that have been run, and all tokens, those that wait too.
  int length(int sequence) const { return std::max(at(sequence).position - meta(), 0); }
  std::span<const std::int32_t> ids(int sequence) const { return at(sequence).ids; }
  /// Logits after the last token, valid once nothing of the sequence waits, until a pass runs more of it.
  std::span<const float> logits(int sequence) const {
    return {at(sequence).logits.data(), std::size_t(model_->shape().vocab)};
  }
  bool has(int sequence) const {
    return sequence >= 0 && sequence < int(sequences_.size()) && sequences_[std::size_t(sequence)]->used;
  }
  /// Sequences there are.
  int size() const {
    int n = 0;
    for (const auto& s : sequences_) n += s->used;
    return n;
  }

  /// A copy of a sequence of which nothing waits: what Session::snapshot gives for the same tokens.
  Result<SessionState> snapshot(int sequence) {
    KLENS_OK(check(sequence, "snapshot"));
    KLENS_OK(check_formats());
    const Sequence& s = at(sequence);
    if (waiting(sequence) != 0)
      return Error{ErrorCode::usage, where(sequence), "a sequence of which no token waits",
                   std::to_string(waiting(sequence)) + " that do"};
    if (s.position != 0 && s.made_by != model_->version())
      return Error{ErrorCode::usage, where(sequence), "a sequence run as a whole in the model's present formats",
                   "formats that changed since"};
    SessionState state;
    state.shape_hash = model_->hash(), state.weights_hash = identity_.hash(*model_, program_);
    state.made_with = made_with(*model_, program_), state.position = s.position, state.ids = s.ids;
    if (!s.ids.empty()) state.logits.assign(s.logits.data(), s.logits.data() + model_->shape().vocab);
    state.parts = s.states.save(s.position);
    return state;
  }

  const Model& model() const { return *model_; }
  /// Bytes of states, logits, rope table and workspace.
  std::int64_t bytes() const {
    std::int64_t total = std::int64_t(4 * (rope_.size() + arena_.size() + picked_.size()));
    for (const auto& s : sequences_) total += s->states.bytes() + std::int64_t(4 * s->logits.size());
    return total;
  }

 private:
  struct Sequence {
    SequenceStates states;
    StateView view;
    Buffer<float> logits;
    std::vector<std::int32_t> ids;  // run and waiting; room for the whole context
    int position = 0;
    std::uint64_t made_by = 0;  // as in Session
    bool used = false;
  };

  Batch(const Model& model, const Program& program, Team team, const BatchOptions& options)
      : model_(&model), program_(program), team_(team), options_(options) {
    const Shape& s = model.shape();
    capacity_ = int(round_up(std::int64_t(s.meta) + options.context, lanes));
    rope_ = rope_table(s, capacity_);
    work_.at = workspace_layout(s, model.uses(), options.rows, std::max(team.threads, 1), capacity_);
    arena_ = Buffer<float>(std::size_t(work_.at.floats));
    work_.base = arena_.data();
    picked_ = Buffer<float>(std::size_t(std::min(options.sequences, options.rows) * logit_stride(s)));
    spans_.reserve(std::size_t(options.sequences));
    running_.reserve(std::size_t(options.sequences));
    sequences_.reserve(std::size_t(options.sequences));
  }

  Result<int> add(const SessionState* state) {
    KLENS_OK(check_formats());
    int index = 0;
    while (index < int(sequences_.size()) && sequences_[std::size_t(index)]->used) ++index;
    if (index == options_.sequences)
      return Error{ErrorCode::usage, "batch for " + model_->path(),
                   "at most " + std::to_string(options_.sequences) + " sequences", "one more"};
    if (index == int(sequences_.size())) {
      KLENS_OK(check_memory("batch for " + model_->path() + ": one more sequence",
                            double(SequenceStates::bytes_for(*model_, capacity_)), double(bytes())));
      sequences_.push_back(std::make_unique<Sequence>());
      Sequence& s = *sequences_.back();
      s.states = SequenceStates(*model_, capacity_);
      s.view = s.states.view(rope_.data());
      s.logits = Buffer<float>(std::size_t(logit_stride(model_->shape())));
      s.ids.reserve(std::size_t(options_.context));
    }
    Sequence& s = at(index);
    if (state != nullptr) KLENS_OK(check_state(*state, *model_, program_, identity_, s.states, options_.context));
    s.states.clear();
    s.ids.clear();
    s.position = 0, s.made_by = 0, s.used = true;
    if (state != nullptr) {
      s.ids.assign(state->ids.begin(), state->ids.end());
      s.position = int(state->position), s.made_by = model_->version();
      std::copy(state->logits.begin(), state->logits.end(), s.logits.data());
      s.states.load(state->parts, state->position);
    }
    return index;
  }

  /// Final norm and logits of the sequences that have caught up: their last rows, moved together, are one matrix.
  void head(const Pass& pass) {
    const std::int64_t stride = logit_stride(model_->shape()), width = work_.at.hidden_stride;
    float* x = work_.base + work_.at.x;
    int count = 0;
    for (std::size_t i = 0; i < spans_.size(); ++i) {
      if (due(*sequences_[std::size_t(running_[i])]) != 0) continue;
      const int last = spans_[i].row + spans_[i].tokens - 1;  // not below `count`: every span before has a row or more
      if (last != count) std::memcpy(x + count * width, x + last * width, std::size_t(width) * sizeof(float));
      running_[std::size_t(count++)] = running_[i];
    }
    if (count == 0) return;
    program_.head(pass, 0, count, picked_.data(), stride);
    for (int i = 0; i < count; ++i)
      std::memcpy(at(running_[std::size_t(i)]).logits.data(), picked_.data() + i * stride,
                  std::size_t(stride) * sizeof(float));
  }

  int meta() const { return model_->shape().meta; }
  /// Rows that a sequence has yet to run; meta tokens come with the first token.
  int due(const Sequence& s) const { return s.ids.empty() ? 0 : meta() + int(s.ids.size()) - s.position; }
  Sequence& at(int sequence) { return *sequences_[std::size_t(sequence)]; }
  const Sequence& at(int sequence) const { return *sequences_[std::size_t(sequence)]; }
  std::string where(int sequence) const {
    return "batch for " + model_->path() + ": sequence " + std::to_string(sequence);
  }

  Result<void> check(int sequence, const char* what) const {
    if (has(sequence)) return {};
    return Error{ErrorCode::usage, std::string(what) + ", batch for " + model_->path(), "a sequence of the batch",
                 std::to_string(sequence)};
  }
  Result<void> check_formats() {
    if (seen_ == model_->version()) return {};
    KLENS_OK(check_program(*model_, program_));
    for (const auto& s : sequences_)
      KLENS_OK(s->states.check_formats(*model_, "batch"));
    seen_ = model_->version();
    return {};
  }

  const Model* model_;
  Program program_;
  Team team_;
  BatchOptions options_;
  int capacity_ = 0, first_ = 0;
  std::uint64_t seen_ = ~std::uint64_t(0);  // version of the model whose formats were checked
  StateIdentity identity_;
  Buffer<float> rope_, arena_, picked_;  // picked_: logits as the head writes them
  Workspace work_;
  std::vector<std::unique_ptr<Sequence>> sequences_;  // by number; in place, because spans point to their views
  std::vector<Span> spans_;
  std::vector<int> running_;  // sequence of each span
};

}  // namespace klens
