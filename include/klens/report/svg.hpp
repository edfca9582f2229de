// Charts as SVG text that takes its colours from the page's CSS variables, so that one picture reads in light and dark.
#pragma once

#include <klens/report/number.hpp>
#include <klens/report/table.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace klens {

/// Maps values to pixels, linearly or by log10.
struct Axis {
  double low = 0, high = 1;
  bool log = false;
  double from = 0, to = 1;  // pixels

  double at(double value) const {
    const double a = log ? std::log10(low) : low, b = log ? std::log10(high) : high;
    const double v = log ? std::log10(std::max(value, low)) : value;
    return from + (to - from) * (b > a ? (v - a) / (b - a) : 0.5);
  }

  /// Round tick values inside [low, high]: powers of ten on a log axis, 1-2-5 steps on a linear one.
  std::vector<double> ticks(int wanted = 6) const {
    std::vector<double> out;
    if (log && high / low > 4) {
      const int first = int(std::ceil(std::log10(low) - 1e-9)), last = int(std::floor(std::log10(high) + 1e-9));
      const int step = std::max(1, (last - first + wanted - 1) / wanted);
      for (int e = first; e <= last; e += step) out.push_back(std::pow(10.0, e));
      if (out.size() < 3)  // less than two decades: finer steps
        for (int e = first - 1; e <= last; ++e)
          for (double m : {1.5, 2.0, 3.0, 5.0, 7.0})
            if (const double v = m * std::pow(10.0, e); v >= low && v <= high) out.push_back(v);
      std::sort(out.begin(), out.end());
      return out;
    }
    const double raw = (high - low) / wanted, base = std::pow(10.0, std::floor(std::log10(std::max(raw, 1e-300))));
    const double step = base * (raw / base > 5 ? 10 : raw / base > 2 ? 5 : raw / base > 1 ? 2 : 1);
    for (double v = std::ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push_back(std::fabs(v) < step * 1e-9 ? 0 : v);
    return out;
  }
};

/// One mark of a scatter chart. `series` picks the colour; hollow marks mean a negative value shown by its size.
struct Mark {
  double x = 0, y = 0;
  int series = 0;
  bool hollow = false, square = false;
  std::string label;    // written beside the mark when not empty
  std::string tooltip;
};

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> line;  // drawn as a path when not empty
};

struct Chart {
  std::string title, x_name, y_name;
  bool x_log = false, y_log = false;
  int width = 640, height = 380;
  std::vector<Series> series;
  std::vector<Mark> marks;
};

inline std::string tick_text(double v) {
  if (v == 0) return "0";
  const double a = std::fabs(v);
  if (a >= 1e9) return fmt::format("{:g} G", v / 1e9);
  if (a >= 1e6) return fmt::format("{:g} M", v / 1e6);
  return a < 1e-3 ? fmt::format("{:.0e}", v) : fmt::format("{:g}", v);
}

