// The program of one plan: main() of what `klens build` makes. The tables are those of klens_add_model(); everything else
// (reading, sessions, sampling, perplexity) is what the program klens uses, so that both give the same numbers.
//
//   info [MODEL]                                      levels, the one chosen, bytes, RAM of a session
//   eval MODEL --text F [--tokens N --window T]       perplexity with its standard error (windows of 256, design.md §8)
//   generate MODEL --prompt TEXT [--tokens N --temperature X --top-k N --top-p X --seed N]      streams its text
//   logits MODEL --ids F.safetensors -o OUT           input_ids I64 [B,T] -> logits F32 [B,T,V], as `klens logits`
//   speed MODEL                                       prefill of 512 tokens, decode of 128 after 128
// Each with --threads N and --isa LEVEL (else KLENS_ISA, else the best level), --json for eval and speed, --no-mmap to
// copy the weights into huge pages (Model::gather_weights). Status 0, 1 (failed), 2 (usage).
#pragma once

#include <klens/core/thread_team.hpp>
#include <klens/io/safetensors_writer.hpp>
#include <klens/io/tokenizer.hpp>
#include <klens/lens/evaluate.hpp>
#include <klens/model/choose.hpp>
#include <klens/model/sample.hpp>
#include <klens/model/session.hpp>

#include <chrono>
#include <cstdio>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace klens {
namespace specialised {

/// Command, MODEL, and options of one call. Every option but --json and --no-mmap takes a value.
struct Call {
  std::string command, model;
  bool json = false, no_mmap = false;
  std::map<std::string, std::string, std::less<>> options;

  std::string text(std::string_view name, const char* fallback = "") const {
    const auto it = options.find(name);
    return it == options.end() ? fallback : it->second;
  }
  Result<double> number(std::string_view name, double fallback, double min, double max) const {
    const auto it = options.find(name);
    if (it == options.end()) return fallback;
    char* end = nullptr;
    const double value = std::strtod(it->second.c_str(), &end);
    if (it->second.empty() || *end != '\0' || !(value >= min && value <= max))
      return Error{ErrorCode::usage, std::string(name), "a number in " + Json(min).dump() + ".." + Json(max).dump(),
                   "'" + it->second + "'"};
    return value;
  }
  Result<int> integer(std::string_view name, int fallback, int min, int max) const {
    KLENS_TRY(const double value, number(name, fallback, min, max));
    if (value != int(value)) return Error{ErrorCode::usage, std::string(name), "an integer", "'" + text(name) + "'"};
    return int(value);
  }
};

struct Command {
  const char *name, *options;
  bool needs_model;
};

inline constexpr Command commands[] = {{"info", "", false},
                                       {"eval", "--text --tokens --window", true},
                                       {"generate", "--prompt --tokens --temperature --top-k --top-p --seed", true},
                                       {"logits", "--ids -o", true},
                                       {"speed", "", true}};

inline Result<Call> parse_call(int argc, char** argv) {
  Call call;
  const Error usage{ErrorCode::usage, argc > 0 ? argv[0] : "program",
                    "info | eval | generate | logits | speed, then MODEL.klens", argc > 1 ? argv[1] : "nothing"};
  if (argc < 2) return usage;
  call.command = argv[1];
  const Command* command = nullptr;
  for (const Command& c : commands)
    if (call.command == c.name) command = &c;
  if (command == nullptr) return usage;
  const std::string known = " --threads --isa " + std::string(command->options) + " ";
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.size() < 2 || word[0] != '-') {
      if (!call.model.empty()) return Error{ErrorCode::usage, call.command, "one MODEL", "'" + call.model + "' and '" + word + "'"};
      call.model = word;
    } else if (word == "--json") {
      call.json = true;
    } else if (word == "--no-mmap") {
      call.no_mmap = true;
    } else if (word == "--policy") {  // `fast` is of the generic way alone: a plan's kernels are the exact ones
      if (i + 1 == argc || std::string_view(argv[i + 1]) != "exact")
        return Error{ErrorCode::usage, word, "exact: a specialised program has no faster linears",
                     i + 1 == argc ? "nothing" : "'" + std::string(argv[i + 1]) + "'"};
      ++i;
    } else if (known.find(" " + word + " ") == std::string::npos) {
      return Error{ErrorCode::usage, call.command, "one of" + known.substr(0, known.size() - 1), "'" + word + "'"};
    } else if (i + 1 == argc) {
      return Error{ErrorCode::usage, word, "a value", "nothing"};
    } else {
      call.options[word] = argv[++i];
    }
  }
  if (command->needs_model && call.model.empty()) return Error{ErrorCode::usage, call.command, "MODEL.klens", "nothing"};
  return call;
}

/// What every command but info works with.
struct Run {
  const Call& call;
  const SpecialisedTable& table;
  const Model& model;
  Team team;

