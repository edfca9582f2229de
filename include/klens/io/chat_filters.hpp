// More than 400 lines, as every filter, test and method stands here, to be compared with the list of another engine.
// Filters, tests and methods of the templates of io/chat_template.hpp: Jinja's filters and tests, and the methods of
// Python's str, dict and list that change nothing. A name that is not here is an error that names it.
#pragma once

#include <klens/io/chat_value.hpp>

#include <array>

namespace klens::detail::chat {

/// Arguments of a call, evaluated.
struct Arguments {
  std::vector<Value> values;
  std::vector<std::string> names;  // "" for positional ones, which come first

  /// The arguments by parameter, nullptr where there is none. Too many, unknown ones, and missing ones are errors.
  template <std::size_t N>
  std::array<const Value*, N> bind(Run& run, const std::string& what, const std::array<const char*, N>& parameters,
                                   std::size_t required) const {
    std::array<const Value*, N> bound{};
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::size_t at = i;
      if (!names[i].empty())
        at = std::size_t(std::find(parameters.begin(), parameters.end(), names[i]) - parameters.begin());
      if (at >= N || bound[at] != nullptr) {
        run.fail(ErrorCode::unsupported, "arguments of " + what, names[i].empty() ? "too many" : "'" + names[i] + "'");
        return {};
      }
      bound[at] = &values[i];
    }
    for (std::size_t i = 0; i < required; ++i)
      if (bound[i] == nullptr) run.fail(ErrorCode::format, what + " with '" + parameters[i] + "'", "none");
    return bound;
  }
  void none(Run& run, const std::string& what) const {
    if (!values.empty()) run.fail(ErrorCode::unsupported, what + " without arguments", std::to_string(values.size()));
  }
};

inline constexpr std::string_view str_methods[] = {
    "capitalize",   "casefold",   "center",    "count",       "encode",    "endswith",     "expandtabs",   "find",
    "format",       "format_map", "index",     "isalnum",     "isalpha",   "isascii",      "isdecimal",    "isdigit",
    "isidentifier", "islower",    "isnumeric", "isprintable", "isspace",   "istitle",      "isupper",      "join",
    "ljust",        "lower",      "lstrip",    "maketrans",   "partition", "removeprefix", "removesuffix", "replace",
    "rfind",        "rindex",     "rjust",     "rpartition",  "rsplit",    "rstrip",       "split",        "splitlines",
    "startswith",   "strip",      "swapcase",  "title",       "translate", "upper",        "zfill"};
inline constexpr std::string_view dict_methods[] = {"clear", "copy",    "fromkeys",   "get",    "items", "keys",
                                                    "pop",   "popitem", "setdefault", "update", "values"};
inline constexpr std::string_view list_methods[] = {"append", "clear", "copy",   "count",   "extend", "index",
                                                    "insert", "pop",   "remove", "reverse", "sort"};
inline constexpr std::string_view number_members[] = {
    "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator", "from_bytes", "fromhex", "hex", "imag",
    "is_integer",       "numerator", "real",       "to_bytes"};

inline bool has_member(const Value& v, std::string_view name) {
  const auto in = [name](const auto& list) {
    return std::find(std::begin(list), std::end(list), name) != std::end(list);
  };
  return v.is(Kind::string)     ? in(str_methods)
         : v.is(Kind::dict)     ? in(dict_methods)
         : v.is(Kind::sequence) ? in(list_methods)
                                : v.is_number() && in(number_members);
}

