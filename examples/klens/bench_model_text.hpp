// The runs of bench_model.hpp as tables for a terminal.
#pragma once

#include "bench_profile.hpp"

#include <klens/report/table.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <functional>
#include <string>

namespace klens::cli {

/// Calls visit(heading, entry) for every prefill and decode entry of a run.
inline void for_each_pass(const nlohmann::json& run, const std::function<void(std::string, const nlohmann::json&)>& visit) {
  for (const auto& e : run["prefill"]) visit(fmt::format("prefill {}", e["tokens"].get<int>()), e);
  for (const auto& e : run["decode"]) visit(fmt::format("decode at {}", e["prompt"].get<int>()), e);
}

/// Speeds of one run.
inline std::string speed_text(const nlohmann::json& run) {
  std::string text;
  if (!run["decode"].empty()) {
    Table decode{{"decode at", "tokens/s", "MB/token", "weights", "KV", "states", "GB/s", "readable GB/s", "share"}, {}};
    for (const auto& e : run["decode"]) {
      const auto megabytes = [&e](const char* key) { return fmt::format("{:.1f}", e["bytes"][key].get<double>() / 1e6); };
      decode.rows.push_back({fmt::format("{}", e["prompt"].get<int>()), fmt::format("{:.2f}", e["tokens_per_second"].get<double>()),
                             megabytes("total"), megabytes("weights"), megabytes("kv"), megabytes("state"),
                             fmt::format("{:.2f}", e["bytes_per_second"].get<double>() / 1e9),
                             fmt::format("{:.2f}", e["read_bytes_per_second"].get<double>() / 1e9),
                             fmt::format("{:.1f} %", e["share"].get<double>() * 100)});
    }
    text += decode.text();
  }
  if (!run["prefill"].empty()) {
    Table prefill{{"prefill", "tokens/s", "ms", "its linears alone, ms", "ratio"}, {}};
    for (const auto& e : run["prefill"])
      prefill.rows.push_back({fmt::format("{}", e["tokens"].get<int>()), fmt::format("{:.1f}", e["tokens_per_second"].get<double>()),
                              fmt::format("{:.1f}", e["milliseconds"].get<double>()),
                              fmt::format("{:.1f}", e["linears_milliseconds"].get<double>()),
                              fmt::format("{:.2f}", e["ratio"].get<double>())});
    text += prefill.text();
  }
  return text;
}

/// Where the time of one run goes: microseconds per token by part, and of a layer by kind.
inline std::string profile_text(const nlohmann::json& run) {
  Table parts{{"us per token"}, {}};
  for_each_pass(run, [&](std::string heading, const nlohmann::json&) { parts.header.push_back(std::move(heading)); });
  const auto line = [&](std::string name, auto&& value_of) {
    bool any = false;
    std::vector<std::string> cells = {std::move(name)};
    for_each_pass(run, [&](std::string, const nlohmann::json& e) {
      const double us = value_of(e["profile"]), all = e["profile"]["microseconds"].get<double>();
      any |= us != 0;
      cells.push_back(us == 0 ? "" : fmt::format("{:.1f} ({:4.1f} %)", us, us / all * 100));
    });
    if (any) parts.rows.push_back(std::move(cells));
  };
  for (const std::string_view part : part_names)
    line(std::string(part), [&](const nlohmann::json& p) { return p["parts"].value(std::string(part), 0.0); });
  line("waiting", [](const nlohmann::json& p) { return p["waiting"].get<double>(); });
  line("in all", [](const nlohmann::json& p) { return p["microseconds"].get<double>(); });

  // Layers of one kind are told together.
  Table layers{parts.header, {}};
  layers.header[0] = "us per layer";
  std::vector<std::string> kinds;
  const auto kind_of = [](const nlohmann::json& l) {
    std::string kind = l["mixer"];
    if (l["ffn"] != "none") kind += " + " + l["ffn"].get<std::string>();
    if (l["window"] != 0) kind += fmt::format(", window {}", l["window"].get<int>());
    return kind;
  };
  for_each_pass(run, [&](std::string, const nlohmann::json& e) {
    for (const auto& l : e["profile"]["layers"])
      if (std::find(kinds.begin(), kinds.end(), kind_of(l)) == kinds.end()) kinds.push_back(kind_of(l));
  });
  for (const std::string& kind : kinds) {
    int count = 0;
    std::vector<std::string> cells = {""};
    for_each_pass(run, [&](std::string, const nlohmann::json& e) {
      double sum = 0;
      count = 0;
      for (const auto& l : e["profile"]["layers"])
        if (kind_of(l) == kind) sum += l["microseconds"].get<double>(), ++count;
      cells.push_back(fmt::format("{:.1f}", sum / count));
    });
    cells[0] = fmt::format("{} x {}", count, kind);
    layers.rows.push_back(std::move(cells));
  }
  return parts.text() + layers.text();
}

}  // namespace klens::cli