  Result<Session> session(int context) const {
    return Session::create(model, program_of(table), team, {.context = context});
  }
  Result<Tokenizer> tokenizer() const {
    return Tokenizer::parse(model.packed_info()->tokenizer_json, model.path() + ": tokenizer");
  }
};

inline void print_level(const SpecialisedTable& t, int threads) {
  std::fprintf(stderr, "%s: level %s, %d layer classes, %lld bytes of linears, %d threads\n", t.name, std::string(name_of(t.level)).c_str(),
               t.layer_classes, static_cast<long long>(t.linear_bytes), threads);
}

/// Perplexity by the same code as `klens eval`.
inline Result<void> evaluate_text(const Run& run) {
  EvaluateOptions options;
  KLENS_TRY(options.window, run.call.integer("--window", 256, 2, 1 << 16));
  KLENS_TRY(const int tokens, run.call.integer("--tokens", 64 * options.window, options.window, 1 << 30));
  const std::string path = run.call.text("--text");
  if (path.empty()) return Error{ErrorCode::usage, "eval", "--text FILE", "nothing"};
  options.windows = tokens / options.window, options.text_name = path;
  KLENS_TRY(const std::string text, read_text(path, std::size_t(1) << 30));
  KLENS_TRY(const Tokenizer tokenizer, run.tokenizer());
  KLENS_TRY(const std::vector<std::int32_t> ids, tokenizer.try_encode(text));
  KLENS_TRY(const Evaluation e, klens::evaluate({&run.model, program_of(run.table)}, ids, run.team, options));
  const long long bytes = run.model.payload_bytes();
  if (run.call.json)
    std::printf("%s\n", to_text({{"ppl", e.ppl}, {"ppl_se", e.ppl_se}, {"windows", e.windows}, {"window", e.window}, {"bytes", bytes},
                                 {"level", name_of(run.table.level)}, {"specialised", true}}, -1).c_str());
  else std::printf("PPL %.4f +- %.4f   %d windows of %d   %lld bytes\n", e.ppl, e.ppl_se, e.windows, e.window, bytes);
  return {};
}

