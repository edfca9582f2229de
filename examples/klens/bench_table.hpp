// What a run of `klens bench kernels` (schema klens.bench/2) looks like: text for a terminal, the page
// docs/benchmarks.md, and the rows that fall short of the figures the kernels are held to.
#pragma once

#include "bench_ports.hpp"

#include <klens/io/json.hpp>
#include <klens/io/mapped_file.hpp>
#include <klens/report/table.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace klens::cli {

using nlohmann::json;

inline std::string text_of(const json& row, const char* key) { return row.value(key, std::string()); }
inline double number_of(const json& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? row[key].get<double>() : 0;
}

/// What a row is held to: a share of its limit, and a ratio to rivals (their time / ours); 0: nothing.
struct Figure {
  double share = 0, ratio = 0;
};

/// Sequence kernels, f32 states and caches, as far as prefill or decode is what they are for: the scan of Mamba-1 by
/// exponentials, Mamba-2's by multiply-adds or its state's bytes, conv and SiLU, one query by the bytes of its KV.
inline Figure sequence_figure(const json& row) {
  const std::string kernel = text_of(row, "kernel");
  const bool decode = number_of(row, "tokens") < 2;
  if (text_of(row, "level") == "ref") return {};
  if (kernel == "scan<f32>") return {.share = decode ? 0 : 0.70};
  if (kernel == "ssd<f32>") return {.share = 0.75};
  if (kernel == "conv1d<f32>") return {.share = decode ? 0 : 0.60};
  if (kernel.starts_with("attention<f32>")) return {.share = decode ? 0.80 : 0.55};
  return {};
}

/// N, K >= 512; cold rows also hold at least 16 MB of weights. Small matrices are shown, not judged.
inline Figure figure_of(const json& row) {
  const std::string format = text_of(row, "format"), level = text_of(row, "level"), kind = text_of(row, "kind");
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return format == n; });
  };
  const auto starts = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return format.starts_with(n); });
  };
  Figure f;
  if (kind == "sequence") return sequence_figure(row);
  if (level == "ref" || number_of(row, "rows") < 512 || number_of(row, "cols") < 512) return f;
  if (kind == "cold" && number_of(row, "bytes") < 16e6) return f;
  if (is({"w8a8", "f32"})) f.ratio = 0.97;
  if (starts({"w4g", "nf4g"})) f.ratio = 1.3;
  if (kind == "cold") {
    if (is({"w8a8", "f16", "bf16", "f32"}))
      f.share = 0.95;
    else if (is({"w4a8"}) || (starts({"w4g"}) && format.ends_with("a8")))
      f.share = 0.90;
    else if (starts({"w4g", "w6", "w5", "w3", "w2", "nf4"}))
      f.share = 0.85;
  } else if (kind == "hot") {
    if (is({"w8a8"})) f.share = 0.85;
  } else if (kind == "gemm" && number_of(row, "tokens") >= 128) {
    const bool vnni = level.find("vnni") != std::string::npos;
    if (level == "amx_int8" && format.ends_with("a8"))
      f.share = 0.50, f.ratio = is({"w8a8"}) ? 1.3 : f.ratio;
    else if (is({"w8a8"}))
      f.share = vnni ? 0.88 : level == "avx2" ? 0.65 : 0;
    else if (is({"w4a8"}))
      f.share = vnni ? 0.82 : 0;
    else if (is({"w4g32a8"}))
      f.share = vnni ? 0.68 : 0;
    else if (is({"f32"}))
      f.share = 0.90;
  }
  return f;
}

/// The rival to beat: the fastest of those timed beside the row. w8a8 and f32 rows are held to oneDNN, 4-bit weights in
/// groups to products with such weights where one was timed (not to int8 or f32 matrices of two and eight times the bytes).
inline double worst_ratio(const json& row) {
  const std::string format = text_of(row, "format");
  const json all = row.contains("rivals") && row["rivals"].is_array() ? row["rivals"] : json::array();
  const auto name_starts = [](const json& r, std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return text_of(r, "name").starts_with(n); });
  };
  const bool groups4 = format.starts_with("w4g") || format.starts_with("nf4g");
  const bool alike = groups4 && std::any_of(all.begin(), all.end(), [&](const json& r) {
    return name_starts(r, {"onednn.s4", "ggml."});
  });
  double worst = 0;
  for (const auto& r : all) {
    if ((format == "w8a8" || format == "f32") && !name_starts(r, {"onednn"})) continue;
    if (alike && !name_starts(r, {"onednn.s4", "ggml."})) continue;
    worst = worst == 0 ? number_of(r, "ratio") : std::min(worst, number_of(r, "ratio"));
  }
  return worst;
}

