// klens generate: text after a prompt, streamed as it comes; a session can be saved and continued.
#include "chat.hpp"
#include "common.hpp"
#include "policy.hpp"
#include "tokenizer_of.hpp"

#include <klens/io/session_file.hpp>
#include <klens/model/sample.hpp>
#include <klens/model/session.hpp>

#include <optional>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model, prompt, prompt_file, session;
  std::vector<std::string> stops;
  bool has_prompt = false, no_mmap = false;
  Policy policy = Policy::exact;
  int tokens = 128;
  SamplingOptions sampling;
  ChatOptions chat;
  // What the command line says itself; the rest may come from generation_config.json.
  bool has_temperature = false, has_top_k = false, has_top_p = false, has_min_p = false, has_penalty = false, has_window = false;
};

/// How the text is made: sampling, the tokens that end it, and a note of what generation_config.json gave, which stands
/// in `from`.
struct Generation {
  SamplingOptions sampling;
  std::vector<std::int32_t> ends;
  std::string from, note;
};

/// End tokens: eos_token_id of generation_config.json, else of the model's config; else the eos_token of
/// tokenizer_config.json, which ends a turn of a chat in any case. Sampling: the command line's, then the file's.
/// Packed and GGUF files hold the same inside.
Result<Generation> generation_of(const Options& o, const Model& model, const Tokenizer& tokenizer) {
  Generation g{o.sampling, {}, "generation_config.json", ""};
  const std::string folder = std::filesystem::is_directory(o.model) ? o.model : "";
  const std::int64_t vocab = model.shape().vocab;
  ChatTexts inside;
  if (folder.empty()) {
    KLENS_TRY(inside, chat_texts_of(o.model));
    g.from = inside.generation_place;
  }
  KLENS_TRY(const GenerationConfig file, !folder.empty() ? GenerationConfig::load(folder, vocab)
                                                         : GenerationConfig::parse(inside.generation, g.from, vocab));
  g.ends = file.ends;
  const auto take = [&g](const char* name, bool given, const auto& value, auto& to) {
    if (given || !value) return false;
    to = *value;
    g.note += fmt::format("{}{} {:g}", g.note.empty() ? "" : ", ", name, double(to));
    return true;
  };
  take("temperature", o.has_temperature, file.temperature, g.sampling.temperature);
  take("top_k", o.has_top_k, file.top_k, g.sampling.top_k);
  take("top_p", o.has_top_p, file.top_p, g.sampling.top_p);
  take("min_p", o.has_min_p, file.min_p, g.sampling.min_p);
  // The file's penalty counts the whole text, as its makers meant it.
  if (take("repetition_penalty", o.has_penalty, file.repetition_penalty, g.sampling.repetition_penalty) && !o.has_window)
    g.sampling.repetition_window = 0;
  if (!g.ends.empty()) g.note += fmt::format("{}end tokens {}", g.note.empty() ? "" : ", ", fmt::join(g.ends, " "));
  if (g.ends.empty()) {
    KLENS_TRY(g.ends, GenerationConfig::ends_of(model.config().json, model.config().path, vocab));
  }
  if (!g.ends.empty() && !o.chat.on) return g;
  std::string token;
  const std::string where = folder + "/tokenizer_config.json";
  if (folder.empty()) {
    KLENS_TRY(token, ChatFolder::eos_token_of(inside.chat, inside.chat_place));
  } else if (access(where.c_str(), F_OK) == 0) {
    KLENS_TRY(const std::string text, read_text(where, std::size_t(64) << 20));
    KLENS_TRY(token, ChatFolder::eos_token_of(text, where));
  }
  const std::int32_t id = token.empty() ? -1 : tokenizer.id_of(token);
  if (id >= 0 && std::find(g.ends.begin(), g.ends.end(), id) == g.ends.end()) g.ends.push_back(id);
  return g;
}

/// What --prompt, --prompt-file or standard input give. A session that goes on needs none of them.
Result<std::string> prompt_of(const Options& o, bool continues) {
  if (o.has_prompt) return o.prompt;
  if (!o.prompt_file.empty()) return input_text(o.prompt_file);
  if (continues) return std::string();
  if (isatty(STDIN_FILENO))
    return Error{ErrorCode::usage, "generate", "--prompt TEXT, --prompt-file FILE, or text on standard input",
                 "a terminal"};
  return input_text("-");
}

/// Text of new tokens, in whole characters, up to a stop string; goes to stdout as soon as it is certain.
class Output {
 public:
  Output(const Tokenizer& tokenizer, const Options& o) : stream_(tokenizer), stop_(o.stops), silent_(o.common.json) {}

  /// A token of the prompt, or of an earlier run: not shown, but the next one's text may depend on it.
  void see(std::int32_t id) { stream_.push(id); }
  void echo(const std::string& text) const { put(text); }
  void push(std::int32_t id) { show(stop_.push(stream_.push(id))); }
  /// The end of the text; bytes of an unfinished character are left to the run that continues it.
  void finish(bool continued_later) {
    if (!continued_later) show(stop_.push(stream_.finish()));
    show(stop_.finish());
  }
  bool stopped() const { return stop_.stopped(); }
  const std::string& text() const { return text_; }