/// value[key]: nothing there is undefined, as Jinja has it.
inline Value item_of(Run& run, const Value& v, const Value& key) {
  const std::string name = key.is(Kind::string) ? key.text() : std::string();
  switch (v.kind()) {
    case Kind::undefined: return run.fail("a value with items", v);
    case Kind::string:
      if (key.is_integer()) {
        if (!run.pay(v.text().size())) return {};
        const std::int64_t n = count_chars(v.text()), i = key.integer() < 0 ? key.integer() + n : key.integer();
        if (i < 0 || i >= n) return Value::undefined("item " + std::to_string(key.integer()));
        const std::size_t at = byte_of_char(v.text(), i);
        return run.text(v.text().substr(at, next_char(std::string_view(v.text()).substr(at)).length));
      }
      break;
    case Kind::sequence:
      if (key.is_integer() && v.sequence().flavour <= Flavour::range) {
        const auto& items = v.sequence().items;
        const std::int64_t n = std::int64_t(items.size()), i = key.integer() < 0 ? key.integer() + n : key.integer();
        return i < 0 || i >= n ? Value::undefined("item " + std::to_string(key.integer())) : items[std::size_t(i)];
      }
      break;
    case Kind::dict:
      if (key.is(Kind::string))
        if (const Value* found = run.find(v.dict().items, name)) return *found;
      break;
    case Kind::space:
      if (key.is(Kind::string))
        if (const Value* found = run.find(v.object<Space>().items, name)) return *found;
      break;
    default: break;
  }
  if (!name.empty() && has_member(v, name)) return Value::of(Kind::method, std::make_shared<Method>(Method{v, name}));
  return Value::undefined(name);
}

inline Value loop_member(Run& run, const Loop& loop, const std::string& name) {
  const std::int64_t n = std::int64_t(loop.items->size()), i = loop.index;
  if (name == "index") return Value::of(i + 1);
  if (name == "index0") return Value::of(i);
  if (name == "revindex") return Value::of(n - i);
  if (name == "revindex0") return Value::of(n - i - 1);
  if (name == "first") return Value::of(i == 0);
  if (name == "last") return Value::of(i == n - 1);
  if (name == "length") return Value::of(n);
  if (name == "depth" || name == "depth0")
    return Value::of(std::int64_t(name == "depth"));  // counts recursive loops only
  if (name == "previtem")
    return i == 0 ? Value::undefined("there is no previous item") : (*loop.items)[std::size_t(i - 1)];
  if (name == "nextitem")
    return i == n - 1 ? Value::undefined("there is no next item") : (*loop.items)[std::size_t(i + 1)];
  return run.outside("loop." + name);
}

/// value.name: a method first, then an item of that name.
inline Value attribute_of(Run& run, const Value& v, const std::string& name) {
  if (name.starts_with("__")) return run.outside("the attribute '" + name + "'");
  if (v.is(Kind::undefined)) return run.fail("a value with attributes ('" + name + "')", v);
  if (v.is(Kind::loop) && name == "cycle") return Value::of(Kind::method, std::make_shared<Method>(Method{v, name}));
  if (v.is(Kind::loop)) return loop_member(run, v.object<Loop>(), name);
  if (v.kind() >= Kind::method && !v.is(Kind::loop)) return run.outside("an attribute of a function");
  if (has_member(v, name)) return Value::of(Kind::method, std::make_shared<Method>(Method{v, name}));
  if (!v.is(Kind::dict) && !v.is(Kind::space)) return Value::undefined(name);
  const Value* found = run.find(v.is(Kind::dict) ? v.dict().items : v.object<Space>().items, name);
  return found ? *found : Value::undefined(name);
}

/// "a.b.0" of selectattr and map: items, one after the other.
inline Value path_of(Run& run, Value v, const std::string& path) {
  for (std::size_t at = 0; at <= path.size() && !run.failed();) {
    const std::size_t dot = std::min(path.find('.', at), path.size());
    const std::string part = path.substr(at, dot - at);
    const bool digits = !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == part.npos;
    v = item_of(run, v, digits ? Value::of(std::int64_t(std::stoll(part))) : run.text(part));
    at = dot + 1;
  }
  return v;
}

inline Value changed_case(Run& run, std::string_view text, Case how) {
  if (!run.pay(text.size())) return {};
  auto out = change_case(text, how);
  return out ? run.text(*std::move(out)) : run.outside("upper and lower case of a character with special rules");
}

inline std::int64_t limit_of(Run& run, const Value* v) {  // a count; -1: all
  if (v != nullptr && !v->is_integer()) run.fail("an integer", *v);
  return v == nullptr ? -1 : v->integer();
}
inline const std::string& text_of(Run& run, const Value* v) {
  static const std::string nothing;
  if (v == nullptr) return nothing;
  if (!v->is(Kind::string)) run.fail("a string", *v);
  return v->is(Kind::string) ? v->text() : nothing;
}