inline std::string percent(double share) { return share > 0 ? fmt::format("{:.0f} %", 100 * share) : ""; }
inline std::string microseconds(double us) {
  return us <= 0 ? "" : us < 100 ? fmt::format("{:.2f}", us) : fmt::format("{:.0f}", us);
}

/// The table's header; `page`: for Markdown, where level, kind and threads head the sections.
inline std::vector<std::string> row_cells(const json& row, bool page) {
  std::string rivals;
  for (const auto& r : row.value("rivals", json::array()))
    rivals +=
        (rivals.empty() ? "" : ", ") +
        fmt::format("{} {:.2f}x", text_of(r, "name").substr(0, text_of(r, "name").find(' ')), number_of(r, "ratio"));
  if (row.contains("rivals") && row["rivals"].is_null()) rivals = "absent";
  const bool linear = text_of(row, "kind") != "rows", gemm = text_of(row, "kind") == "gemm";
  std::vector<std::string> cells{
      page ? text_of(row, "format").empty() ? text_of(row, "kernel") : text_of(row, "format") : text_of(row, "kernel"),
      text_of(row, "level")};
  if (!page) cells.push_back(text_of(row, "kind")), cells.push_back(fmt::format("{}", int(number_of(row, "threads"))));
  const std::string shape = linear ? fmt::format("{}x{}", int(number_of(row, "rows")), int(number_of(row, "cols")))
                                   : fmt::format("{}", int(number_of(row, "cols")));
  for (const std::string& cell :
       {shape, fmt::format("{}", int(number_of(row, "tokens"))), microseconds(number_of(row, "microseconds")),
        gemm ? fmt::format("{:.0f} GMAC/s", number_of(row, "gigamacs_per_second"))
             : fmt::format("{:.1f} GB/s", number_of(row, "gigabytes_per_second")),
        text_of(row, "memory"), microseconds(number_of(row, "memory_microseconds")), text_of(row, "port"),
        microseconds(number_of(row, "port_microseconds")), text_of(row, "limit"), percent(number_of(row, "share")),
        linear ? fmt::format("{:.1e}", number_of(row, "kernel_error")) : "",
        linear ? fmt::format("{:.1e}", number_of(row, "error")) : "", rivals})
    cells.push_back(cell);
  return cells;
}

inline std::vector<std::string> row_header(bool page) {
  std::vector<std::string> header{page ? "format" : "kernel", "level"};
  if (!page) header.push_back("kind"), header.push_back("threads");
  for (const char* h : {"N x K", "tokens", "us", "rate", "memory", "its us", "port", "its us", "limit", "share",
                        "error", "with activations", "rivals"})
    header.push_back(h);
  return header;
}

/// Rows that miss a figure: what, by how much, and its reason or "not explained".
inline std::vector<std::string> shortfalls(const json& run, const json& reasons) {
  std::vector<std::string> lines;
  for (const auto& row : run["rows"]) {
    const Figure f = figure_of(row);
    const double share = number_of(row, "share"), ratio = worst_ratio(row);
    std::string missed;
    if (f.share > 0 && share < f.share)
      missed =
          fmt::format("{:.1f} % of its limit ({}), asked {:.0f} %", 100 * share, text_of(row, "limit"), 100 * f.share);
    if (f.ratio > 0 && ratio > 0 && ratio < f.ratio)
      missed += (missed.empty() ? "" : "; ") + fmt::format("{:.2f}x the best rival, asked {:.2f}x", ratio, f.ratio);
    if (missed.empty()) continue;
    // The most precise key counts: kernel/level/kind, kernel/level, kernel.
    const std::string kernel = text_of(row, "kernel"), level = kernel + "/" + text_of(row, "level"),
                      kind = level + "/" + text_of(row, "kind");
    std::string reason = "not explained";
    for (const std::string& key : {kernel, level, kind})
      if (reasons.contains(key) && reasons[key].is_string()) reason = reasons[key].get<std::string>();
    const bool sequence = text_of(row, "kind") == "sequence";
    const std::string shape = sequence ? text_of(row, "shape")
                                       : fmt::format("{}x{}", int(number_of(row, "rows")), int(number_of(row, "cols")));
    lines.push_back(fmt::format("`{}` {}, {} tokens, {} threads: {}. {}", kind, shape, int(number_of(row, "tokens")),
                                int(number_of(row, "threads")), missed, reason));
  }
  return lines;
}