 private:
  void put(const std::string& text) const {
    if (silent_ || text.empty()) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  void show(const std::string& text) {
    text_ += text;
    put(text);
  }

  StreamDecoder stream_;
  StopText stop_;
  std::string text_;
  bool silent_;
};

Result<void> run(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(const Program program, program_for(*table, o.policy));
  KLENS_TRY(const Tokenizer tokenizer, tokenizer_of(o.model));
  KLENS_TRY(Model model, load_model(o.model));
  model.gather_weights(o.no_mmap);
  if (tokenizer.vocab_size() > model.shape().vocab)
    return Error{ErrorCode::shape, o.model + ": tokenizer",
                 fmt::format("at most {} tokens, the model's vocabulary", model.shape().vocab),
                 std::to_string(tokenizer.vocab_size())};
  KLENS_TRY(const Generation generation, generation_of(o, model, tokenizer));
  const auto is_end = [&ends = generation.ends](std::int32_t id) { return std::find(ends.begin(), ends.end(), id) != ends.end(); };

  std::optional<SessionState> before;
  if (!o.session.empty()) {
    if (access(o.session.c_str(), F_OK) == 0) {
      KLENS_TRY(before, read_session_file(o.session));
    }
    KLENS_OK(AtomicFile::create(o.session));  // a place that cannot be written is told before the work, not after it
  }
  const bool continues = before && !before->ids.empty();
  KLENS_TRY(std::string prompt, prompt_of(o, continues && !o.chat.on));
  std::optional<Conversation> chat;
  if (o.chat.on) {  // the template writes every special token itself, the first one too
    if (prompt.empty()) return Error{ErrorCode::usage, "the prompt", "text", "nothing"};
    KLENS_TRY(chat, Conversation::open(o.model, o.chat, o.session, before ? before->ids.size() : 0));
    KLENS_TRY(prompt, chat->ask(prompt));
  }
  KLENS_TRY(const std::vector<std::int32_t> ids, tokenizer.try_encode(prompt, !continues && !o.chat.on));
  if (ids.empty() && !continues) return Error{ErrorCode::usage, "the prompt", "text", "nothing"};

  ThreadTeam team(o.common.thread_count());
  const std::size_t old = before ? before->ids.size() : 0, context = old + ids.size() + std::size_t(o.tokens);
  const int limit = std::numeric_limits<int>::max();
  KLENS_TRY(Session session, Session::create(model, program, team.team(),
                                             {.context = context < std::size_t(limit) ? int(context) : limit}));
  if (before) {
    if (auto restored = session.restore(*before); !restored) {
      Error e = restored.error();
      e.where = o.session + ": " + e.where;
      return e;
    }
    before.reset();
  }

  Output output(tokenizer, o);
  for (const std::int32_t id : session.ids()) output.see(id);
  for (const std::int32_t id : ids) output.see(id);
  if (!chat) output.echo(prompt);
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&start] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  constexpr std::size_t piece = 256;  // between two looks at Ctrl-C
  for (std::size_t at = 0; at < ids.size(); at += piece) {
    if (interrupted) return Error{ErrorCode::interrupted, "generate", "", "interrupted in the prompt"};
    KLENS_OK(session.prefill(std::span(ids).subspan(at, std::min(piece, ids.size() - at))));
  }
  const double prefill = seconds();

  // Every token that is made goes into the sequence, the one that ends it too: continued in two runs or made in one,
  // the sequence is the same. The last one is computed only where somebody will continue.
  Sampler sampler(generation.sampling);
  StreamDecoder spelled(tokenizer, false);  // with special tokens: what a chat template has to spell the same way
  std::string spelling;
  for (const std::int32_t id : chat ? ids : std::vector<std::int32_t>()) spelled.push(id);
  std::vector<std::int32_t> made;
  std::string why = "tokens";
  if (ids.empty() && is_end(session.ids().back())) why = "eos";
  while (why == "tokens" && int(made.size()) < o.tokens) {
    if (interrupted) {
      why = "interrupted";
      break;
    }
    const std::int32_t next = sampler.next(session.logits(), session.ids());
    made.push_back(next);
    if (chat) spelling += spelled.push(next);
    if (is_end(next))
      why = "eos";
    else
      output.push(next);
    if (output.stopped()) why = "stop";
    if (!o.session.empty() || (why == "tokens" && int(made.size()) < o.tokens)) {
      KLENS_TRY(const std::span<const float> logits, session.step(next));
      (void)logits;
    }
  }
  const double decode = seconds() - prefill;
  output.finish(!o.session.empty() && (why == "tokens" || why == "interrupted"));
  if (chat) chat->reply(output.text(), spelling + spelled.finish());
  if (!o.session.empty()) {
    KLENS_TRY(const SessionState state, session.snapshot());
    KLENS_OK(write_session_file(o.session, state));
    if (chat) KLENS_OK(chat->write(state.ids.size()));
  }

