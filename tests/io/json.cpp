// JSON with limits, typed access, config.json.
#include "io/fuzz.hpp"

#include <klens/io/config.hpp>
#include <klens/io/json.hpp>

using namespace klens;

static std::string fault(std::string_view text, const JsonLimits& limits = {}) {
  const auto j = parse_json(text, "f.json", limits);
  return j ? "" : j.error().message();
}

TEST_CASE("json: parses what is JSON, names the byte where it is not") {
  const auto j =
      parse_json(R"({"a": [1, -2, 3.5, "x\u00e9", true, null, {"b": {}}], "c": 18446744073709551615})", "f.json");
  REQUIRE(j);
  CHECK((*j)["a"][3] == "x\xc3\xa9");
  CHECK(j->dump() == R"({"a":[1,-2,3.5,"xé",true,null,{"b":{}}],"c":18446744073709551615})");
  for (const char* bad :
       {"", "{", "[1,", "{\"a\" 1}", "nul", "[1] x", "\"\xff\"", "{'a': 1}", "[01]", "\x00", "[1}", "{\"a\":1e999}"}) {
    const std::string message = fault(bad);
    CHECK_MESSAGE(message.starts_with("f.json: byte "), message);
    test::check_clear(message, "f.json");
  }
  CHECK(fault(R"({"a":1,"b":{"a":2,"a":3}})") == "f.json: expected every key once, found key 'a' twice");
}

TEST_CASE("json: depth, size and number of values are bounded") {
  CHECK(fault(std::string(64, '[') + std::string(64, ']')) == "");
  CHECK(fault(std::string(65, '[') + std::string(65, ']')) ==
        "f.json: expected at most 64 nested JSON levels, found more");
  CHECK(fault(std::string(1'000'000, '[')).find("nested") != std::string::npos);
  CHECK(fault("[1,2,3]", {.bytes = 6}) == "f.json: expected at most 6 bytes of JSON, found 7");
  CHECK(fault("[1,2,3]", {.values = 4}) == "");
  CHECK(fault("[1,2,3]", {.values = 3}) == "f.json: expected at most 3 JSON values, found more");
}

TEST_CASE("json: typed access says file, key, expected, found") {
  const Json j = *parse_json(
      R"({"n": 5, "x": 0.25, "s": "abc", "b": true, "z": null, "list": [1, 2, "3"], "big": 18446744073709551615})",
      "f");
  CHECK(*json_int(j, "n", "f") == 5);
  CHECK(json_int(j, "n", "f", 6, 9).error().message() == "f: 'n': expected an integer in 6..9, found 5");
  CHECK(json_int(j, "big", "f").error().message() == "f: 'big': expected an integer, found 18446744073709551615");
  CHECK(json_int(j, "x", "f").error().message() == "f: 'x': expected an integer, found 0.25");
  CHECK(json_int(j, "none", "f", 1).error().message() == "f: 'none': expected an integer >= 1, found nothing");
  CHECK(json_int(j, "none", "f").error().code == ErrorCode::missing);
  CHECK(*json_int_or(j, "z", "f", 7, 0, 9) == 7);
  CHECK_FALSE(json_int_or(j, "s", "f", 7, 0, 9));
  CHECK(*json_number(j, "n", "f") == 5.0);
  CHECK(json_number(j, "x", "f", 1, 2).error().message() == "f: 'x': expected a number in 1.0..2.0, found 0.25");
  CHECK(*json_string(j, "s", "f") == "abc");
  CHECK(json_string(j, "b", "f").error().message() == "f: 'b': expected a string, found true");
  CHECK(*json_bool(j, "b", "f"));
  CHECK(json_ints(j, "list", "f", 0, 9).error().message() ==
        "f: 'list'[2]: 'value': expected an integer in 0..9, found a string '3'");
  CHECK_FALSE(json_ints(j, "list", "f", 0, 9, 2));
  CHECK_FALSE(json_array(j, "s", "f"));
  CHECK_FALSE(json_object(j, "list", "f"));
  CHECK_FALSE(json_int(Json("text"), "n", "f"));
}

TEST_CASE("json: a text in a message is cut between characters") {
  const std::string long_text = std::string(59, 'a') + "\xe4\xb8\xad\xe4\xb8\xad";
  CHECK(detail::clip(long_text, 60) == std::string(59, 'a') + "...");
  CHECK(detail::clip("short", 60) == "short");
}

TEST_CASE("config: hymba-tiny") {
  const auto c = read_config(std::string(KLENS_EXAMPLES) + "/models/hymba-tiny");
  REQUIRE(c);
  CHECK(c->model_type == "hymba");
  CHECK(c->hidden_size == 192);
  CHECK(c->layers == 8);
  CHECK(c->vocab_size == 4096);
  CHECK(c->tied_head);
  CHECK(*c->integer("num_memory_tokens", 0, 100) == 16);
  CHECK(*c->number("rope_theta", 1, 1e9) == 10000.0);
  CHECK(*c->integers("global_attn_idx", 0, 7) == std::vector<std::int64_t>{0, 4, 7});
  CHECK(*c->integer_lists_or_none("kv_reuse_group", 0, 7) == std::vector<std::vector<std::int64_t>>{{1, 2}, {5, 6}});
  CHECK(c->integer_lists_or_none("none", 0, 7)->empty());
  CHECK_FALSE(c->integer_lists_or_none("kv_reuse_group", 0, 5));
  CHECK(parse_config(c->text, "again")->json == c->json);
}

TEST_CASE("config: hostile and unknown values are named") {
  const auto message = [](std::string_view text) {
    const auto c = parse_config(text, "config.json");
    return c ? std::string() : c.error().message();
  };
  CHECK(message("[]") == "config.json: expected a JSON object, found an array of 0");
  CHECK(message("{}") == "config.json: 'model_type': expected a string, found nothing");
  CHECK(message(R"({"model_type": "rwkv"})") ==
        "config.json: 'model_type': expected one of: hymba, mamba, falcon_mamba, mamba2, lfm2, falcon_h1, bamba, nemotron_h, jamba, granitemoehybrid, zamba, zamba2, mamba3, found a string 'rwkv'");
  const std::string head = R"({"model_type": "hymba", "num_hidden_layers": 8, "vocab_size": 9, "hidden_size": )";
  CHECK(message(head + "64}") == "");
  CHECK(message(head + "64, \"limit\": [0.0, Infinity, -Infinity, NaN], \"s\": \"Infinity \\\" NaN\"}") == "");
  CHECK(message(head + "1e9}") == "config.json: 'hidden_size': expected an integer in 1..262144, found 1000000000.0");
  CHECK(message(head + "4611686018427387904}") ==
        "config.json: 'hidden_size': expected an integer in 1..262144, found 4611686018427387904");
  CHECK(message(head + "Infinity}") ==
        "config.json: 'hidden_size': expected an integer in 1..262144, found a string 'Infinity'");
  CHECK(read_config("/no/such/folder").error().message() ==
        "/no/such/folder/config.json: cannot open: No such file or directory");
}

TEST_CASE("config: damaged files end in one clear error") {
  const std::string text = test::get(std::string(KLENS_EXAMPLES) + "/models/hymba-tiny/config.json");
  test::Mutator mutate(11);
  int refused = 0;
  const int count = test::fuzz_count(500);
  test::reset_largest_allocation();
  for (int i = 0; i < count; ++i) {
    const auto c = parse_config(mutate(text, 200), "config.json");
    if (c) continue;
    ++refused;
    test::check_clear(c.error().message(), "config.json");
  }
  CHECK(refused > count / 4);
  CHECK(test::largest_allocation() < (1 << 20));
}