/// str.replace(); an empty `from` matches before every character and at the end.
inline Value replaced(Run& run, const std::string& text, const std::string& from, const std::string& to,
                      std::int64_t limit) {
  if (!run.pay(text.size() + from.size())) return {};
  const Finder finder(from);
  std::string out;
  std::size_t at = 0;
  for (; limit != 0 && !run.failed(); limit -= limit > 0) {
    const std::size_t found = finder.find(text, at);
    if (found == text.npos) break;
    out.append(text, at, found - at), out += to;
    at = found + from.size();
    if (!run.pay(to.size() + 1)) return {};
    if (!from.empty()) continue;
    if (at == text.size()) break;
    const std::size_t n = next_char(std::string_view(text).substr(at)).length;
    out.append(text, at, n), at += n;
  }
  return run.text(out + text.substr(std::min(at, text.size())));
}

inline Value split(Run& run, const std::string& text, const Value* by, std::int64_t limit) {
  std::vector<Value> parts;
  std::string_view rest = text;
  if (by == nullptr || by->is(Kind::none)) {
    if (!run.pay(text.size())) return {};
    for (rest = strip(rest, true, false); !rest.empty() && limit != 0 && run.step(); limit -= limit > 0) {
      std::size_t n = 0;
      while (n < rest.size() && !is_space(next_char(rest.substr(n)).code)) n += next_char(rest.substr(n)).length;
      parts.push_back(run.text(std::string(rest.substr(0, n))));
      rest = strip(rest.substr(n), true, false);
    }
    if (!rest.empty()) parts.push_back(run.text(std::string(rest)));
    return run.list(std::move(parts));
  }
  const std::string& mark = text_of(run, by);
  if (run.failed() || !run.pay(text.size() + mark.size())) return {};
  if (mark.empty()) return run.fail(ErrorCode::format, "a separator", "an empty string");
  const Finder finder(mark);
  std::size_t at = 0;
  for (std::size_t found; limit != 0 && run.step() && (found = finder.find(text, at)) != text.npos;
       limit -= limit > 0) {
    parts.push_back(run.text(text.substr(at, found - at)));
    at = found + mark.size();
  }
  parts.push_back(run.text(text.substr(at)));
  return run.failed() ? Value() : run.list(std::move(parts));
}

inline Value joined(Run& run, const std::vector<Value>& items, const std::string& mark, bool strings_only) {
  std::string out;
  for (std::size_t i = 0; i < items.size() && !run.failed(); ++i) {
    if (strings_only && !items[i].is(Kind::string)) return run.fail("strings to join", items[i]);
    if (i && run.pay(mark.size())) out += mark;
    out += str(run, items[i]);
  }
  return run.text(std::move(out));
}

inline bool contains(Run& run, const Value& in, const Value& what) {
  if (in.is(Kind::string)) {
    const std::string& needle = text_of(run, &what);
    return run.pay(in.text().size() + needle.size()) && Finder(needle).find(in.text()) != std::string::npos;
  }
  if (in.is(Kind::dict)) return what.is(Kind::string) && run.find(in.dict().items, what.text()) != nullptr;
  std::vector<Value> items;
  if (!iterate(run, in, items)) return false;
  for (const Value& item : items)
    if (equal(run, item, what)) return !run.failed();
  return false;
}

