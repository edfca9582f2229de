// Chat templates against what jinja2 renders (tests/data/chat/make.py); hostile and damaged templates; what a folder
// brings: template, special tokens, generation_config.json.
#include "io/fuzz.hpp"

#include <klens/io/chat_folder.hpp>

#include <chrono>

using namespace klens;
using OrderedJson = nlohmann::ordered_json;

namespace {

const OrderedJson& cases() {
  static const OrderedJson json = OrderedJson::parse(test::get(std::string(KLENS_TEST_DATA) + "/chat/cases.json"));
  return json;
}

/// 26 July 2026, 09:05:03, a Sunday: the date of make.py.
std::tm moment() {
  std::tm now{};
  now.tm_year = 126, now.tm_mon = 6, now.tm_mday = 26, now.tm_hour = 9, now.tm_min = 5, now.tm_sec = 3, now.tm_wday = 0,
  now.tm_yday = 206;
  return now;
}

Result<std::string> render(const std::string& text, const OrderedJson& variables, const ChatLimits& limits = {}) {
  KLENS_TRY(const ChatTemplate t, ChatTemplate::parse(text, "t.jinja", limits));
  return t.render(variables, moment());
}

std::string fault(const std::string& text, const ChatLimits& limits = {}) {
  const auto r = render(text, {{"x", 1}}, limits);
  if (!r) test::check_clear(r.error().message(), "t.jinja");
  return r ? "" : r.error().message();
}

/// As recorded, or an error where jinja2 has one.
bool agrees(const Result<std::string>& got, const OrderedJson& want) {
  if (!got) test::check_clear(got.error().message(), "t.jinja");
  return got ? want.is_string() && want.get_ref<const std::string&>() == *got : want.is_null();
}

OrderedJson variables_of(const OrderedJson& c) {
  return {{"messages", cases()["conversations"][c["conversation"].get<std::string>()]},
          {"tools", c["tools"].get<bool>() ? cases()["tools"] : OrderedJson()},
          {"documents", nullptr},
          {"add_generation_prompt", c["add"]},
          {"bos_token", "<s>"},
          {"eos_token", "</s>"}};
}

}  // namespace

TEST_CASE("chat template: whole templates render as jinja2 renders them") {
  int rendered = 0, refused = 0;
  for (const auto& c : cases()["cases"]) {
    const auto got = render(cases()["styles"][c["style"].get<std::string>()], variables_of(c));
    CHECK_MESSAGE(agrees(got, c["output"]), c.dump() << (got ? *got : got.error().message()));
    ++(c["output"].is_null() ? refused : rendered);
  }
  CHECK(rendered >= 250);
  CHECK(refused >= 30);
}

TEST_CASE("chat template: every construct renders as in jinja2, or is refused by name") {
  int rendered = 0, refused = 0, outside = 0;
  for (const auto& piece : cases()["pieces"]) {
    const std::string text = piece[0];
    CAPTURE(text);
    const auto got = render(text, cases()["variables"]);
    if (piece[2].get<bool>()) {
      REQUIRE(!got);
      CHECK(got.error().code == ErrorCode::unsupported);
      CHECK(got.error().message().find("t.jinja: line 1: expected the part of Jinja that klens renders, found ") == 0);
      ++outside;
      continue;
    }
    CHECK_MESSAGE(agrees(got, piece[1]), piece[1].dump() << " / " << (got ? *got : got.error().message()));
    ++(piece[1].is_null() ? refused : rendered);
  }
  CHECK(rendered >= 530);
  CHECK(refused >= 100);
  CHECK(outside >= 20);
}

TEST_CASE("chat template: a wrong character in the template or the recorded text is seen") {
  const auto& c = cases()["cases"][4];
  const std::string style = cases()["styles"][c["style"].get<std::string>()], text = c["output"];
  REQUIRE(agrees(render(style, variables_of(c)), text));
  for (std::size_t i = 0; i < text.size(); i += 3) {
    std::string wrong = text;
    wrong[i] = char(wrong[i] ^ 1);
    CHECK(!agrees(render(style, variables_of(c)), wrong));
  }
  std::string other = style;
  other.replace(other.find("<|im_end|>"), 2, "<:");
  CHECK(!agrees(render(other, variables_of(c)), text));
}

