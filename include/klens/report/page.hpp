// The shell of report.html: one file, no network, no script; readable in light and dark.
#pragma once

#include <klens/report/table.hpp>

#include <string>
#include <string_view>

namespace klens {

/// A whole HTML document around `body`. Series colours s0 to s7 keep a contrast of 3:1 or more on both backgrounds.
inline std::string html_page(std::string_view title, std::string_view body) {
  static constexpr std::string_view style = R"(
:root{color-scheme:light dark;--ground:#fbfaf8;--panel:#fff;--ink:#1d2126;--soft:#5b636d;--rule:#dcdad5;--heat:#b4451f;--deep:#fff;
--s0:#2f6db3;--s1:#c2571a;--s2:#2b8a57;--s3:#8a4fb0;--s4:#a0781a;--s5:#b83265;--s6:#3f8c94;--s7:#6b6f76}
@media(prefers-color-scheme:dark){:root{--ground:#15181c;--panel:#1d2126;--ink:#e6e3dd;--soft:#9aa3ad;--rule:#353b43;--heat:#e8733f;--deep:#14110f;
--s0:#6aa9ec;--s1:#ef9156;--s2:#5cc48c;--s3:#c08ae6;--s4:#d7b04c;--s5:#ef78a2;--s6:#6fc7cf;--s7:#a3a9b2}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2rem 1.25rem 4rem}h1{font-size:1.7rem;margin:0 0 .25rem}h2{font-size:1.2rem;margin:2.5rem 0 .5rem}
p{max-width:72ch}.note,.legend,figcaption{color:var(--soft);font-size:.9rem}
figure{margin:1rem 0;padding:1rem;background:var(--panel);border:1px solid var(--rule);border-radius:6px;overflow-x:auto}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:0 1rem}@media(max-width:520px){.pair{grid-template-columns:1fr}}
svg{width:100%;height:auto;display:block;font:12px system-ui,sans-serif}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem;width:100%}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}th:first-child,td:first-child{text-align:left}
th{color:var(--soft);font-weight:600}tr.strong td{font-weight:650}
.grid{stroke:var(--rule)}.tick{fill:var(--soft);font-size:11px}.axis{fill:var(--ink);font-size:12.5px}.label{fill:var(--ink);font-size:11.5px}
.heat{fill:var(--heat)}.cell{fill:var(--ink);font-size:10.5px}.cell.deep{fill:var(--deep)}
.line{fill:none;stroke-width:2}.mark{fill-opacity:.85}.mark.hollow{fill-opacity:0;stroke-width:1.4}
.legend span{margin-right:1.1rem;white-space:nowrap}.key{display:inline-block;width:.75em;height:.75em;border-radius:50%;margin-right:.4em}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}.s6{--c:var(--s6)}.s7{--c:var(--s7)}
.line,.mark.hollow{stroke:var(--c)}.mark,.bar{fill:var(--c)}.key{background:var(--c)}code{font-size:.92em}
)";
  std::string out = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>";
  out += html_escape(title);
  out += "</title><style>";
  out += style;
  out += "</style></head><body><main>\n";
  out += body;
  return out + "</main></body></html>\n";
}

}  // namespace klens