inline Value call_str(Run& run, const std::string& s, const std::string& name, const Arguments& given) {
  const std::string what = "str." + name;
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const auto [set] = given.bind<1>(run, what, {"chars"}, 0);
    const bool all = set == nullptr || set->is(Kind::none);
    const std::string& chars = text_of(run, all ? nullptr : set);
    if (!run.pay(s.size() * (1 + chars.size() / 8))) return {};
    return run.text(std::string(strip(s, name != "rstrip", name != "lstrip", all ? nullptr : &chars)));
  }
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    given.none(run, what);
    return changed_case(run, s,
                        name == "upper"   ? Case::upper
                        : name == "lower" ? Case::lower
                        : name == "title" ? Case::title
                                          : Case::capital);
  }
  if (name == "startswith" || name == "endswith") {
    const auto [part] = given.bind<1>(run, what, {""}, 1);
    if (part == nullptr) return {};
    std::vector<Value> parts = {*part};
    if (part->is(Kind::sequence) && part->sequence().flavour == Flavour::tuple) parts = part->sequence().items;
    bool is = false;
    for (const Value& p : parts) {
      const std::string& text = text_of(run, &p);
      if (!run.pay(text.size())) return {};
      is = is || (name == "startswith" ? s.starts_with(text) : s.ends_with(text));
    }
    return Value::of(is);
  }
  if (name == "split") {
    const auto [by, limit] = given.bind<2>(run, what, {"sep", "maxsplit"}, 0);
    return split(run, s, by, limit_of(run, limit));
  }
  if (name == "replace") {
    const auto [from, to, limit] = given.bind<3>(run, what, {"", "", "count"}, 2);
    return replaced(run, s, text_of(run, from), text_of(run, to), limit_of(run, limit));
  }
  if (name == "join") {
    const auto [list] = given.bind<1>(run, what, {""}, 1);
    std::vector<Value> items;
    if (list == nullptr || !iterate(run, *list, items)) return {};
    return joined(run, items, s, true);
  }
  if (name == "find" || name == "count") {
    const auto [part] = given.bind<1>(run, what, {""}, 1);
    const std::string& needle = text_of(run, part);
    if (!run.pay(s.size() + needle.size())) return {};
    const Finder finder(needle);
    if (name == "find") {
      const std::size_t at = finder.find(s);
      return Value::of(at == s.npos ? std::int64_t(-1) : count_chars(std::string_view(s).substr(0, at)));
    }
    if (needle.empty()) return Value::of(count_chars(s) + 1);
    std::int64_t n = 0;
    for (std::size_t at = 0; (at = finder.find(s, at)) != s.npos; at += needle.size()) ++n;
    return Value::of(n);
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const auto [part] = given.bind<1>(run, what, {""}, 1);
    const std::string& text = text_of(run, part);
    if (name == "removeprefix") return run.text(s.starts_with(text) ? s.substr(text.size()) : s);
    return run.text(s.ends_with(text) ? s.substr(0, s.size() - text.size()) : s);
  }
  return run.outside("the method " + what + "()");
}

inline Value pairs_of(Run& run, const Items& items, Flavour flavour) {
  std::vector<Value> pairs;
  for (const auto& [key, value] : items) pairs.push_back(run.list({run.text(key), value}, Flavour::tuple));
  return run.failed() ? Value() : run.list(std::move(pairs), flavour);
}

inline Value call_method(Run& run, const Method& m, const Arguments& given) {
  const Value& v = m.self;
  if (v.is(Kind::string)) return call_str(run, v.text(), m.name, given);
  if (v.is(Kind::loop)) {  // cycle
    if (given.values.empty())
      return run.fail(ErrorCode::format, "loop.cycle with something to cycle through", "nothing");
    return given.values[std::size_t(v.object<Loop>().index) % given.values.size()];
  }
  if (v.is(Kind::dict)) {
    const std::string what = "dict." + m.name;
    const Items& items = v.dict().items;
    if (m.name == "get") {
      const auto [key, otherwise] = given.bind<2>(run, what, {"", ""}, 1);
      if (key == nullptr) return {};
      const Value* found = key->is(Kind::string) ? run.find(items, key->text()) : nullptr;
      return found ? *found : otherwise ? *otherwise : Value::none();
    }
    if (m.name == "items" || m.name == "keys" || m.name == "values" || m.name == "copy") given.none(run, what);
    if (m.name == "copy") return v;
    if (m.name == "items") return pairs_of(run, items, Flavour::view);
    std::vector<Value> out;
    if (m.name == "keys" || m.name == "values") {
      for (const auto& [key, value] : items) out.push_back(m.name == "keys" ? run.text(key) : value);
      return run.list(std::move(out), Flavour::view);
    }
    return run.outside("the method " + what + "()");
  }
  if (v.is(Kind::sequence) && v.sequence().flavour <= Flavour::tuple && (m.name == "index" || m.name == "count")) {
    const auto [what] = given.bind<1>(run, "list." + m.name, {""}, 1);
    if (what == nullptr) return {};
    std::int64_t count = 0, at = 0;
    for (const Value& item : v.sequence().items) {
      if (equal(run, item, *what)) {
        if (m.name == "index") return Value::of(at);
        ++count;
      }
      ++at;
    }
    return m.name == "count" ? Value::of(count) : run.fail(ErrorCode::format, "a list with the item", "none");
  }
  return run.outside("the method " + m.name + "() of " + type_name(v));
}

