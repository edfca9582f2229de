// klens logits: the logits (hidden states, greedy continuation) of given tokens, as safetensors: for comparing implementations.
#include "common.hpp"
#include "policy.hpp"

#include <klens/io/safetensors_writer.hpp>
#include <klens/model/sample.hpp>
#include <klens/model/session.hpp>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model, ids, output;
  Policy policy = Policy::exact;
  bool hidden = false;
  int greedy = 0;
};

Result<void> run(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(const Program program, program_for(*table, o.policy));
  KLENS_TRY(const Model model, load_model(o.model));
  KLENS_TRY(const Safetensors file, Safetensors::open(o.ids));
  const TensorView* input = file.find("input_ids");
  if (input == nullptr) return Error{ErrorCode::missing, o.ids, "a tensor 'input_ids', I64 [B, T]", "none"};
  if (input->shape.size() != 2 || input->shape[0] < 1 || input->shape[1] < 1)
    return Error{ErrorCode::shape, o.ids + ": tensor 'input_ids'", "shape [B, T]", shape_text(input->shape)};
  KLENS_TRY(const std::vector<std::int64_t> wide, read_i64(*input));
  const std::int64_t batch = input->shape[0], tokens = input->shape[1];
  const Shape& s = model.shape();
  std::vector<std::int32_t> ids;
  for (std::int64_t id : wide) {
    if (id < 0 || id >= s.vocab) return Error{ErrorCode::format, o.ids + ": tensor 'input_ids'", fmt::format("ids in 0 .. {}", s.vocab - 1), std::to_string(id)};
    ids.push_back(std::int32_t(id));
  }

  // One file, tensors in the order written: logits of all sequences, then the hidden states, then the greedy tokens. Hidden
  // states are kept for the batch; logits are written a sequence at a time.
  std::vector<TensorSpec> specs = {{"logits", DType::f32, {batch, tokens, s.vocab}}};
  if (o.hidden)
    for (int l = 0; l <= s.layers; ++l) specs.push_back({fmt::format("hidden.{}", l), DType::f32, {batch, tokens, s.hidden}});
  if (o.greedy > 0) specs.push_back({"greedy", DType::i64, {batch, o.greedy}});
  SafetensorsWriter::Metadata metadata;
  if (o.policy == Policy::fast) metadata.emplace_back("policy", policy_text(model, program));
  KLENS_TRY(SafetensorsWriter out, SafetensorsWriter::create(o.output, specs, metadata));

  ThreadTeam team(o.common.thread_count());
  KLENS_TRY(Session session, Session::create(model, program, team.team(), {.context = int(tokens) + o.greedy}));
  const std::int64_t stride = logit_stride(s);
  Buffer<float> logits(std::size_t(tokens * stride));
  std::vector<Buffer<float>> states;
  std::vector<Rows<float>> taps;
  if (o.hidden)
    for (int l = 0; l <= s.layers; ++l) states.emplace_back(std::size_t(batch * tokens * s.hidden));
  std::vector<std::int64_t> greedy;
  Progress progress("logits");
  for (std::int64_t b = 0; b < batch; ++b) {
    if (interrupted) return Error{ErrorCode::interrupted, "logits", "", "interrupted"};
    session.reset();
    taps.clear();
    for (auto& state : states) taps.push_back({state.data() + b * tokens * s.hidden, tokens, s.hidden, s.hidden});
    const std::span<const std::int32_t> sequence(ids.data() + b * tokens, std::size_t(tokens));
    KLENS_OK(session.prefill(sequence, {.logits = {logits.data(), tokens, s.vocab, stride}, .hidden = taps}));
    for (std::int64_t t = 0; t < tokens; ++t)
      KLENS_OK(out.append(std::as_bytes(std::span(logits.data() + t * stride, std::size_t(s.vocab)))));
    std::int32_t next = argmax({logits.data() + (tokens - 1) * stride, std::size_t(s.vocab)});
    for (int g = 0; g < o.greedy; ++g) {
      greedy.push_back(next);
      if (g + 1 == o.greedy) break;
      KLENS_TRY(const std::span<const float> row, session.step(next));
      next = argmax(row);
    }
    progress(b + 1, batch);
  }
  for (const auto& state : states) KLENS_OK(out.append(std::as_bytes(state.span())));
  if (o.greedy > 0) KLENS_OK(out.append(std::as_bytes(std::span(greedy))));
  KLENS_OK(out.finish());
  progress.clear();
  if (o.common.json) {
    nlohmann::json said = {{"output", o.output}, {"batch", batch}, {"tokens", tokens}};
    said["level"] = name_of(table->level);
    name_policy(said, model, program);
    fmt::print("{}\n", said.dump());
  } else if (o.policy == Policy::fast) {
    fmt::print("{}\n", policy_text(model, program));
  }
  return {};
}

}  // namespace

void add_logits(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("logits", "Logits of given token ids, to a safetensors file\n"
                                             "Example: klens logits examples/models/hymba-tiny --ids ids.safetensors --hidden --greedy 32 -o out.safetensors");
  add_common(*c, o->common);
  add_policy(*c, o->policy);
  c->add_option("MODEL", o->model, "Checkpoint folder, GGUF or .klens file")->required();
  c->add_option("--ids", o->ids, "safetensors with input_ids, I64 [B, T]")->required();
  c->add_flag("--hidden", o->hidden, "Write hidden.0 (embedding) to hidden.L (after the final norm) too");
  c->add_option("--greedy", o->greedy, "Write this many greedily decoded tokens too")->check(CLI::Range(0, 1 << 20));
  c->add_option("-o,--output", o->output, "safetensors to write")->required();
  c->callback([o, &status] { status = finish(run(*o)); });
}

}  // namespace klens::cli