/// A scatter or line chart with grid, axes and legend. Empty charts say so in words.
inline std::string svg_chart(const Chart& c) {
  std::vector<double> xs, ys;
  const auto add = [&](double x, double y) {
    if (std::isfinite(x) && std::isfinite(y) && (!c.x_log || x > 0) && (!c.y_log || y > 0)) xs.push_back(x), ys.push_back(y);
  };
  for (const auto& m : c.marks) add(m.x, m.y);
  for (const auto& s : c.series)
    for (auto [x, y] : s.line) add(x, y);
  if (xs.empty()) return "<p class=\"note\">" + html_escape(c.title) + ": nothing to draw.</p>\n";

  const auto axis = [](std::vector<double>& v, bool log, double from, double to) {
    auto [lo, hi] = std::minmax_element(v.begin(), v.end());
    Axis a{*lo, *hi, log, from, to};
    if (log) {
      const double pad = std::max(std::pow(a.high / a.low, 0.07), 1.02);
      a.low /= pad, a.high *= pad;
    }
    else if (const double pad = (a.high - a.low) * 0.06; pad > 0) a.low -= pad, a.high += pad;
    else a.low -= 1, a.high += 1;
    return a;
  };
  const int left = 64, right = 16, top = 16, bottom = 46;
  const Axis x = axis(xs, c.x_log, left, c.width - right), y = axis(ys, c.y_log, c.height - bottom, top);

  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", c.width, c.height, html_escape(c.title));
  for (double t : x.ticks())
    out += fmt::format("<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/><text class=\"tick\" x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4}</text>\n",
                       x.at(t), top, c.height - bottom, c.height - bottom + 16, tick_text(t));
  for (double t : y.ticks())
    out += fmt::format("<line class=\"grid\" x1=\"{1}\" x2=\"{2}\" y1=\"{0:.1f}\" y2=\"{0:.1f}\"/><text class=\"tick\" x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>\n",
                       y.at(t), left, c.width - right, left - 6, y.at(t) + 4, tick_text(t));
  out += fmt::format("<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (left + c.width - right) / 2, c.height - 10, html_escape(c.x_name));
  out += fmt::format("<text class=\"axis\" transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n", (top + c.height - bottom) / 2, html_escape(c.y_name));

  for (std::size_t s = 0; s < c.series.size(); ++s) {
    std::string path;
    for (auto [px, py] : c.series[s].line)
      if ((!c.x_log || px > 0) && (!c.y_log || py > 0)) path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x.at(px), y.at(py));
    if (!path.empty()) out += fmt::format("<path class=\"line s{}\" d=\"{}\"/>\n", s % 8, path);
  }
  for (const auto& m : c.marks) {
    if (!std::isfinite(m.x) || !std::isfinite(m.y) || (c.x_log && m.x <= 0) || (c.y_log && m.y <= 0)) continue;
    const double px = x.at(m.x), py = y.at(m.y);
    const std::string style = fmt::format("mark s{}{}", m.series % 8, m.hollow ? " hollow" : "");
    const std::string tip = m.tooltip.empty() ? "" : "<title>" + html_escape(m.tooltip) + "</title>";
    out += m.square ? fmt::format("<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"10\" height=\"10\">{}</rect>\n", style, px - 5, py - 5, tip)
                    : fmt::format("<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\">{}</circle>\n", style, px, py, m.label.empty() ? 3.2 : 5.0, tip);
    if (!m.label.empty()) {
      const bool flip = px > c.width - right - 90;
      out += fmt::format("<text class=\"label\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", flip ? px - 9 : px + 9, py - 6, flip ? "end" : "start", html_escape(m.label));
    }
  }
  out += "</svg>\n";
  std::string legend;
  for (std::size_t s = 0; s < c.series.size(); ++s)
    if (!c.series[s].name.empty()) legend += fmt::format("<span><i class=\"key s{}\"></i>{}</span>", s % 8, html_escape(c.series[s].name));
  if (!legend.empty()) out += "<p class=\"legend\">" + legend + "</p>\n";
  return out;
}

/// A grid of cells shaded by log10(value) between low and high; NaN cells are left empty. values[row][col].
struct HeatMap {
  std::string title;
  std::vector<std::string> rows, cols;
  std::vector<std::vector<double>> values;
  std::vector<std::vector<bool>> faint;  // under the noise floor: written in brackets; may be empty
  double low = 1e-6, high = 1;
};

inline std::string svg_heat_map(const HeatMap& h) {
  const int cell_w = 62, cell_h = 22, left = 58, top = 40;
  const int width = left + cell_w * int(h.cols.size()) + 4, height = top + cell_h * int(h.rows.size()) + 4;
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" style=\"max-width:{}px\" role=\"img\" aria-label=\"{}\">\n", width, height, width, html_escape(h.title));
  out += fmt::format("<text class=\"axis\" x=\"0\" y=\"14\">{}</text>\n", html_escape(h.title));
  for (std::size_t c = 0; c < h.cols.size(); ++c)
    out += fmt::format("<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", left + cell_w * int(c) + cell_w / 2, top - 6, html_escape(h.cols[c]));
  for (std::size_t r = 0; r < h.rows.size(); ++r) {
    out += fmt::format("<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", left - 6, top + cell_h * int(r) + 15, html_escape(h.rows[r]));
    for (std::size_t c = 0; c < h.cols.size(); ++c) {
      const double v = h.values[r][c];
      if (std::isnan(v)) continue;
      const double lo = std::log10(h.low), hi = std::log10(h.high);
      const double shade = v > 0 ? std::clamp((std::log10(v) - lo) / (hi > lo ? hi - lo : 1), 0.0, 1.0) : 0.0;
      const bool faint = !h.faint.empty() && h.faint[r][c];
      const int px = left + cell_w * int(c), py = top + cell_h * int(r);
      out += fmt::format("<rect class=\"heat\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" style=\"fill-opacity:{:.2f}\"><title>{} {}: {:.4e} nat/token{}</title></rect>"
                         "<text class=\"{}\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                         px, py, cell_w - 2, cell_h - 2, 0.06 + 0.9 * shade, html_escape(h.rows[r]), html_escape(h.cols[c]), v, faint ? " (under the noise)" : "",
                         shade > 0.72 ? "cell deep" : "cell", px + cell_w / 2 - 1, py + 14, faint ? fmt::format("({:.0e})", v) : fmt::format("{:.1e}", v));
    }
  }
  return out + "</svg>\n";
}

}  // namespace klens