/// How many rows have a figure to meet.
inline int judged(const json& run) {
  int n = 0;
  for (const auto& row : run["rows"])
    n += figure_of(row).share > 0 || (figure_of(row).ratio > 0 && worst_ratio(row) > 0);
  return n;
}

inline Table peaks_table(const json& run) {
  Table t{{"level", "threads", "fma", "dot_u8", "dot_s16", "dot_bf16", "tile_u8", "logic", "shift", "shuffle",
           "convert", "half", "mixed", "fork-join us"},
          {}};
  for (const auto& level : run["levels"]) {
    auto& cells = t.rows.emplace_back();
    cells = {text_of(level, "level"), fmt::format("{}", int(number_of(level, "threads")))};
    const json peaks = level.value("gigacounts_per_second", json::object());
    for (std::size_t i = 2; i + 1 < t.header.size(); ++i) {
      const double rate = number_of(peaks, t.header[i].c_str());
      cells.push_back(rate > 0 ? fmt::format("{:.2f}", rate) : "");
    }
    cells.push_back(fmt::format("{:.2f}", number_of(level, "fork_join_microseconds")));
  }
  return t;
}

inline Table read_table(const json& run) {
  Table t{{"memory", "bytes", "threads", "read GB/s"}, {}};
  for (const auto& r : run.value("read", json::array()))
    t.rows.push_back({text_of(r, "memory"), fmt::format("{:.0f} KiB", number_of(r, "bytes") / 1024),
                      fmt::format("{}", int(number_of(r, "threads"))),
                      fmt::format("{:.1f}", number_of(r, "gigabytes_per_second"))});
  return t;
}

inline std::string rivals_line(const json& run) {
  std::string text, last;
  for (const auto& level : run["levels"])
    if (text_of(level, "rivals") != last)
      last = text_of(level, "rivals"), text += fmt::format("{}: {}\n", text_of(level, "level"), last);
  return text;
}

/// The sequence kernels of a run; empty where it has none.
inline Table sequence_table(const json& run) {
  Table t{{"kernel", "level", "model", "tokens", "threads", "us", "memory us", "compute us", "limit", "share", "error"}, {}};
  for (const auto& row : run["rows"])
    if (text_of(row, "kind") == "sequence")
      t.rows.push_back({text_of(row, "kernel"), text_of(row, "level"), text_of(row, "shape"),
                        fmt::format("{}", int(number_of(row, "tokens"))), fmt::format("{}", int(number_of(row, "threads"))),
                        microseconds(number_of(row, "microseconds")), microseconds(number_of(row, "memory_microseconds")),
                        microseconds(number_of(row, "compute_microseconds")), text_of(row, "limit"),
                        percent(number_of(row, "share")), fmt::format("{:.1e}", number_of(row, "error"))});
  return t;
}

inline std::string bench_text(const json& run) {
  Table t{row_header(false), {}};
  for (const auto& row : run["rows"])
    if (text_of(row, "kind") != "sequence") t.rows.push_back(row_cells(row, false));
  std::string text = fmt::format("{}\n{}\n{}counts of 16 lanes per second x 1e9\n\n{}", text_of(run, "cpu"),
                                 read_table(run).text(), peaks_table(run).text(), t.rows.empty() ? "" : t.text());
  if (const Table s = sequence_table(run); !s.rows.empty())
    text += (t.rows.empty() ? "" : "\n") + s.text() +
            "memory: its bytes walked the same way; compute: exponentials, SiLUs, multiply-adds at their rates on "
            "registers\n";
  text +=
      "share = limit / time, limit = the longer of memory and port; error: rms against float64, of the kernel alone "
      "and with rounded activations\n";
  text += "rivals: their time / ours\n" + rivals_line(run);
  const auto missed = shortfalls(run, json::object());
  text += fmt::format("{} rows are held to a figure, {} fall short\n", judged(run), missed.size());
  return text;
}