inline bool test(Run& run, const std::string& name, const Value& v, const Arguments& given) {
  const auto other = [&]() -> const Value& {
    static const Value nothing{};
    const auto [b] = given.bind<1>(run, "the test '" + name + "'", {""}, 1);
    return b ? *b : nothing;
  };
  if (name == "eq" || name == "equalto" || name == "==") return equal(run, v, other());
  if (name == "ne" || name == "!=") return !equal(run, v, other());
  if (name == "lt" || name == "lessthan" || name == "<") return order(run, v, other()) < 0;
  if (name == "le" || name == "<=") return order(run, v, other()) <= 0;
  if (name == "gt" || name == "greaterthan" || name == ">") return order(run, v, other()) > 0;
  if (name == "ge" || name == ">=") return order(run, v, other()) >= 0;
  if (name == "in") return contains(run, other(), v);
  if (name == "divisibleby" || name == "odd" || name == "even") {
    const Value by = name == "divisibleby" ? other() : Value::of(std::int64_t(2));
    if (!v.is_integer() || !by.is_integer() || by.integer() == 0)
      return run.fail("integers to divide", v.is_integer() ? by : v), false;
    const bool whole = by.integer() == -1 || v.integer() % by.integer() == 0;
    return whole != (name == "odd");
  }
  given.none(run, "the test '" + name + "'");
  if (name == "defined") return !v.is(Kind::undefined);
  if (name == "undefined") return v.is(Kind::undefined);
  if (name == "none") return v.is(Kind::none);
  if (name == "string") return v.is(Kind::string);
  if (name == "mapping") return v.is(Kind::dict);
  if (name == "number") return v.is_number();
  if (name == "integer") return v.is(Kind::integer);
  if (name == "float") return v.is(Kind::number);
  if (name == "boolean") return v.is(Kind::boolean);
  if (name == "true" || name == "false") return v.is(Kind::boolean) && (v.integer() != 0) == (name == "true");
  if (name == "callable") return v.is(Kind::method) || v.is(Kind::macro) || v.is(Kind::global);
  const bool container = v.is(Kind::undefined) || v.is(Kind::string) || v.is(Kind::dict);
  if (name == "iterable") return container || v.is(Kind::sequence) || v.is(Kind::loop);
  if (name == "sequence") return container || (v.is(Kind::sequence) && v.sequence().flavour <= Flavour::range);
  return run.outside("the test '" + name + "'"), false;
}

inline Value to_json(Run& run, const Value& v, const Arguments& given) {
  const auto [indent, ascii, separators, sorted] =
      given.bind<4>(run, "the filter 'tojson'", {"indent", "ensure_ascii", "separators", "sort_keys"}, 0);
  JsonStyle style;
  if (indent != nullptr && !indent->is(Kind::none)) {
    if (indent->is(Kind::string))
      style.indent = indent->text();
    else if (const std::int64_t n = limit_of(run, indent); n > 1000)
      run.outside("an indent above 1000");
    else
      style.indent = std::string(std::size_t(std::max<std::int64_t>(n, 0)), ' ');
    style.lines = true, style.item = ",";
  }
  if (ascii != nullptr) style.ascii = truth(*ascii);
  if (sorted != nullptr) style.sorted = truth(*sorted);
  if (separators != nullptr && !separators->is(Kind::none)) {
    std::vector<Value> two;
    if (!iterate(run, *separators, two)) return {};
    if (two.size() != 2) return run.fail(ErrorCode::format, "two separators", std::to_string(two.size()));
    style.item = text_of(run, &two[0]), style.key = text_of(run, &two[1]);
    if (style.item.size() + style.key.size() > 64) return run.outside("separators of more than 64 bytes");
  }
  std::string out;
  dump_json(run, v, style, 0, out);
  return run.text(std::move(out));
}

inline Value apply_filter(Run& run, const std::string& name, const Value& v, const Arguments& given);