TEST_CASE("chat template: errors name line and construct") {
  CHECK(fault("a\n{{ x | nothing }}") ==
        "t.jinja: line 2: expected the part of Jinja that klens renders, found the filter 'nothing'");
  CHECK(fault("\n\n{% include 'y' %}")
            .find("line 3: expected the part of Jinja that klens renders, found {% include %}") != std::string::npos);
  CHECK(fault("{% for m in x %}\n{{ m }}{% endfor %}") ==
        "t.jinja: line 1: expected something to iterate over, found an integer");
  CHECK(fault("{{ y.z }}") == "t.jinja: line 1: expected a value with attributes ('z'), found 'y', which is undefined");
  CHECK(fault("{% if x %}\n") == "t.jinja: line 1: expected {% endif %}, found the end of the template");
  CHECK(fault("\n{{ raise_exception('turn ' ~ x) }}") == "t.jinja: line 2: the template refuses: turn 1");
  CHECK(fault("{{ x.__class__ }}").find("the attribute '__class__'") != std::string::npos);
  const auto t = ChatTemplate::parse("{{ strftime_now('%Y') }}", "t.jinja");
  REQUIRE(t);
  const auto dated = t->render(OrderedJson::object(), moment());
  REQUIRE(dated);
  CHECK(*dated == "2026");
  const auto no_date = t->render(OrderedJson::object());
  REQUIRE(!no_date);
  CHECK(no_date.error().message() == "t.jinja: line 1: expected a date, which strftime_now('%Y') asks for, found none");
  CHECK(!t->render(OrderedJson::array()));
  CHECK(!ChatTemplate::parse("a\xff", "t.jinja"));
  CHECK(!t->render({{"x", "\xff"}}));
}

TEST_CASE("chat template: hostile templates end with an error") {
  const auto many = [](const std::string& text, int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += text;
    return out;
  };
  const std::string range = "range(100000)";
  const std::string hostile[] = {
      "{% for a in " + range + " %}{% for b in " + range + " %}{% endfor %}{% endfor %}",
      "{% set n = namespace(s='ab') %}{% for a in " + range + " %}{% set n.s = n.s ~ n.s %}{% endfor %}",
      "{% set n = namespace(s=[1]) %}{% for a in " + range + " %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% set n = namespace(s=1) %}{% for a in " + range + " %}{% set n.s = [n.s] %}{% endfor %}",
      "{% set n = namespace(s=[1]) %}{% for a in range(90) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
      "{% set n = namespace(s=[1]) %}{% for a in range(90) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | tojson }}",
      "{% set n = namespace(s=[1], t=[1]) %}{% for a in range(90) %}{% set n.s = [n.s, n.s] %}{% set n.t = [n.t, n.t] "
      "%}{% endfor %}{{ n.s == n.t }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m(k) %}{{ m(k + 1) ~ m(k + 1) }}{% endmacro %}{{ m(0) }}",
      "{{ 'a' * 9000000000000000000 }}",
      "{{ [0] * 9000000000000000000 }}",
      "{{ ('a' * 9999999).replace('', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb') }}",
      "{{ " + many("(", 100000) + " }}",
      "{{ " + many("[", 100000) + " }}",
      "{{ " + many("- ", 100000) + "1 }}",
      "{{ " + many("not ", 50000) + "1 }}",
      "{{ 1" + many("+1", 100000) + " }}",
      "{{ x" + many(".a", 100000) + " }}",
      "{{ x" + many("|abs", 60000) + " }}",
      "{{ x" + many("[0]", 60000) + " }}",
      "{{ 1" + many(" if 1 else 1", 20000) + " }}",
      many("{% if x %}", 20000),
      many("{% for a in [1] %}", 10000) + many("{% endfor %}", 10000),
      "{{ 99999999999999999999 }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 3 ** 1000000000 }}",
      "{{ range(1000000000) | list }}",
      "{% set t = 'a' * 1000000 %}{% for i in " + range +
          " %}{% if 'aaaaaaaaaaaaaaaaaaaaaaaaaaaab' in t %}{% endif %}{% endfor %}",
      "{{ " + many("x ~ ", 80000) + "x",
      many("x", 300000)};
  for (const std::string& text : hostile) {
    CAPTURE(text.substr(0, 80));
    const auto start = std::chrono::steady_clock::now();
    CHECK(fault(text) != "");
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));  // 1 s on a quiet machine
  }
}

