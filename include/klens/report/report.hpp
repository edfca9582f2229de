// report.html of a run: what `measure`, `audit`, `plan` and `eval` left in one folder, as one self-contained page.
//
//   sensitivity.json   klens.sensitivity/1     heat maps
//   audit.json         klens.audit/1           KL against measured dPPL, tau of every metric
//   plan*.json         klens.plan/1            the plans
//   frontier.json      klens.frontier/1        bytes and predicted KL of the best plans of every size
//   eval.json          klens.eval/1            the table of results, size against PPL, speed
//
// A file that is absent leaves its section out, and the page says so.
#pragma once

#include <klens/io/json.hpp>
#include <klens/report/page.hpp>
#include <klens/report/svg.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace klens {
namespace detail {

inline double number_or(const Json& j, const char* key, double fallback = std::numeric_limits<double>::quiet_NaN()) {
  const auto it = j.find(key);
  return it != j.end() && it->is_number() ? it->get<double>() : fallback;
}

inline std::string text_or(const Json& j, const char* key, std::string fallback = {}) {
  const auto it = j.find(key);
  return it != j.end() && it->is_string() ? it->get<std::string>() : fallback;
}

/// The array under a key; empty when there is none.
inline const Json& list_of(const Json& j, const char* key) {
  static const Json empty = Json::array();
  const auto it = j.find(key);
  return it != j.end() && it->is_array() ? *it : empty;
}

inline double mean_of(const Json& entry, const char* metric) {
  const auto it = entry.find(metric);
  if (it == entry.end()) return std::numeric_limits<double>::quiet_NaN();
  return it->is_object() ? number_or(*it, "mean") : it->is_number() ? it->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

/// "model.layers.3.mamba.x_proj.0" -> {"layer 3", "x_proj"}; names without a layer keep their own row.
inline std::pair<std::string, std::string> place_of(const std::string& component) {
  const auto at = component.find("layers.");
  if (at == std::string::npos) return {"model", component.substr(component.rfind('.') + 1)};
  const auto number = component.substr(at + 7), rest = number.substr(number.find('.') + 1);
  std::string role = rest;
  while (!role.empty() && role.find_last_not_of("0123456789") != role.size() - 1) role = role.substr(0, role.rfind('.'));
  return {"layer " + number.substr(0, number.find('.')), role.substr(role.rfind('.') + 1)};
}

inline std::string heat_maps(const Json& sensitivity) {
  std::vector<std::string> formats, rows, cols;
  std::map<std::pair<std::string, std::string>, std::map<std::string, const Json*>> cells;
  double low = 1e300, high = 0;
  const auto remember = [](std::vector<std::string>& list, const std::string& s) {
    if (std::find(list.begin(), list.end(), s) == list.end()) list.push_back(s);
  };
  for (const Json& e : list_of(sensitivity, "entries")) {
    const auto place = place_of(text_or(e, "component"));
    remember(formats, text_or(e, "format"));
    remember(rows, place.first);
    remember(cols, place.second);
    cells[place][text_or(e, "format")] = &e;
    if (const double kl = mean_of(e, "kl_pq"); kl > 0) low = std::min(low, kl), high = std::max(high, kl);
  }
  if (high <= 0) return "<p class=\"note\">No sensitivities in this run.</p>\n";
  std::sort(formats.begin(), formats.end(), [&](const auto& a, const auto& b) {  // coarsest first: by total KL
    const auto total = [&](const std::string& f) {
      double sum = 0;
      for (const auto& [place, by_format] : cells)
        if (auto it = by_format.find(f); it != by_format.end()) sum += std::max(0.0, mean_of(*it->second, "kl_pq"));
      return sum;
    };
    return total(a) > total(b);
  });
  const double floor = sensitivity.contains("floor") && sensitivity["floor"].is_object() ? number_or(sensitivity["floor"], "kl_pq", 0)
                                                                                      : number_or(sensitivity, "floor", 0);
  std::string out = "<div class=\"pair\">\n";
  for (const auto& f : formats) {
    HeatMap map{f + ": KL(p||q) in nat per token", rows, cols, {}, {}, low, high};
    for (const auto& r : rows) {
      auto& values = map.values.emplace_back();
      auto& faint = map.faint.emplace_back();
      for (const auto& c : cols) {
        const auto cell = cells.find({r, c});
        const Json* e = cell == cells.end() || !cell->second.count(f) ? nullptr : cell->second.at(f);
        const double kl = e ? mean_of(*e, "kl_pq") : std::numeric_limits<double>::quiet_NaN();
        const double se = e && e->contains("kl_pq") && (*e)["kl_pq"].is_object() ? number_or((*e)["kl_pq"], "se", 0) : 0;
        values.push_back(kl);
        faint.push_back(e && kl < std::max(floor, 2 * se));
      }
    }
    out += "<figure>" + svg_heat_map(map) + "</figure>\n";
  }
  return out + "</div>\n";
}

inline std::string audit_section(const Json& audit) {
  Chart chart{"KL against dPPL", "KL(q||p), nat per token", "|dPPL| with only this component quantized", true, true, 720, 420, {}, {}};
  std::vector<std::string> formats;
  for (const Json& p : list_of(audit, "points")) {
    const std::string f = text_or(p, "format");
    auto it = std::find(formats.begin(), formats.end(), f);
    if (it == formats.end()) formats.push_back(f), chart.series.push_back({f, {}}), it = formats.end() - 1;
    const double d = number_or(p, "delta_ppl");
    chart.marks.push_back({number_or(p, "kl_qp"), std::fabs(d), int(it - formats.begin()), d < 0, false, "",
                           fmt::format("{} {}: KL {:.3e}, dPPL {:+.4f}", text_or(p, "component"), f, number_or(p, "kl_qp"), d)});
  }
  std::string out = "<figure>" + svg_chart(chart) + "<figcaption>One mark per component and format; hollow: dPPL is negative, i.e. noise.</figcaption></figure>\n";
  Table table{{"format", "metric", "tau-b", "95 % interval", "ceiling", "n"}, {}};
  for (const Json& r : list_of(audit, "rows"))
    table.rows.push_back({text_or(r, "format"), text_or(r, "metric"), fmt::format("{:.4f}", number_or(r, "tau")),
                          fmt::format("{:.3f} to {:.3f}", number_or(r, "low"), number_or(r, "high")),
                          std::isnan(number_or(r, "ceiling")) ? "" : fmt::format("{:.3f}", number_or(r, "ceiling")), fmt::format("{}", long(number_or(r, "n", 0)))});
  return out + "<p class=\"note\">Kendall's tau-b of each metric against the dPPL of the same component. The ceiling is tau between the dPPL of the two halves of the text: no metric can be expected above it.</p>\n" + table.html();
}

inline std::string plan_section(const Json& plan, const std::string& name) {
  Table table{{"component", "format", "bytes", "KL(p||q)", "why"}, {}};
  for (const Json& e : list_of(plan, "entries"))
    table.rows.push_back({text_or(e, "component"), text_or(e, "format"), fmt::format("{}", std::int64_t(number_or(e, "bytes", 0))),
                          std::isnan(number_or(e, "kl")) ? "" : short_number(number_or(e, "kl")), text_or(e, "reason")});
  const std::string size = fmt::format("{}, {:.2f} bits per weight", bytes_text(std::int64_t(number_or(plan, "bytes", 0))), number_or(plan, "bits_per_weight"));
  std::string origin;
  if (const auto it = plan.find("provenance"); it != plan.end() && it->is_object())
    for (const auto& [key, value] : it->items())
      if (value.is_string()) origin += (origin.empty() ? "" : "; ") + key + ": " + value.get<std::string>();
  return "<details><summary><b>" + html_escape(name) + "</b>: " + html_escape(size) + "</summary>\n<p class=\"note\">" + html_escape(origin) + "</p>\n" + table.html() + "</details>\n";
}

/// The table of `klens eval`: one row per artefact.
inline Table eval_table(const Json& eval) {
  Table table{{"artefact"}, {}};
  std::vector<std::string> texts;
  for (const Json& row : list_of(eval, "rows"))
    for (const Json& t : list_of(row, "texts"))
      if (const auto n = text_or(t, "text"); std::find(texts.begin(), texts.end(), n) == texts.end()) texts.push_back(n);
  for (const auto& t : texts) table.header.push_back("PPL " + t);
  for (const char* h : {"KL(p||q)", "top-1", "bytes", "bits/weight", "prefill tok/s", "decode tok/s"}) table.header.push_back(h);
  for (const Json& row : list_of(eval, "rows")) {
    auto& cells = table.rows.emplace_back();
    cells.push_back(text_or(row, "name"));
    const Json* first = nullptr;
    for (const auto& name : texts) {
      const Json* hit = nullptr;
      for (const Json& t : list_of(row, "texts"))
        if (text_or(t, "text") == name) hit = &t;
      if (hit && !first) first = hit;
      cells.push_back(hit ? fmt::format("{:.2f} ±{:.2f}", number_or(*hit, "ppl"), number_or(*hit, "ppl_se")) : "");
    }
    const double kl = first ? number_or(*first, "kl_pq") : NAN, top1 = first ? number_or(*first, "top1") : NAN;
    cells.push_back(std::isnan(kl) ? "" : short_number(kl));
    cells.push_back(std::isnan(top1) ? "" : fmt::format("{:.1f} %", 100 * top1));
    cells.push_back(fmt::format("{}", std::int64_t(number_or(row, "bytes", 0))));
    cells.push_back(fmt::format("{:.2f}", number_or(row, "bits_per_weight")));
    for (const char* key : {"prefill_tokens_per_second", "decode_tokens_per_second"})
      cells.push_back(std::isnan(number_or(row, key)) ? "" : fmt::format("{:.0f}", number_or(row, key)));
  }
  return table;
}

/// Paired differences between a plan and the uniform format it is compared with; empty when eval.json has none.
inline Table verdict_table(const Json& eval) {
  Table table{{"plan", "against", "text", "dNLL", "SE", "95 % bound", "verdict"}, {}};
  for (const Json& v : list_of(eval, "verdicts"))
    table.rows.push_back({text_or(v, "plan"), text_or(v, "against"), text_or(v, "text"), fmt::format("{:+.4f}", number_or(v, "delta_nll")),
                          fmt::format("{:.4f}", number_or(v, "se")), fmt::format("{:+.4f}", number_or(v, "bound")), text_or(v, "verdict")});
  return table;
}

inline std::string size_chart(const Json& eval, const Json& frontier, std::string& text_name) {
  Chart chart{"Size against perplexity", "bytes of the artefact", "PPL", true, true, 720, 420, {{"uniform formats and checkpoint", {}}, {"plans", {}}, {"frontier, predicted", {}}}, {}};
  double base = NAN;
  for (const Json& row : list_of(eval, "rows")) {
    const Json& texts = list_of(row, "texts");
    if (texts.empty()) continue;
    text_name = text_or(texts[0], "text");
    const double ppl = number_or(texts[0], "ppl"), bytes = number_or(row, "bytes");
    const bool is_plan = text_or(row, "kind") == "plan";
    if (text_or(row, "kind") == "reference") base = ppl;
    chart.marks.push_back({bytes, ppl, is_plan ? 1 : 0, false, is_plan, text_or(row, "name"), fmt::format("{}: {:.0f} bytes, PPL {:.2f}", text_or(row, "name"), bytes, ppl)});
  }
  double worst = 0;
  for (const auto& m : chart.marks) worst = std::max(worst, m.y);
  if (!std::isnan(base))
    for (const Json& p : list_of(frontier, "points"))
      if (const double ppl = base * std::exp(number_or(p, "kl", 0)); ppl <= worst * 1.1) chart.series[2].line.emplace_back(number_or(p, "bytes"), ppl);
  std::sort(chart.series[2].line.begin(), chart.series[2].line.end());
  return svg_chart(chart);
}

}  // namespace detail

/// Writes the page of a run folder. Errors: the folder holds none of the four kinds of file, or one is not valid JSON.
inline Result<std::string> report_page(const std::string& folder) {
  using namespace detail;
  namespace fs = std::filesystem;
  const auto load = [&](const std::string& name) -> Result<Json> {
    std::error_code ec;
    if (!fs::exists(fs::path(folder) / name, ec)) return Json();
    return read_json((fs::path(folder) / name).string());
  };
  KLENS_TRY(const Json sensitivity, load("sensitivity.json"));
  KLENS_TRY(const Json audit, load("audit.json"));
  KLENS_TRY(const Json eval, load("eval.json"));
  KLENS_TRY(const Json frontier, load("frontier.json"));
  std::vector<Json> plans;
  std::vector<std::string> plan_names;
  std::error_code ec;
  for (const auto& file : fs::directory_iterator(folder, ec))
    if (const auto name = file.path().filename().string(); name.starts_with("plan") && name.ends_with(".json")) plan_names.push_back(name);
  if (ec) return Error{ErrorCode::io, folder, "a run folder", ec.message()};
  std::sort(plan_names.begin(), plan_names.end());
  for (const auto& name : plan_names) {
    KLENS_TRY(Json plan, load(name));
    plans.push_back(std::move(plan));
  }
  if (sensitivity.is_null() && audit.is_null() && eval.is_null() && plans.empty())
    return Error{ErrorCode::missing, folder, "sensitivity.json, audit.json, eval.json or plan*.json", "none of them"};

  const std::string model = text_or(sensitivity.is_null() ? eval : sensitivity, "model", "model");
  std::string body = "<h1>" + html_escape(model) + "</h1>\n<p class=\"note\">What each component suffers from quantization, the plan made of it, and what the planned model is worth. "
                     "KL is the divergence of the output distribution from the reference (checkpoint weights, float32), in nat per token.</p>\n";
  std::string missing;
  if (!eval.is_null()) {
    std::string text_name;
    const std::string chart = size_chart(eval, frontier, text_name);
    std::vector<std::string> strong;
    for (const Json& row : list_of(eval, "rows"))
      if (text_or(row, "kind") == "plan") strong.push_back(text_or(row, "name"));
    body += "<h2>Results</h2>\n<p class=\"note\">All columns of a row describe one and the same artefact. KL and top-1 are taken on the first text, against the reference. "
            "Speed: prefill of 512 tokens, decode of 128 after 128, " + html_escape(text_or(eval, "machine")) + ".</p>\n" + eval_table(eval).html(strong);
    if (const Table v = verdict_table(eval); !v.rows.empty())
      body += "<h2>Plan against uniform formats</h2>\n<p class=\"note\">dNLL: plan minus uniform, paired by windows; shown when the one-sided 95 % bound lies below 0.005 nat.</p>\n" + v.html();
    body += "<h2>Size against perplexity</h2>\n<figure>" + chart + "<figcaption>PPL on " + html_escape(text_name) + "; the frontier is predicted from the sum of single KLs.</figcaption></figure>\n";
  } else missing += " eval.json (results, speed)";
  if (!plans.empty()) {
    body += "<h2>Plans</h2>\n";
    for (std::size_t i = 0; i < plans.size(); ++i) body += plan_section(plans[i], plan_names[i]);
  } else missing += " plan*.json (plans)";
  if (!sensitivity.is_null())
    body += "<h2>Sensitivity</h2>\n<p class=\"note\">One component quantized at a time. Values in brackets lie under max(floor, 2 standard errors) and are not ranked.</p>\n" + heat_maps(sensitivity);
  else missing += " sensitivity.json (heat maps)";
  if (!audit.is_null()) body += "<h2>Does KL rank what matters?</h2>\n" + audit_section(audit);
  else missing += " audit.json (KL against dPPL)";
  if (!missing.empty()) body += "<p class=\"note\">Not in this run:" + missing + ".</p>\n";
  return html_page("klens: " + model, body);
}

}  // namespace klens
