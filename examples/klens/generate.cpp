// klens generate: text after a prompt, streamed as it comes.
#include "common.hpp"
#include "policy.hpp"
#include "tokenizer_of.hpp"

#include <klens/model/sample.hpp>
#include <klens/model/session.hpp>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model, prompt;
  Policy policy = Policy::exact;
  int tokens = 128;
  SamplingOptions sampling;
};

Result<void> run(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(const Program program, program_for(*table, o.policy));
  KLENS_TRY(const Tokenizer tokenizer, tokenizer_of(o.model));
  KLENS_TRY(const Model model, load_model(o.model));
  KLENS_TRY(const std::vector<std::int32_t> ids, tokenizer.try_encode(o.prompt, true));
  if (ids.empty()) return Error{ErrorCode::usage, "--prompt", "text", "nothing"};
  if (tokenizer.vocab_size() > model.shape().vocab)
    return Error{ErrorCode::shape, o.model + ": tokenizer", fmt::format("at most {} tokens, the model's vocabulary", model.shape().vocab), std::to_string(tokenizer.vocab_size())};

  ThreadTeam team(o.common.thread_count());
  KLENS_TRY(Session session, Session::create(model, program, team.team(), {.context = int(ids.size()) + o.tokens}));
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&start] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  KLENS_OK(session.prefill(ids));
  const double prefill = seconds();

  Sampler sampler(o.sampling);
  StreamDecoder stream(tokenizer);
  std::string text;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    if (o.common.json) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  if (!o.common.json) std::fwrite(o.prompt.data(), 1, o.prompt.size(), stdout);
  std::vector<std::int32_t> made;
  while (int(made.size()) < o.tokens && !interrupted) {
    const std::int32_t next = sampler.next(session.logits());
    made.push_back(next);
    emit(stream.push(next));
    if (int(made.size()) == o.tokens) break;
    KLENS_TRY(const std::span<const float> logits, session.step(next));
    (void)logits;
  }
  emit(stream.finish());
  const double decode = seconds() - prefill;
  if (o.common.json) {
    nlohmann::json said = {{"prompt", o.prompt}, {"text", text}, {"ids", made}};
    said.update({{"prefill_seconds", prefill}, {"decode_seconds", decode}});
    name_policy(said, model, program);
    fmt::print("{}\n", said.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("\n");
    const std::string policy = o.policy == Policy::fast ? ", " + policy_text(model, program) : "";
    fmt::print(stderr, "{} prompt tokens in {:.0f} ms, {} tokens at {:.0f} tokens/s, level {}{}\n", ids.size(),
               prefill * 1e3, made.size(), double(made.size()) / std::max(decode, 1e-9), name_of(table->level), policy);
  }
  return {};
}

}  // namespace

void add_generate(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("generate", "Continue a prompt; text streams as it is made\n"
                                               "Example: klens generate examples/models/hymba-tiny --prompt 'It was a dark' --temperature 0.8 --seed 1");
  add_common(*c, o->common);
  add_policy(*c, o->policy);
  c->add_option("MODEL", o->model, "Checkpoint folder or .klens file")->required();
  c->add_option("--prompt", o->prompt, "Text to continue")->required();
  c->add_option("--tokens", o->tokens, "Tokens to make")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  c->add_option("--temperature", o->sampling.temperature, "0: greedy")->check(CLI::Range(0.0, 100.0))->capture_default_str();
  c->add_option("--top-k", o->sampling.top_k, "Sample among the k likeliest (0: all)")->check(CLI::Range(0, 1 << 30))->capture_default_str();
  c->add_option("--top-p", o->sampling.top_p, "Sample among the likeliest tokens of this total probability")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  c->add_option("--seed", o->sampling.seed, "Seed of the sampler")->capture_default_str();
  c->callback([o, &status] { status = finish(run(*o)); });
}

}  // namespace klens::cli