inline Result<void> generate(const Run& run) {
  KLENS_TRY(const int tokens, run.call.integer("--tokens", 64, 1, 1 << 20));
  SamplingOptions options;
  KLENS_TRY(const double temperature, run.call.number("--temperature", 0, 0, 100));
  KLENS_TRY(const double top_p, run.call.number("--top-p", 1, 0, 1));
  KLENS_TRY(options.top_k, run.call.integer("--top-k", 0, 0, 1 << 24));
  KLENS_TRY(const int seed, run.call.integer("--seed", 0, 0, 1 << 30));
  options.temperature = float(temperature), options.top_p = float(top_p), options.seed = std::uint64_t(seed);
  KLENS_TRY(const Tokenizer tokenizer, run.tokenizer());
  KLENS_TRY(const std::vector<std::int32_t> ids, tokenizer.try_encode(run.call.text("--prompt")));
  if (ids.empty()) return Error{ErrorCode::usage, "generate", "--prompt TEXT", "no token"};
  KLENS_TRY(Session session, run.session(int(ids.size()) + tokens));
  Sampler sampler(options);
  StreamDecoder decoder(tokenizer);
  KLENS_OK(session.prefill(ids));
  const auto put = [](const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  put(run.call.text("--prompt"));
  for (int i = 0; i < tokens; ++i) {
    const std::int32_t next = sampler.next(session.logits(), session.ids());
    put(decoder.push(next));
    if (i + 1 < tokens) KLENS_OK(session.step(next));
  }
  put(decoder.finish() + "\n");
  return {};
}

inline Result<void> dump_logits(const Run& run) {
  const std::string from = run.call.text("--ids"), to = run.call.text("-o");
  if (from.empty() || to.empty()) return Error{ErrorCode::usage, "logits", "--ids FILE and -o FILE", "less"};
  KLENS_TRY(const Safetensors file, Safetensors::open(from));
  const TensorView* input = file.find("input_ids");
  if (input == nullptr || input->shape.size() != 2)
    return Error{ErrorCode::missing, from, "a tensor 'input_ids' I64 [B, T]", "none"};
  KLENS_TRY(const std::vector<std::int64_t> all, read_i64(*input));
  const std::int64_t rows = input->shape[0], length = input->shape[1];
  const std::int64_t vocab = run.model.shape().vocab, stride = logit_stride(run.model.shape());
  if (length < 1 || length > 1 << 20)
    return Error{ErrorCode::shape, detail::place_of(*input), "1 to 1048576 tokens", std::to_string(length)};
  KLENS_TRY(Session session, run.session(int(length)));
  KLENS_TRY(SafetensorsWriter writer, SafetensorsWriter::create(to, {{"logits", DType::f32, {rows, length, vocab}}}));
  Buffer<float> logits{std::size_t(length * stride)};
  std::vector<std::int32_t> ids(static_cast<std::size_t>(length));
  for (std::int64_t b = 0; b < rows; ++b) {
    for (std::int64_t t = 0; t < length; ++t) {
      const std::int64_t id = all[std::size_t(b * length + t)];
      if (id < 0 || id >= vocab)
        return Error{ErrorCode::format, detail::place_of(*input), "ids below " + std::to_string(vocab), std::to_string(id)};
      ids[std::size_t(t)] = std::int32_t(id);
    }
    session.reset();
    KLENS_OK(session.prefill(ids, {.logits = {logits.data(), length, vocab, stride}}));
    for (std::int64_t t = 0; t < length; ++t)
      KLENS_OK(writer.append(std::span<const float>(logits.data() + t * stride, std::size_t(vocab))));
  }
  return writer.finish();
}

/// Prefill of 512 tokens; decode of 128 after 128; the median of five runs each.
inline Result<void> speed(const Run& run) {
  KLENS_TRY(Session session, run.session(512));
  std::vector<std::int32_t> ids(512);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = std::int32_t((i * 7919 + 13) % std::size_t(run.model.shape().vocab));
  const auto seconds = [](auto&& body) -> Result<double> {
    const auto start = std::chrono::steady_clock::now();
    KLENS_OK(body());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::vector<double> prefill, decode;
  for (int repeat = 0; repeat < 5; ++repeat) {
    session.reset();
    KLENS_TRY(const double whole, seconds([&] { return session.prefill(ids); }));
    session.reset();
    KLENS_OK(session.prefill(std::span(ids).first(128)));
    KLENS_TRY(const double steps, seconds([&]() -> Result<void> {
      for (int t = 0; t < 128; ++t) KLENS_OK(session.step(ids[std::size_t(128 + t)]));
      return {};
    }));
    prefill.push_back(512 / whole), decode.push_back(128 / steps);
  }
  std::sort(prefill.begin(), prefill.end());
  std::sort(decode.begin(), decode.end());
  const long long bytes = run.model.payload_bytes();
  if (run.call.json) {
    std::printf("%s\n", to_text({{"prefill", prefill[2]}, {"decode", decode[2]}, {"bytes", bytes}, {"level", name_of(run.table.level)},
                                 {"threads", std::max(run.team.threads, 1)}, {"specialised", true}}, -1).c_str());
    return {};
  }
  std::printf("prefill 512: %.0f tokens/s   decode 128 after 128: %.0f tokens/s   %lld bytes   level %s   %d threads\n", prefill[2], decode[2],
              bytes, std::string(name_of(run.table.level)).c_str(), std::max(run.team.threads, 1));
  return {};
}

inline Result<void> run_call(const Call& call, std::span<const SpecialisedTable* const> tables) {
  const int processors = int(std::max(1u, std::thread::hardware_concurrency()));
  KLENS_TRY(const int threads, call.integer("--threads", processors, 1, ThreadTeam::max_threads));
  KLENS_TRY(const SpecialisedTable* const table, choose_specialised(tables, call.text("--isa")));
  print_level(*table, threads);
  if (call.model.empty()) return {};
  KLENS_TRY(Model model, load_model(call.model));
  if (!model.is_packed())
    return Error{ErrorCode::format, call.model, "a packed model (klens pack MODEL --plan plan.json -o model.klens)", "a checkpoint"};
  if (call.no_mmap) model.gather_weights(true);
  ThreadTeam threads_of(threads);
  const Run run{call, *table, model, threads_of.team()};
  if (call.command == "eval") return evaluate_text(run);
  if (call.command == "generate") return generate(run);
  if (call.command == "logits") return dump_logits(run);
  if (call.command == "speed") return speed(run);
  KLENS_TRY(const Session session, run.session(512));
  std::printf("%s: fits; %lld bytes of weights, %lld bytes per session of 512 tokens\n", call.model.c_str(),
              static_cast<long long>(model.payload_bytes()), static_cast<long long>(session.bytes()));
  return {};
}

}  // namespace specialised

/// Parses and runs one call; the exit status. Errors are one line on stderr.
inline int specialised_main(int argc, char** argv, std::span<const SpecialisedTable* const> tables) {
  const auto call = specialised::parse_call(argc, argv);
  const Result<void> result = call ? specialised::run_call(*call, tables) : Result<void>(call.error());
  if (result) return 0;
  std::fprintf(stderr, "%s: %s\n", argc > 0 ? argv[0] : "program", result.error().message().c_str());
  return result.error().code == ErrorCode::usage ? 2 : 1;
}

}  // namespace klens