/// select, reject, selectattr, rejectattr: the items that pass a test, or do not.
inline Value selected(Run& run, const std::string& name, const Value& v, const Arguments& given) {
  const bool by_attribute = name.ends_with("attr"), keep = name.starts_with("select");
  Arguments rest = given;
  for (const std::string& n : given.names)
    if (!n.empty()) return run.outside("named arguments of the filter '" + name + "'");
  const auto take = [&rest, &run] {
    const std::string text = text_of(run, rest.values.data());
    rest.values.erase(rest.values.begin()), rest.names.erase(rest.names.begin());
    return text;
  };
  if (by_attribute && rest.values.empty())
    return run.fail(ErrorCode::format, "an attribute for the filter '" + name + "'", "none");
  const std::string attribute = by_attribute ? take() : "";
  const bool plain = rest.values.empty();
  const std::string how = plain ? "" : take();
  std::vector<Value> items, out;
  if (run.failed() || !iterate(run, v, items)) return {};
  for (const Value& item : items) {
    if (!run.step()) return {};
    const Value looked = by_attribute ? path_of(run, item, attribute) : item;
    if ((plain ? truth(looked) : test(run, how, looked, rest)) == keep) out.push_back(item);
  }
  return run.failed() ? Value() : run.list(std::move(out), Flavour::generator);
}

inline Value mapped(Run& run, const Value& v, const Arguments& given) {
  std::vector<Value> items, out;
  Arguments rest = given;
  const bool by_attribute = !given.names.empty() && !given.names[0].empty();
  std::string filter;
  const Value *attribute = nullptr, *otherwise = nullptr;
  if (by_attribute) {
    const auto bound = given.bind<2>(run, "the filter 'map'", {"attribute", "default"}, 1);
    attribute = bound[0], otherwise = bound[1];
  } else if (given.values.empty()) {
    return run.fail(ErrorCode::format, "a filter or an attribute to map with", "none");
  } else {
    filter = text_of(run, rest.values.data());
    rest.values.erase(rest.values.begin()), rest.names.erase(rest.names.begin());
  }
  const bool index = attribute != nullptr && attribute->is(Kind::integer);
  const std::string path = by_attribute && !index ? text_of(run, attribute) : "";
  if (run.failed() || !iterate(run, v, items)) return {};
  for (const Value& item : items) {
    if (!run.step()) return {};
    Value to = index          ? item_of(run, item, *attribute)
               : by_attribute ? path_of(run, item, path)
                              : apply_filter(run, filter, item, rest);
    if (by_attribute && otherwise != nullptr && to.is(Kind::undefined)) to = *otherwise;
    out.push_back(std::move(to));
  }
  return run.failed() ? Value() : run.list(std::move(out), Flavour::generator);
}

/// int(x), of text too: white space around, a sign, digits; else what float() reads of it, cut; else the default.
inline Value to_integer(Run& run, const Value& v, const Value& otherwise) {
  if (v.is_integer()) return Value::of(v.integer());
  double x = v.number();
  if (v.is(Kind::string)) {
    std::string_view text = strip(v.text(), true, true);
    if (text.starts_with('+') && text.size() > 1 && text[1] != '-') text.remove_prefix(1);
    if (text.find('_') != text.npos) return run.outside("a number with '_' in a text");
    std::int64_t i = 0;
    const auto read = std::from_chars(text.data(), text.data() + text.size(), i);
    if (read.ec == std::errc() && read.ptr == text.data() + text.size()) return Value::of(i);
    if (read.ec == std::errc::result_out_of_range) return run.outside("an integer of more than 64 bits");
    const auto real = std::from_chars(text.data(), text.data() + text.size(), x);
    if (real.ec != std::errc() || real.ptr != text.data() + text.size()) return otherwise;
  } else if (v.is(Kind::undefined)) {
    return run.fail("a number", v);
  } else if (!v.is(Kind::number)) {
    return otherwise;
  }
  if (!(std::fabs(x) < 9e18)) return run.outside("an integer of more than 64 bits");
  return Value::of(std::int64_t(x));
}

