// More than 400 lines: one type, and what Python does with any value (text, JSON, order, iteration).
// Values of the templates of io/chat_template.hpp: what Python's None, bool, int, float, str, list, tuple, dict and
// Jinja's undefined and namespace are to a template, and what rendering may cost.
//
// Texts and containers are shared and never change (templates run in Jinja's immutable sandbox), so that copying a
// value costs nothing; namespaces do change, and a Run keeps them all and empties them at its end, since they may hold
// each other. Nesting is counted where a container is made: no recursion over a value is deeper than max_depth.
#pragma once

#include <klens/core/result.hpp>
#include <klens/io/chat_text.hpp>
#include <klens/io/json.hpp>

#include <memory>
#include <utility>
#include <vector>

namespace klens {

/// What a template may cost before it ends with an error. Published ones take some thousand steps.
struct ChatLimits {
  std::size_t template_bytes = std::size_t(256) << 10;
  std::size_t steps = 2'000'000;              // expressions and statements evaluated
  std::size_t work = std::size_t(256) << 20;  // bytes of text and elements made or looked through
  std::size_t output_bytes = std::size_t(64) << 20;
};

namespace detail::chat {

using OrderedJson = nlohmann::ordered_json;

inline constexpr int max_depth = 100;      // of expressions, statements and values
inline constexpr int max_run_depth = 300;  // of evaluation, through macros

enum class Kind : std::uint8_t {
  undefined,
  none,
  boolean,
  integer,
  number,
  string,
  sequence,
  dict,
  space,
  method,
  macro,
  global,
  loop
};
enum class Flavour : std::uint8_t { list, tuple, range, view, generator };  // of a sequence

class Value;
struct Text;
struct Sequence;
struct Dict;
struct Node;

class Value {
 public:
  Value() {}
  static Value none() { return Value(Kind::none); }
  static Value of(bool b) {
    Value v(Kind::boolean);
    v.integer_ = b;
    return v;
  }
  static Value of(std::int64_t i) {
    Value v(Kind::integer);
    v.integer_ = i;
    return v;
  }
  static Value of(double x) {
    Value v(Kind::number);
    v.number_ = x;
    return v;
  }
  static Value of(std::string text);
  static Value of(const char*) = delete;
  template <class T>
  static Value of(Kind kind, std::shared_ptr<T> object) {
    Value v(kind);
    v.object_ = std::move(object);
    return v;
  }
  /// Nothing, under the name it was looked for.
  static Value undefined(std::string name);

