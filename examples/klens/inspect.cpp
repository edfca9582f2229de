// klens inspect: family, sizes, components, bytes per format, memory of a session.
#include "common.hpp"

#include <klens/model/generic.hpp>
#include <klens/model/session.hpp>
#include <klens/report/table.hpp>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model;
  int context = 512;
};

/// What the layers consist of; a model without attention says nothing of it.
std::vector<std::string> parts_of(const Shape& s) {
  std::vector<std::string> parts;
  if (s.heads > 0) parts.push_back(fmt::format("attention: {} query and {} kv heads, head {} (v {})", s.heads, s.kv_heads, s.qk_dim, s.v_dim));
  if (s.ssm_angles > 0)
    parts.push_back(fmt::format("mamba-3: {} channels in {} heads, {} groups, state {}, {} angles", s.inner, s.ssm_heads, s.ssm_groups, s.n_state, s.ssm_angles));
  else if (s.ssm_heads > 0)
    parts.push_back(fmt::format("mamba-2: {} channels in {} heads, {} groups, state {}, conv {}", s.inner, s.ssm_heads, s.ssm_groups, s.n_state, s.conv_taps));
  else if (s.n_state > 0)
    parts.push_back(fmt::format("mamba: {} channels{}, state {}, conv {}, dt rank {}", s.inner,
                                s.scan_heads > 1 ? fmt::format(" in {} heads", s.scan_heads) : "", s.n_state, s.conv_taps, s.dt_rank));
  else if (s.conv_taps > 0)
    parts.push_back(fmt::format("short convolution: {} channels, {} taps", s.inner, s.conv_taps));
  if (s.ffn > 0) parts.push_back(fmt::format("ffn {}", s.ffn));
  if (s.experts > 0) parts.push_back(fmt::format("{} experts of {}, {} per token", s.experts, s.expert_ffn, s.experts_used));
  if (s.adapter_rank > 0) parts.push_back(fmt::format("adapters of rank {}", s.adapter_rank));
  if (s.meta > 0) parts.push_back(fmt::format("{} meta tokens", s.meta));
  return parts;
}

Result<void> run(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(const Model model, load_model(o.model));
  const Shape& s = model.shape();
  ThreadTeam team(o.common.thread_count());
  KLENS_TRY(const Session session, Session::create(model, generic_program(*table), team.team(), {.context = o.context}));
  const std::vector<std::string> formats = {"f32", "f16", "w8", "w6", "w4", "w4g32", "w3g32", "w2g32", "nf4g64"};
  std::vector<std::int64_t> totals(formats.size(), model.small_payload_bytes());
  nlohmann::json components = nlohmann::json::array();
  Table list{{"component", "rows", "cols", "parameters", "format", "bytes"}, {}};
  for (int c = 0; c < int(model.components().size()); ++c) {
    const Component& k = model.components()[std::size_t(c)];
    const std::string format = format_name(model.precision(c));
    components.push_back({{"component", k.name}, {"rows", k.rows}, {"cols", k.cols}, {"parameters", k.parameters()}, {"format", format}, {"bytes", model.component_bytes(c)}});
    list.rows.push_back({k.name, std::to_string(k.rows), std::to_string(k.cols), std::to_string(k.parameters()), format, std::to_string(model.component_bytes(c))});
    for (std::size_t f = 0; f < formats.size(); ++f) totals[f] += packed_bytes(*parse_format(formats[f]), k.rows, k.cols);
  }
  const double per_parameter = 8.0 / double(model.parameters());
  if (o.common.json) {
    nlohmann::json sizes = nlohmann::json::object();
    for (std::size_t f = 0; f < formats.size(); ++f) sizes[formats[f]] = totals[f];
    fmt::print("{}\n", nlohmann::json{{"model", o.model}, {"family", name_of(s.family)}, {"parameters", model.parameters()}, {"layers", s.layers}, {"hidden", s.hidden}, {"vocab", s.vocab},
                                      {"tied_head", s.tied_head}, {"payload_bytes", model.payload_bytes()}, {"bytes", sizes}, {"context", o.context},
                                      {"session_bytes", session.bytes()}, {"components", components}}.dump(1));
    return {};
  }
  fmt::print("{}: {}, {} parameters, {} layers, hidden {}, vocabulary {}{}\n", o.model, name_of(s.family), model.parameters(), s.layers, s.hidden, s.vocab, s.tied_head ? ", tied head" : "");
  fmt::print("{}\n\n", fmt::join(parts_of(s), "; "));
  fmt::print("{}\n", list.text());
  Table sizes{{"uniform", "bytes", "bits/weight", ""}, {}};
  for (std::size_t f = 0; f < formats.size(); ++f)
    sizes.rows.push_back({formats[f], std::to_string(totals[f]), fmt::format("{:.3f}", double(totals[f]) * per_parameter), bytes_text(totals[f])});
  fmt::print("{}\n", sizes.text());
  fmt::print("memory at a context of {}: weights {} (as it is), state, KV and work space {}\n", o.context, bytes_text(model.payload_bytes()), bytes_text(session.bytes()));
  return {};
}

}  // namespace

void add_inspect(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("inspect", "What a model is made of, and what it takes in each format\nExample: klens inspect examples/models/hymba-tiny --context 4096");
  add_common(*c, o->common);
  c->add_option("MODEL", o->model, "Checkpoint folder, GGUF or .klens file")->required();
  c->add_option("--context", o->context, "Tokens of context to count memory for")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  c->callback([o, &status] { status = finish(run(*o)); });
}

}  // namespace klens::cli