TEST_CASE("chat template: damaged templates render or end with a clear error") {
  std::vector<std::string> seeds;
  for (const auto& [name, style] : cases()["styles"].items()) seeds.push_back(style);
  for (const auto& piece : cases()["pieces"]) seeds.push_back(piece[0]);
  const ChatLimits limits{.steps = 20'000, .work = std::size_t(1) << 22, .output_bytes = std::size_t(1) << 20};
  OrderedJson variables = cases()["variables"];
  variables.update(variables_of(cases()["cases"][0]));
  variables["messages"] = cases()["conversations"]["long"];
  const int count = test::fuzz_count(1500);
  test::Mutator mutate(20260726);
  int rendered = 0;
  test::reset_largest_allocation();
  for (int i = 0; i < count; ++i) {
    std::string text = seeds[i % 2 ? mutate.below(12) % seeds.size() : mutate.below(seeds.size())];
    if (mutate.below(3) == 0) {  // a stretch of another template in the middle
      const std::string& other = seeds[mutate.below(seeds.size())];
      text.insert(mutate.below(text.size() + 1), other.substr(mutate.below(other.size() + 1), 1 + mutate.below(60)));
    }
    text = mutate(text, text.size());
    const auto got = render(text, variables, limits);
    if (got)
      ++rendered;
    else
      test::check_clear(got.error().message(), "t.jinja");
  }
  CHECK(rendered > count / 20);
  CHECK(rendered < count);
  CHECK(test::largest_allocation() < std::size_t(64) << 20);
}

TEST_CASE("chat folder: where the template stands, and the special tokens it is given") {
  const test::TempFolder folder;
  const auto none = ChatFolder::load(folder.path());
  REQUIRE(!none);
  CHECK(none.error().message().find("chat_template") != std::string::npos);
  const OrderedJson messages = {{{"role", "user"}, {"content", "Hi"}}};
  const auto said = [&] {
    const auto c = ChatFolder::load(folder.path());
    if (!c) return c.error().message();
    const auto text = c->render(messages, true);
    return text ? *text : text.error().message();
  };
  const std::string config = folder / "tokenizer_config.json";
  test::put(config, R"({"bos_token": {"content": "<b>"}, "eos_token": "<e>", "pad_token": null})");
  CHECK(said().find("chat_template") != std::string::npos);
  test::put(config, R"({"bos_token": {"content": "<b>"}, "eos_token": "<e>", "pad_token": null,
                       "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }})"
                    R"({{ pad_token is defined }}{{ add_generation_prompt }}{{ tools is none }}"})");
  CHECK(said() == "<b>Hi<e>FalseTrueTrue");
  const auto loaded = ChatFolder::load(folder.path());
  REQUIRE(loaded);
  CHECK(loaded->eos_token() == "<e>");
  test::put(
      config,
      R"({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D{{ messages|length }}"}]})");
  CHECK(said() == "D1");
  test::put(config, R"({"chat_template": [{"name": "tool_use", "template": "T"}]})");
  CHECK(said().find("default") != std::string::npos);
  for (const char* wrong :
       {R"({"chat_template": 3})", R"({"chat_template": [3]})", R"({"chat_template": [{"name": "default"}]})",
        R"({"bos_token": 7, "chat_template": "x"})", "{", "[]"}) {
    test::put(config, wrong);
    const auto c = ChatFolder::load(folder.path());
    REQUIRE_MESSAGE(!c, wrong);
    test::check_clear(c.error().message(), "tokenizer_config.json");
  }
  test::put(config, R"({"chat_template": "from the config"})");
  test::put(folder / "chat_template.jinja", "from the file\n");
  CHECK(said() == "from the file");
  test::put(folder / "chat_template.jinja", "{{ x y }}");
  CHECK(said().find("chat_template.jinja: line 1") != std::string::npos);
}

