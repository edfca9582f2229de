// klens tokenize: token ids of a text, and back.
#include "common.hpp"
#include "tokenizer_of.hpp"

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model, text;
  bool decode = false, no_special = false;
};

/// Whole numbers separated by anything that is not a digit; a JSON {"ids": [...]} reads the same.
Result<std::vector<std::int32_t>> read_ids(const std::string& text, std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] < '0' || text[at] > '9') {
      if (text[at] == '-' ) return Error{ErrorCode::format, fmt::format("ids: byte {}", at), "token ids", "a negative number"};
      ++at;
      continue;
    }
    std::int64_t id = 0;
    const std::size_t from = at;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) id = std::min<std::int64_t>(id * 10 + (text[at] - '0'), vocab);
    if (id >= vocab) return Error{ErrorCode::format, fmt::format("ids: byte {}", from), fmt::format("token ids below {}", vocab), text.substr(from, std::min<std::size_t>(at - from, 20))};
    ids.push_back(std::int32_t(id));
  }
  return ids;
}

Result<void> run(const Options& o) {
  KLENS_TRY(const Tokenizer tokenizer, tokenizer_of(o.model));
  KLENS_TRY(const std::string text, input_text(o.text.empty() ? "-" : o.text));
  if (o.decode) {
    KLENS_TRY(const std::vector<std::int32_t> ids, read_ids(text, tokenizer.vocab_size()));
    const std::string out = tokenizer.decode(ids, o.no_special);
    if (o.common.json) fmt::print("{}\n", nlohmann::json{{"text", out}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    else std::fwrite(out.data(), 1, out.size(), stdout);
    return {};
  }
  KLENS_TRY(const std::vector<std::int32_t> ids, tokenizer.try_encode(text, !o.no_special));
  if (o.common.json) {
    fmt::print("{}\n", nlohmann::json{{"ids", ids}}.dump());
    return {};
  }
  std::string line;
  for (std::size_t i = 0; i < ids.size(); ++i) line += (i ? " " : "") + std::to_string(ids[i]);
  fmt::print("{}\n", line);
  return {};
}

}  // namespace

void add_tokenize(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("tokenize", "Token ids of a text on standard input, or with --decode the text of ids\n"
                                               "Example: echo 'The adventure' | klens tokenize examples/models/hymba-tiny");
  add_common(*c, o->common);
  c->add_option("MODEL", o->model, "Checkpoint folder, GGUF or .klens file")->required();
  c->add_option("--text", o->text, "File to read in place of standard input");
  c->add_flag("--decode", o->decode, "Read ids, write text");
  c->add_flag("--no-special", o->no_special, "Leave out the special tokens (of the template; when decoding, of the text)");
  c->callback([o, &status] { status = finish(run(*o)); });
}

}  // namespace klens::cli