  const double speed = double(made.size()) / std::max(decode, 1e-9);
  if (o.common.json) {
    Json said = {{"prompt", prompt}, {"text", output.text()}, {"ids", made}, {"ended", why}};
    said.update({{"prompt_tokens", ids.size()}, {"length", session.length()}, {"prefill_seconds", prefill}});
    said.update({{"decode_seconds", decode}, {"tokens_per_second", speed}, {"level", name_of(table->level)}});
    said["threads"] = o.common.thread_count();
    if (!generation.note.empty()) said["generation_config"] = generation.note;
    name_policy(said, model, program);
    fmt::print("{}\n", to_text(said, -1));
  } else {
    fmt::print("\n");
    if (!generation.note.empty()) fmt::print(stderr, "from {}: {}\n", generation.from, generation.note);
    const std::string policy = o.policy == Policy::fast ? ", " + policy_text(model, program) : "";
    fmt::print(stderr, "{} prompt tokens in {:.0f} ms, {} tokens at {:.0f} tokens/s, ended by {}, level {}{}\n",
               ids.size(), prefill * 1e3, made.size(), speed, why, name_of(table->level), policy);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout))
    return Error{ErrorCode::io, "standard output: cannot write", "", "an error"};
  if (why == "interrupted")
    return Error{ErrorCode::interrupted, "generate", "",
                 fmt::format("interrupted after {} tokens{}", made.size(),
                             o.session.empty() ? "" : "; " + o.session + " is saved")};
  return {};
}

/// A finite number from `low` to `high` (CLI::Range lets nan pass).
CLI::Validator number(double low, double high) {
  const std::string range = fmt::format("{:g} to {:g}", low, high);
  return CLI::Validator(
      [=](std::string& text) {
        double value = 0;
        return CLI::detail::lexical_cast(text, value) && value >= low && value <= high
                   ? std::string()
                   : fmt::format("'{}' is no number from {}", text, range);
      },
      range);
}

}  // namespace

void add_generate(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand(
      "generate",
      "Continue a prompt; text streams as it is made, up to --tokens, the model's end token or a --stop text.\n"
      "The order of sampling: repetition penalty, temperature, top-k, top-p, min-p. A token depends on the seed\n"
      "and the sequence before it: with --session, two runs make what one long run makes.\n"
      "Where generation_config.json says do_sample, its values stand in for options that are not given.\n"
      "Example: klens generate examples/models/hymba-tiny --prompt 'It was a dark' --temperature 0.8 --seed 1");
  add_common(*c, o->common);
  add_policy(*c, o->policy);
  c->add_option("MODEL", o->model, "Checkpoint folder, GGUF or .klens file")->required();
  CLI::Option* prompt = c->add_option("--prompt", o->prompt, "Text to continue (default: standard input)");
  c->add_option("--prompt-file", o->prompt_file, "File with the text to continue (-: standard input)")
      ->excludes(prompt);
  c->add_option("--tokens", o->tokens, "Most tokens to make")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  c->add_option("--stop", o->stops, "End before this text; may be given several times")
      ->allow_extra_args(false)
      ->check([](const std::string& text) {
        return text.empty() ? std::string("an empty text stops nothing") : std::string();
      });
  CLI::Option* chat = c->add_flag("--chat", o->chat.on, "The prompt is a message: rendered by the chat template of the checkpoint or file");
  c->add_option("--system", o->chat.system, "System message that begins the conversation")->needs(chat);
  c->add_option("--date", o->chat.date, "Date YYYY-MM-DD, for templates that ask for one")->needs(chat);
  c->add_flag("--no-mmap", o->no_mmap, no_mmap_help);
  c->add_option("--session", o->session, "Continue the sequence of this file, if it exists, and save it there");
  c->add_option("--temperature", o->sampling.temperature, "0: greedy")->check(number(0, 100))->capture_default_str();
  c->add_option("--top-k", o->sampling.top_k, "Sample among the k likeliest (0: all)")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  c->add_option("--top-p", o->sampling.top_p, "Sample among the likeliest tokens of this total probability")
      ->check(number(0, 1))
      ->capture_default_str();
  c->add_option("--min-p", o->sampling.min_p, "Leave out tokens below this share of the likeliest one's probability")
      ->check(number(0, 1))
      ->capture_default_str();
  c->add_option("--repetition-penalty", o->sampling.repetition_penalty,
                "Above 1: make tokens of the window less likely")
      ->check(number(0.01, 100))
      ->capture_default_str();
  c->add_option("--repetition-window", o->sampling.repetition_window, "Last tokens that count as repeated (0: all)")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  c->add_option("--seed", o->sampling.seed, "Seed of the sampler")->capture_default_str();
  c->callback([o, c, prompt, &status] {
    const auto given = [c](const char* name) { return c->get_option(name)->count() > 0; };
    o->has_prompt = prompt->count() > 0;
    o->has_temperature = given("--temperature"), o->has_top_k = given("--top-k"), o->has_top_p = given("--top-p");
    o->has_min_p = given("--min-p"), o->has_penalty = given("--repetition-penalty");
    o->has_window = given("--repetition-window");
    status = finish(run(*o));
  });
}

}  // namespace klens::cli