  Kind kind() const { return kind_; }
  bool is(Kind k) const { return kind_ == k; }
  bool is_integer() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }  // Python's bool is an int
  bool is_number() const { return is_integer() || kind_ == Kind::number; }
  std::int64_t integer() const { return integer_; }
  double number() const { return kind_ == Kind::number ? number_ : double(integer_); }
  const std::string& text() const;  // of a string; of undefined: its name
  const Sequence& sequence() const;
  const Dict& dict() const;
  template <class T>
  T& object() const {
    return *static_cast<T*>(object_.get());
  }
  const void* address() const { return object_.get(); }
  int depth() const;

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  Kind kind_ = Kind::undefined;
  union {
    std::int64_t integer_ = 0;
    double number_;
  };
  std::shared_ptr<void> object_;
};

using Items = std::vector<std::pair<std::string, Value>>;

struct Text {
  std::string text;
};
struct Sequence {
  std::vector<Value> items;
  Flavour flavour = Flavour::list;
  int depth = 1;
  mutable std::size_t taken = 0;  // items that a generator has given: each comes once
};
struct Dict {
  Items items;
  int depth = 1;
};
struct Space {
  Items items;
};
/// A method of a value, or a function of the environment (self undefined).
struct Method {
  Value self;
  std::string name;
};
struct Macro {
  const Node* node;
};
struct Loop {
  std::shared_ptr<const std::vector<Value>> items;
  std::int64_t index = 0;
};

inline Value Value::of(std::string text) { return of(Kind::string, std::make_shared<Text>(Text{std::move(text)})); }
inline Value Value::undefined(std::string name) {
  return of(Kind::undefined, std::make_shared<Text>(Text{std::move(name)}));
}
inline const std::string& Value::text() const {
  static const std::string nothing;
  return object_ ? object<Text>().text : nothing;
}
inline const Sequence& Value::sequence() const { return object<Sequence>(); }
inline const Dict& Value::dict() const { return object<Dict>(); }
inline int Value::depth() const { return is(Kind::sequence) ? sequence().depth : is(Kind::dict) ? dict().depth : 0; }

/// Name of a type as messages say it.
inline std::string type_name(const Value& v) {
  switch (v.kind()) {
    case Kind::undefined:
      return v.text().empty() ? "an undefined value" : "'" + clip(v.text(), 60) + "', which is undefined";
    case Kind::none: return "none";
    case Kind::boolean: return "a boolean";
    case Kind::integer: return "an integer";
    case Kind::number: return "a float";
    case Kind::string: return "a string";
    case Kind::sequence:
      return v.sequence().flavour == Flavour::list    ? "a list"
             : v.sequence().flavour == Flavour::tuple ? "a tuple"
                                                      : "an iterator";
    case Kind::dict: return "a mapping";
    case Kind::space: return "a namespace";
    case Kind::loop: return "the loop";
    default: return "a function";
  }
}

/// The state of one parse or rendering that everything shares: the first error, and what is left to spend.
class Run {
 public:
  Run(std::string where, const ChatLimits& limits)
      : where_(std::move(where)), steps_(limits.steps), work_(limits.work) {}
  ~Run() {
    for (const auto& s : spaces_) s->items.clear();
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  int line = 1;
  bool failed() const { return failed_; }
  const Error& error() const { return error_; }

  /// The first fault stays; what follows it is never looked at.
  Value fail(ErrorCode code, std::string expected, std::string found) {
    if (!failed_) error_ = {code, where_ + ": line " + std::to_string(line), std::move(expected), clip(found, 400)};
    failed_ = true;
    return {};
  }
  Value fail(std::string expected, const Value& found) {
    return fail(ErrorCode::format, std::move(expected), type_name(found));
  }
  Value outside(std::string construct) {
    return fail(ErrorCode::unsupported, "the part of Jinja that klens renders", std::move(construct));
  }

  bool step() {
    if (steps_ == 0) fail(ErrorCode::overflow, "a template that ends", "more steps than are allowed");
    return !failed_ && steps_-- > 0;
  }
  bool pay(std::size_t bytes) {
    if (bytes > work_) fail(ErrorCode::overflow, "a template that ends", "more work than is allowed");
    if (!failed_) work_ -= bytes;
    return !failed_;
  }

  Value list(std::vector<Value> items, Flavour flavour = Flavour::list) {
    int depth = 0;
    for (const Value& v : items) depth = std::max(depth, v.depth());
    if (!pay(sizeof(Value) * items.size()) || !shallow(depth + 1)) return {};
    return Value::of(Kind::sequence, std::make_shared<Sequence>(Sequence{std::move(items), flavour, depth + 1}));
  }
  Value dict(Items items) {
    int depth = 0;
    for (const auto& [key, v] : items) depth = std::max(depth, v.depth());
    if (!pay(sizeof(Items::value_type) * items.size()) || !shallow(depth + 1)) return {};
    return Value::of(Kind::dict, std::make_shared<Dict>(Dict{std::move(items), depth + 1}));
  }
  Value text(std::string text) {
    if (!pay(text.size() + 16)) return {};
    return Value::of(std::move(text));
  }
  Value space(Items items) {
    spaces_.push_back(std::make_shared<Space>(Space{std::move(items)}));
    return Value::of(Kind::space, spaces_.back());
  }
  const Value* find(const Items& items, const std::string& key) {
    if (!pay(items.size() + key.size())) return nullptr;
    for (const auto& [name, value] : items)
      if (name == key) return &value;
    return nullptr;
  }
  void put(Items& items, const std::string& key, Value value) {
    if (Value* old = const_cast<Value*>(find(items, key)))
      *old = std::move(value);
    else
      items.emplace_back(key, std::move(value));
  }

 private:
  bool shallow(int depth) {
    if (depth > max_depth)
      fail(ErrorCode::overflow, "at most " + std::to_string(max_depth) + " nested containers", "more");
    return !failed_;
  }

  std::string where_;
  std::size_t steps_, work_;
  bool failed_ = false;
  Error error_;
  std::vector<std::shared_ptr<Space>> spaces_;
};

/// A JSON value as Python's json.loads gives it.
inline Value value_of(Run& run, const OrderedJson& json, int depth = 0) {
  if (depth > max_depth)
    return run.fail(ErrorCode::overflow, "at most " + std::to_string(max_depth) + " nested containers", "more");
  switch (json.type()) {
    case OrderedJson::value_t::null: return Value::none();
    case OrderedJson::value_t::boolean: return Value::of(json.get<bool>());
    case OrderedJson::value_t::number_unsigned:
      if (json.get<std::uint64_t>() > std::uint64_t(std::numeric_limits<std::int64_t>::max()))
        return run.fail(ErrorCode::overflow, "integers of 64 bits", json.dump());
      [[fallthrough]];
    case OrderedJson::value_t::number_integer: return Value::of(json.get<std::int64_t>());
    case OrderedJson::value_t::number_float: return Value::of(json.get<double>());
    case OrderedJson::value_t::string: {
      const std::string& text = json.get_ref<const std::string&>();
      if (find_invalid_utf8(text) != std::string::npos)
        return run.fail(ErrorCode::format, "UTF-8", "other bytes in a value");
      return run.text(text);
    }
    case OrderedJson::value_t::array: {
      std::vector<Value> items;
      for (const auto& item : json) items.push_back(value_of(run, item, depth + 1));
      return run.failed() ? Value() : run.list(std::move(items));
    }
    case OrderedJson::value_t::object: {
      Items items;
      for (const auto& [key, item] : json.items()) items.emplace_back(key, value_of(run, item, depth + 1));
      return run.failed() ? Value() : run.dict(std::move(items));
    }
    default: return run.fail(ErrorCode::format, "JSON values", "binary data");
  }
}

inline bool truth(const Value& v) {
  switch (v.kind()) {
    case Kind::undefined:
    case Kind::none: return false;
    case Kind::boolean:
    case Kind::integer: return v.integer() != 0;
    case Kind::number: return v.number() != 0;
    case Kind::string: return !v.text().empty();
    case Kind::sequence: return v.sequence().flavour == Flavour::generator || !v.sequence().items.empty();
    case Kind::dict: return !v.dict().items.empty();
    default: return true;
  }
}

/// repr(), where it is part of the language; str() differs for strings and undefined values alone.
inline std::string repr(Run& run, const Value& v) {
  if (!run.step()) return {};
  switch (v.kind()) {
    case Kind::undefined: return "Undefined";
    case Kind::none: return "None";
    case Kind::boolean: return v.integer() ? "True" : "False";
    case Kind::integer: return std::to_string(v.integer());
    case Kind::number: return float_text(v.number(), false);
    case Kind::string: return run.pay(v.text().size()) ? python_quoted(v.text()) : "";
    case Kind::sequence: {
      const Sequence& s = v.sequence();
      const bool tuple = s.flavour == Flavour::tuple;
      if (!tuple && s.flavour != Flavour::list) return run.outside("the text of an iterator (add |list or |join)"), "";
      std::string out = tuple ? "(" : "[";
      for (std::size_t i = 0; i < s.items.size(); ++i) {
        out += (i ? ", " : "") + repr(run, s.items[i]);
        if (!run.pay(out.size() / (i + 1))) return {};
      }
      return out + (tuple ? s.items.size() == 1 ? ",)" : ")" : "]");
    }
    case Kind::dict: {
      std::string out = "{";
      for (const auto& [key, item] : v.dict().items) {
        const std::string text = repr(run, item);
        if (!run.pay(key.size() + text.size())) return {};
        out += (out.size() > 1 ? ", " : "") + python_quoted(key) + ": " + text;
      }
      return out + "}";
    }
    default: return run.outside("the text of " + type_name(v)), "";
  }
}

inline std::string str(Run& run, const Value& v) {
  if (v.is(Kind::undefined)) return {};
  if (v.is(Kind::string)) return run.pay(v.text().size()) ? v.text() : "";
  return repr(run, v);
}

struct JsonStyle {
  std::string indent;  // one level; used where `lines`
  std::string item = ", ", key = ": ";
  bool lines = false, ascii = false, sorted = false;
};

/// json.dumps() as transformers calls it for `tojson`.
inline void dump_json(Run& run, const Value& v, const JsonStyle& style, int level, std::string& out) {
  if (!run.step() || !run.pay(16)) return;
  const auto line = [&](int at) {
    if (!style.lines) return;
    out += '\n';
    for (int i = 0; i < at && run.pay(style.indent.size()); ++i) out += style.indent;
  };
  switch (v.kind()) {
    case Kind::none: out += "null"; return;
    case Kind::boolean: out += v.integer() ? "true" : "false"; return;
    case Kind::integer: out += std::to_string(v.integer()); return;
    case Kind::number: out += float_text(v.number(), true); return;
    case Kind::string:
      if (run.pay(v.text().size())) out += json_quoted(v.text(), style.ascii);
      return;
    case Kind::sequence: {
      const Sequence& s = v.sequence();
      if (s.flavour > Flavour::tuple) break;
      if (s.items.empty()) return void(out += "[]");
      out += '[';
      for (std::size_t i = 0; i < s.items.size() && !run.failed(); ++i) {
        if (i) out += style.item;
        line(level + 1);
        dump_json(run, s.items[i], style, level + 1, out);
      }
      line(level);
      out += ']';
      return;
    }
    case Kind::dict: {
      if (v.dict().items.empty()) return void(out += "{}");
      std::vector<const Items::value_type*> order;
      for (const auto& item : v.dict().items) order.push_back(&item);
      if (style.sorted)
        std::stable_sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->first < b->first; });
      out += '{';
      for (std::size_t i = 0; i < order.size() && !run.failed(); ++i) {
        if (i) out += style.item;
        line(level + 1);
        if (run.pay(order[i]->first.size())) out += json_quoted(order[i]->first, style.ascii) + style.key;
        dump_json(run, order[i]->second, style, level + 1, out);
      }
      line(level);
      out += '}';
      return;
    }
    default: break;
  }
  run.fail("a value that JSON can write", v);
}