TEST_CASE("chat folder: what a packed file keeps of it says the same") {
  const test::TempFolder folder;
  const OrderedJson messages = {{{"role", "user"}, {"content", "Hi"}}};
  const auto kept = [&] {
    const auto text = ChatFolder::text_of(folder.path());
    return text ? *text : text.error().message();
  };
  CHECK(kept() == "");
  const std::string config = folder / "tokenizer_config.json";
  test::put(config, R"({"bos_token": {"content": "<b>"}, "eos_token": "<e>", "pad_token": null, "model_max_length": 9})");
  CHECK(kept() == R"({"bos_token":"<b>","eos_token":"<e>"})");
  CHECK(*ChatFolder::eos_token_of(kept(), "x") == "<e>");
  CHECK(*ChatFolder::eos_token_of("", "x") == "");
  CHECK(*ChatFolder::eos_token_of("{}", "x") == "");
  CHECK(ChatFolder::parse(kept(), "x").error().message() ==
        "x: expected a chat template, found none: a model without one is not made to chat");
  test::put(config, R"({"bos_token": {"content": "<b>"}, "chat_template": [{"name": "tool_use", "template": "T"},
                       {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token is defined }}"}]})");
  const auto same = [&] {
    const auto whole = ChatFolder::load(folder.path()), part = ChatFolder::parse(kept(), "x");
    REQUIRE(whole);
    REQUIRE(part);
    CHECK(*whole->render(messages, true) == *part->render(messages, true));
    return *part->render(messages, true);
  };
  CHECK(same() == "<b>HiFalse");
  test::put(folder / "chat_template.jinja", "{{ messages[0].role }}\n");
  CHECK(same() == "user");
  // A template that klens refuses is kept, and refused where it is used.
  test::put(folder / "chat_template.jinja", "{{ x y }}");
  CHECK(ChatFolder::parse(kept(), "x").error().message().starts_with("x: line 1: "));
  test::put(config, "[]");
  test::check_clear(kept(), "tokenizer_config.json");
  for (const char* wrong : {"", "{", "[]", R"({"chat_template": 3})", R"({"chat_template": "x", "eos_token": 4})"}) {
    const auto bad = ChatFolder::parse(wrong, "x");
    REQUIRE_MESSAGE(!bad, wrong);
    test::check_clear(bad.error().message(), "x");
  }
  CHECK_FALSE(ChatFolder::eos_token_of(R"({"eos_token": 4})", "x"));
}

TEST_CASE("generation config: defaults of sampling where sampling is asked for, end tokens in any case") {
  const test::TempFolder folder;
  const std::string path = folder / "generation_config.json";
  const auto read = [&](const char* text) {
    test::put(path, text);
    return GenerationConfig::load(folder.path(), 100);
  };
  auto none = GenerationConfig::load(folder.path(), 100);
  REQUIRE(none);
  CHECK((none->ends.empty() && !none->temperature && !none->top_k && !none->top_p && !none->repetition_penalty));
  auto g = read(R"({"eos_token_id": 5, "temperature": 0.5, "top_k": 20})");
  REQUIRE(g);
  CHECK(g->ends == std::vector<std::int32_t>{5});
  CHECK((!g->temperature && !g->top_k));
  g = read(R"({"eos_token_id": [5, 99], "do_sample": true, "temperature": 0.5, "top_k": 20, )"
           R"("top_p": 0.75, "min_p": 0.25, "repetition_penalty": 1.25})");
  REQUIRE(g);
  CHECK(g->ends == std::vector<std::int32_t>{5, 99});
  CHECK(*g->temperature == 0.5f);
  CHECK(*g->top_k == 20);
  CHECK(*g->top_p == 0.75f);
  CHECK(*g->min_p == 0.25f);
  CHECK(*g->repetition_penalty == 1.25f);
  g = read(R"({"do_sample": true})");
  REQUIRE(g);
  CHECK(*g->temperature == 1);
  CHECK(!g->top_k);
  const auto empty = GenerationConfig::parse("", "x", 100);
  REQUIRE(empty);
  CHECK((empty->ends.empty() && !empty->temperature));
  const auto text = GenerationConfig::parse(R"({"eos_token_id": 5, "do_sample": true, "top_p": 0.75})", "x", 100);
  REQUIRE(text);
  CHECK(text->ends == std::vector<std::int32_t>{5});
  CHECK((*text->temperature == 1 && *text->top_p == 0.75f));
  CHECK(GenerationConfig::parse(R"({"eos_token_id": 100})", "x", 100).error().message().starts_with("x: 'eos_token_id'"));
  for (const char* wrong :
       {R"({"eos_token_id": 100})", R"({"eos_token_id": "x"})", R"({"eos_token_id": [-1]})", R"({"do_sample": 1})",
        R"({"do_sample": true, "temperature": -1})", R"({"do_sample": true, "top_k": 0.5})",
        R"({"do_sample": true, "top_p": 2})", R"({"do_sample": true, "repetition_penalty": 0})", "[]", "x"}) {
    const auto bad = read(wrong);
    REQUIRE_MESSAGE(!bad, wrong);
    test::check_clear(bad.error().message(), "generation_config.json");
  }
}