/// The instruction counts behind the port bound: 16-lane operations per 64 weights to unpack them.
inline Table unpack_table() {
  Table t{{"codec", "u8, 512 bits", "u8, 256 bits", "s16", "f32, 512 bits", "f32, 256 bits"}, {}};
  constexpr std::pair<Codec, const char*> codecs[] = {{Codec::i8, "w8"},   {Codec::i6, "w6"},   {Codec::i5, "w5"},
                                                      {Codec::i4, "w4"},   {Codec::i3, "w3"},   {Codec::i2, "w2"},
                                                      {Codec::nf4, "nf4"}, {Codec::f16, "f16"}, {Codec::bf16, "bf16"}};
  const auto cell = [](const PortCounts& n) {
    constexpr const char* names[port_count] = {"", "", "", "", "", "logic", "shift", "shuffle", "convert", "half", ""};
    std::string text;
    for (int p = 0; p < port_count; ++p)
      if (n[std::size_t(p)] > 0)
        text += (text.empty() ? "" : " + ") + fmt::format("{:g} {}", n[std::size_t(p)], names[p]);
    return text.empty() ? std::string("0") : text;
  };
  for (const auto& [codec, name] : codecs) {
    const bool dots = is_integer(codec);
    t.rows.push_back({name, dots ? cell(unpack_counts(codec, DotKind::a8, true, true)) : "",
                      dots ? cell(unpack_counts(codec, DotKind::a8, false, true)) : "",
                      dots ? cell(unpack_counts(codec, DotKind::a16, true, false)) : "",
                      cell(unpack_counts(codec, DotKind::f32, true, false)),
                      cell(unpack_counts(codec, DotKind::f32, false, false))});
  }
  return t;
}

/// A run's file, checked for what the tables read.
inline Result<json> read_bench(const std::string& path) {
  KLENS_TRY(const MappedFile file, MappedFile::open(path));
  json run = json::parse(file.text(), nullptr, false);
  const auto fault = [&](const char* expected, const char* found) {
    return Error{ErrorCode::format, path, expected, found};
  };
  if (run.is_discarded() || !run.is_object()) return fault("JSON of klens bench kernels", "something else");
  if (!run.contains("schema") || run["schema"] != "klens.bench/2")
    return fault("schema klens.bench/2", "another schema");
  for (const char* key : {"levels", "rows"}) {
    if (!run.contains(key) || !run[key].is_array()) return fault("arrays levels and rows", "none");
    for (const auto& item : run[key])
      if (!item.is_object()) return fault("objects in levels and rows", "something else");
  }
  return run;
}

inline std::string bench_markdown(const json& run, const json& reasons) {
  const json caches = run.value("caches", json::object());
  std::string page =
      "# Benchmarks\n\nWritten by `klens bench table` from the JSON of `klens bench kernels`; do not edit.\n\n";
  page += fmt::format(
      "klens {}, {}, {} processors, caches as the system tells: L1d {} KiB, L2 {} KiB, L3 {} MiB. Medians of {} "
      "interleaved rounds{}.\n\n",
      text_of(run, "klens"), text_of(run, "cpu"), int(number_of(run, "processors")), int(number_of(caches, "l1")) >> 10,
      int(number_of(caches, "l2")) >> 10, int(number_of(caches, "l3")) >> 20, int(number_of(run, "repeats")),
      run.value("quick", false) ? " (a quick run: to be read as a sample of the page, not as numbers)" : "");
  page += R"(## How to read it

* **us**: one call of the linear, activations already rounded (that is `quantize_row`, a table of its own).
* **memory, its us**: the time in which the fastest plain reader (1 to 8 streams, with and without prefetch) goes
  through the same bytes in the same pieces with the same threads, in the same rounds. *cold*: the matrix is one of
  several copies, together at least four times the L3. *hot*: one matrix that stays in its cache.
* **port, its us**: the time the vector units need for the instructions alone, from rates measured in the same run by
  loops on registers. Rows of one to eight tokens count the multiplications and the shortest known unpacking (`unpack`
  where that bounds); rows of more tokens the multiplications alone.
* **limit** is the longer of the two times, **share** = limit / us, taken within each round; the median is shown.
* **error**: rms(y - float64) / rms(float64) of the kernel on the rounded activations; *with activations*: against the
  original ones.
* **rivals**: their time / ours in the same rounds (above 1: we are faster), weights packed beforehand where the
  library can, instructions capped to the level's. `onednn.s8s8`, `onednn.u8s8`: int8 x int8 without scales, the faster
  of the two; `onednn.s4`, `onednn.s4bf16`, `onednn.s4s8`: 4-bit weights with group scales on rows of f32, bf16, int8;
  `ggml.q4_0`: groups of 32, rows of f32 that it rounds to int8 within the call. 4-bit weights in groups are held to
  these where they were timed, the int8 and f32 products beside them are for comparison.

)";
  page += "Rivals by level: \n\n";
  for (std::size_t at = 0; const char c : rivals_line(run))
    page += at++ == 0 || page.back() == '\n' ? std::string("* ") + c : std::string(1, c);
  page +=
      "\n## What the machine does\n\nBillions of operations on 16 lanes per second, all threads together, and the cost "
      "of one fork and join.\n\n" +
      peaks_table(run).markdown();
  page += "\nReading memory, by the best plain reader:\n\n" + read_table(run).markdown();
  page += R"(