/// a == b, as Python compares.
inline bool equal(Run& run, const Value& a, const Value& b) {
  if (!run.step()) return false;
  if (a.is_number() && b.is_number())
    return a.is_integer() && b.is_integer() ? a.integer() == b.integer() : a.number() == b.number();
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::undefined:
    case Kind::none: return true;
    case Kind::string: return run.pay(std::min(a.text().size(), b.text().size())) && a.text() == b.text();
    case Kind::sequence: {
      const Sequence &x = a.sequence(), &y = b.sequence();
      if (x.flavour != y.flavour || x.flavour > Flavour::range) return a.address() == b.address();
      if (x.items.size() != y.items.size()) return false;
      for (std::size_t i = 0; i < x.items.size(); ++i)
        if (!equal(run, x.items[i], y.items[i])) return false;
      return true;
    }
    case Kind::dict: {
      if (a.dict().items.size() != b.dict().items.size()) return false;
      for (const auto& [key, item] : a.dict().items)
        if (const Value* other = run.find(b.dict().items, key); other == nullptr || !equal(run, item, *other))
          return false;
      return true;
    }
    default: return a.address() == b.address();
  }
}

/// -1, 0 or 1; an error where Python has no order.
inline int order(Run& run, const Value& a, const Value& b) {
  if (!run.step()) return 0;
  const auto sign = [](auto x, auto y) { return x < y ? -1 : x > y ? 1 : 0; };
  if (a.is_integer() && b.is_integer()) return sign(a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return sign(a.number(), b.number());
  if (a.is(Kind::string) && b.is(Kind::string))
    return run.pay(std::min(a.text().size(), b.text().size())) ? sign(a.text().compare(b.text()), 0) : 0;
  if (a.is(Kind::sequence) && b.is(Kind::sequence) && a.sequence().flavour == b.sequence().flavour &&
      a.sequence().flavour <= Flavour::tuple) {
    const auto &x = a.sequence().items, &y = b.sequence().items;
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!equal(run, x[i], y[i])) return order(run, x[i], y[i]);
    return sign(x.size(), y.size());
  }
  run.fail("two values with an order", a.is_number() || a.is(Kind::string) ? b : a);
  return 0;
}

/// What iterating over a value gives; false (and an error) where it cannot be done. A generator gives its items once.
inline bool iterate(Run& run, const Value& v, std::vector<Value>& out) {
  switch (v.kind()) {
    case Kind::undefined: return true;
    case Kind::string:
      if (!run.pay(64 * v.text().size())) return false;
      for (std::size_t at = 0; at < v.text().size();) {
        const std::size_t n = next_char(std::string_view(v.text()).substr(at)).length;
        out.push_back(Value::of(v.text().substr(at, n)));
        at += n;
      }
      return true;
    case Kind::sequence: {
      const Sequence& s = v.sequence();
      if (!run.pay(sizeof(Value) * s.items.size())) return false;
      out.assign(s.items.begin() + std::ptrdiff_t(s.taken), s.items.end());
      if (s.flavour == Flavour::generator) s.taken = s.items.size();
      return true;
    }
    case Kind::dict:
      for (const auto& [key, item] : v.dict().items) out.push_back(run.text(key));
      return !run.failed();
    default: run.fail("something to iterate over", v); return false;
  }
}

}  // namespace detail::chat
}  // namespace klens