inline Value apply_filter(Run& run, const std::string& name, const Value& v, const Arguments& given) {
  const std::string what = "the filter '" + name + "'";
  if (name == "tojson") return to_json(run, v, given);
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr")
    return selected(run, name, v, given);
  if (name == "map") return mapped(run, v, given);
  if (name == "default" || name == "d") {
    const auto [otherwise, any] = given.bind<2>(run, what, {"default_value", "boolean"}, 0);
    const bool use = v.is(Kind::undefined) || (any != nullptr && truth(*any) && !truth(v));
    return !use ? v : otherwise ? *otherwise : run.text("");
  }
  if (name == "trim") {
    const auto [chars] = given.bind<1>(run, what, {"chars"}, 0);
    Arguments one;
    if (chars != nullptr) one = {{*chars}, {""}};
    return call_str(run, str(run, v), "strip", one);
  }
  if (name == "replace") {
    const auto [from, to, limit] = given.bind<3>(run, what, {"old", "new", "count"}, 2);
    if (run.failed()) return {};
    const bool all = limit == nullptr || limit->is(Kind::none);
    return replaced(run, str(run, v), str(run, *from), str(run, *to), all ? -1 : limit_of(run, limit));
  }
  if (name == "join") {
    const auto [mark, attribute] = given.bind<2>(run, what, {"d", "attribute"}, 0);
    std::vector<Value> items;
    if (run.failed() || !iterate(run, v, items)) return {};
    if (attribute != nullptr)
      for (Value& item : items) item = path_of(run, item, text_of(run, attribute));
    return joined(run, items, mark ? str(run, *mark) : "", false);
  }
  if (name == "int") {
    const auto [otherwise] = given.bind<1>(run, what, {"default"}, 0);
    return to_integer(run, v, otherwise ? *otherwise : Value::of(std::int64_t(0)));
  }
  given.none(run, what);
  if (name == "upper" || name == "lower" || name == "capitalize")
    return changed_case(run, str(run, v),
                        name == "upper"   ? Case::upper
                        : name == "lower" ? Case::lower
                                          : Case::capital);
  if (name == "string") return v.is(Kind::string) ? v : run.text(str(run, v));
  if (name == "length" || name == "count") {
    switch (v.kind()) {
      case Kind::undefined: return Value::of(std::int64_t(0));
      case Kind::string: return run.pay(v.text().size()) ? Value::of(count_chars(v.text())) : Value();
      case Kind::dict: return Value::of(std::int64_t(v.dict().items.size()));
      case Kind::sequence:
        if (v.sequence().flavour != Flavour::generator) return Value::of(std::int64_t(v.sequence().items.size()));
        [[fallthrough]];
      default: return run.fail("a value with a length", v);
    }
  }
  if (name == "first" || name == "last" || name == "list" || name == "reverse") {
    if (name == "last" && v.is(Kind::sequence) && v.sequence().flavour == Flavour::generator)
      return run.fail("a sequence", v);
    std::vector<Value> items;
    if (name == "first" && v.is(Kind::sequence) && v.sequence().taken < v.sequence().items.size()) {
      const Sequence& s = v.sequence();
      return s.items[s.flavour == Flavour::generator ? s.taken++ : 0];
    }
    if (!iterate(run, v, items)) return {};
    if (name == "list") return run.list(std::move(items));
    if (name == "reverse") {
      std::reverse(items.begin(), items.end());
      return v.is(Kind::string) ? joined(run, items, "", false) : run.list(std::move(items), Flavour::generator);
    }
    if (items.empty()) return Value::undefined("the " + name + " item of an empty sequence");
    return name == "first" ? items.front() : items.back();
  }
  if (name == "items") {
    if (v.is(Kind::undefined)) return run.list({}, Flavour::generator);
    return v.is(Kind::dict) ? pairs_of(run, v.dict().items, Flavour::generator) : run.fail("a mapping", v);
  }
  if (name == "abs") {
    if (v.is_integer() && v.integer() != std::numeric_limits<std::int64_t>::min())
      return Value::of(std::abs(v.integer()));
    return v.is(Kind::number) ? Value::of(std::fabs(v.number())) : run.fail("a number", v);
  }
  if (name == "float")
    return v.is_number() ? Value::of(v.number()) : run.outside("the filter 'float' of " + type_name(v));
  return run.outside(what);
}

}  // namespace klens::detail::chat
