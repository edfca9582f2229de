// Table: rows of text with a header, printed for a terminal, as Markdown, or as HTML.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// Escapes text for HTML and SVG content and attributes.
inline std::string html_escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

/// The first column is left-aligned, all others right-aligned (numbers). Short rows are filled with empty cells.
struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;

  std::string cell(std::size_t r, std::size_t c) const { return c < rows[r].size() ? rows[r][c] : std::string(); }

  std::string text() const {
    std::vector<std::size_t> width(header.size());
    for (std::size_t c = 0; c < header.size(); ++c) {
      width[c] = display_width(header[c]);
      for (std::size_t r = 0; r < rows.size(); ++r) width[c] = std::max(width[c], display_width(cell(r, c)));
    }
    std::string out;
    const auto line = [&](auto&& at) {
      std::string row;
      for (std::size_t c = 0; c < header.size(); ++c) {
        const std::string value = at(c), space(width[c] - display_width(value), ' ');
        row += (c ? "  " : "") + (c ? space + value : value + space);
      }
      row.erase(row.find_last_not_of(' ') + 1);
      out += row + "\n";
    };
    line([&](std::size_t c) { return header[c]; });
    line([&](std::size_t c) { return std::string(width[c], '-'); });
    for (std::size_t r = 0; r < rows.size(); ++r) line([&](std::size_t c) { return cell(r, c); });
    return out;
  }

  std::string markdown() const {
    std::string out = "|", rule = "|";
    for (std::size_t c = 0; c < header.size(); ++c) out += " " + header[c] + " |", rule += c ? " ---: |" : " --- |";
    out += "\n" + rule + "\n";
    for (std::size_t r = 0; r < rows.size(); ++r) {
      out += "|";
      for (std::size_t c = 0; c < header.size(); ++c) out.append(" ").append(cell(r, c)).append(" |");
      out += "\n";
    }
    return out;
  }

  /// Rows whose first cell is in `strong` are emphasised.
  std::string html(const std::vector<std::string>& strong = {}) const {
    std::string out = "<div class=\"scroll\"><table><thead><tr>";
    for (const auto& h : header) out += "<th>" + html_escape(h) + "</th>";
    out += "</tr></thead><tbody>\n";
    for (std::size_t r = 0; r < rows.size(); ++r) {
      bool marked = false;
      for (const auto& s : strong) marked = marked || s == cell(r, 0);
      out += marked ? "<tr class=\"strong\">" : "<tr>";
      for (std::size_t c = 0; c < header.size(); ++c) out += "<td>" + html_escape(cell(r, c)) + "</td>";
      out += "</tr>\n";
    }
    return out + "</tbody></table></div>\n";
  }

 private:
  static std::size_t display_width(std::string_view text) {  // UTF-8 code points; klens prints no wide characters
    std::size_t n = 0;
    for (char c : text) n += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    return n;
  }
};

}  // namespace klens
