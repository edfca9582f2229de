// klens pack: a checkpoint and a plan (or one format for all) become one file that the kernels map as it is.
#include "chat_of.hpp"
#include "common.hpp"

#include <klens/io/gguf_tokenizer.hpp>
#include <klens/io/plan_json.hpp>
#include <klens/quant/apply.hpp>
#include <klens/version.hpp>

#include <filesystem>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model, plan, uniform, states, output;
};

Result<void> run(const Options& o) {
  KLENS_TRY(Model model, load_model(o.model));
  if (model.is_packed()) return Error{ErrorCode::unsupported, o.model, "a checkpoint folder: packing starts from pristine weights", "a packed file"};
  ApplyNotes notes;
  PackOptions options;
  options.provenance = "klens " KLENS_VERSION;
  if (!o.plan.empty()) {
    KLENS_TRY(const PlanDocument plan, read_plan(o.plan));
    KLENS_OK(apply_plan(model, plan.plan, &notes));
    KLENS_TRY(options.plan_json, read_text(o.plan, std::size_t(16) << 20));
    options.provenance += ", plan " + std::filesystem::path(o.plan).filename().string();
  } else {
    const auto precision = parse_format(o.uniform);
    if (!precision) return Error{ErrorCode::usage, "--uniform", "a format name such as w4g32", "'" + o.uniform + "'"};
    KLENS_OK(apply_uniform(model, *precision, &notes));
    options.provenance += ", uniform " + o.uniform;
  }
  KLENS_OK(apply_states(model, o.states));
  if (!o.states.empty()) options.provenance += ", states " + o.states;
  const std::string tokenizer = o.model + "/tokenizer.json";
  std::error_code ec;
  if (std::filesystem::is_directory(o.model, ec)) {
    auto chat = ChatFolder::text_of(o.model);
    if (chat) options.chat_json = *std::move(chat);
    else fmt::print(stderr, "klens: warning: packed without a chat template: {}\n", chat.error().message());
    const std::string generation = o.model + "/generation_config.json";
    if (std::filesystem::exists(generation, ec)) {
      KLENS_TRY(options.generation_json, read_text(generation, std::size_t(1) << 20));
    }
  } else {
    KLENS_TRY(const ChatTexts texts, chat_texts_of(o.model));
    options.chat_json = texts.chat, options.generation_json = texts.generation;
  }
  if (std::filesystem::exists(tokenizer, ec)) {
    KLENS_TRY(options.tokenizer_json, read_text(tokenizer, std::size_t(256) << 20));
  } else if (is_gguf_file(o.model)) {
    KLENS_TRY(const GgufFile file, GgufFile::open(o.model));
    auto text = gguf_tokenizer(file);
    if (text) options.tokenizer_json = *std::move(text);
    else fmt::print(stderr, "klens: warning: packed without a tokenizer: {}\n", text.error().message());
  }
  KLENS_OK(model.write(o.output, options));
  const double bpw = 8.0 * double(model.payload_bytes()) / double(model.parameters());
  if (o.common.json) fmt::print("{}\n", nlohmann::json{{"output", o.output}, {"bytes", model.payload_bytes()}, {"bits_per_weight", bpw}}.dump());
  else fmt::print("{}: {} bytes of payload, {:.3f} bits per weight\n", o.output, model.payload_bytes(), bpw);
  for (const auto& [component, note] : notes.lost) fmt::print(stderr, "klens: warning: {}: {}\n", component, note_text(note));
  return {};
}

}  // namespace

void add_pack(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("pack", "Pack a checkpoint in the formats of a plan, or in one format\nExample: klens pack examples/models/hymba-tiny --uniform w4g32 -o w4g32.klens");
  add_common(*c, o->common);
  c->add_option("MODEL", o->model, "Checkpoint folder or GGUF file")->required();
  auto* plan = c->add_option("--plan", o->plan, "plan.json");
  auto* uniform = c->add_option("--uniform", o->uniform, "One format for every 2-D projection and the embedding");
  plan->excludes(uniform);
  c->add_option("--states", o->states, states_help)->excludes(plan);
  c->add_option("-o,--output", o->output, "File to write")->required();
  c->callback([o, &status] {
    if (o->plan.empty() == o->uniform.empty()) status = fail({ErrorCode::usage, "pack", "--plan PLAN or --uniform FORMAT", "neither"});
    else status = finish(run(*o));
  });
}

}  // namespace klens::cli