Instructions of the port bound, on 16 lanes, to unpack 64 weights. To these come the multiplications of every token: 4
fma; 2 int16 products; with VNNI 1 u8 dot; a8 without VNNI on 4 bits and fewer 1 1/8 int16 products; an add for each
product without VNNI; and per group its scale (half), a conversion and an fma. The bound is the longest of: each class
at its rate, all of them at the best rate of any mix. Loads and stores count nothing.

)" + unpack_table().markdown();
  std::set<int> thread_counts;
  for (const auto& row : run["rows"]) thread_counts.insert(int(number_of(row, "threads")));
  const auto section = [&](const char* kind, const char* title) {
    for (const int threads : thread_counts) {
      Table t{row_header(true), {}};
      for (const auto& row : run["rows"])
        if (text_of(row, "kind") == kind && int(number_of(row, "threads")) == threads)
          t.rows.push_back(row_cells(row, true));
      if (!t.rows.empty())
        page += fmt::format("\n## {}, {} thread{}\n\n", title, threads, threads > 1 ? "s" : "") + t.markdown();
    }
  };
  section("cold", "One token, weights from memory");
  section("hot", "One token, weights in a cache");
  section("gemm", "Prefill");
  Table t{{"kernel", "level", "K", "tokens", "us", "GB/s of f32 rows"}, {}};
  for (const auto& row : run["rows"])
    if (text_of(row, "kind") == "rows")
      t.rows.push_back({text_of(row, "kernel"), text_of(row, "level"), fmt::format("{}", int(number_of(row, "cols"))),
                        fmt::format("{}", int(number_of(row, "tokens"))), microseconds(number_of(row, "microseconds")),
                        fmt::format("{:.1f}", number_of(row, "gigabytes_per_second"))});
  if (!t.rows.empty()) page += "\n## Rounding the activations, 1 thread\n\n" + t.markdown();
  if (const Table sequences = sequence_table(run); !sequences.rows.empty()) page += R"(
## Sequence kernels

Sizes of published models; one token finds its states in the memory of as many layers as the model has. Two threads: the scans,
convolutions and attention, split as a session splits them (a convolution of one token is not), beside limits on two threads.

* **memory us**: the bytes that the call must read and write, walked by lines in the same places in the same rounds:
  lines read and written (rows, states), or the best plain reader (the KV of one query).
* **compute us**: scan: one exponential per state and channel, at the rate of the same polynomial on registers. conv1d
  and gated_norm: SiLUs (polynomial and division on registers) plus multiply-adds, which share its ports. Others: their
  multiply-adds at the FMA peak; attention's exponentials count nothing.
* **limit** is the longer of the two (scan of more than one token: its exponentials), **share** = limit / us.
* **error**: rms(y - float64) / rms(float64) of the same inputs; rounded states and caches with their rounding.

)" + sequences.markdown();
  const auto missed = shortfalls(run, reasons);
  page += fmt::format("\n## Rows that fall short\n\n{} rows are held to a figure, {} fall short of it.\n\n",
                      judged(run), missed.size());
  for (const auto& line : missed) page += "* " + line + "\n";
  return page;
}

}  // namespace klens::cli
