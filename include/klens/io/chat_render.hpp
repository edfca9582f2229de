// More than 400 lines: one evaluator, whose functions call each other in a circle.
// Evaluates the tree of a chat template (io/chat_template.hpp). Scopes are Jinja's: the body of a loop and of a macro
// has its own, {% if %} has none; a macro sees its arguments and the template's top level.
#pragma once

#include <klens/io/chat_filters.hpp>
#include <klens/io/chat_parser.hpp>

#include <ctime>
#include <optional>
#include <unordered_map>

namespace klens::detail::chat {

class Renderer {
 public:
  Renderer(Run& run, const ChatLimits& limits, const std::optional<std::tm>& now)
      : run_(run), limits_(limits), now_(now) {
    scope_ = &top_;
  }

  void define(const std::string& name, Value value) { top_.names[name] = std::move(value); }
  std::string render(const std::vector<Node>& nodes) {
    std::string out;
    body(nodes, out);
    return out;
  }

 private:
  struct Scope {
    std::unordered_map<std::string, Value> names;
    Scope* outer = nullptr;
  };
  enum class Flow { on, leave, again };

  struct Nested {
    explicit Nested(Renderer& r) : renderer(r) {
      if (++r.depth_ > max_run_depth)
        r.run_.fail(ErrorCode::overflow, "at most " + std::to_string(max_run_depth) + " nested evaluations", "more");
    }
    ~Nested() { --renderer.depth_; }
    Renderer& renderer;
  };

  // Statements --------------------------------------------------------------------------------------------------------
  Flow body(const std::vector<Node>& nodes, std::string& out) {
    const Nested nested(*this);
    for (const Node& n : nodes) {
      if (!run_.step()) break;
      run_.line = n.line;
      if (const Flow flow = statement(n, out); flow != Flow::on) return flow;
    }
    return Flow::on;
  }

  void put(std::string_view text, std::string& out) {
    if (out.size() + text.size() > limits_.output_bytes)
      run_.fail(ErrorCode::overflow, "at most " + std::to_string(limits_.output_bytes) + " bytes of text", "more");
    if (run_.pay(text.size())) out += text;
  }

  Flow statement(const Node& n, std::string& out) {
    switch (n.op) {
      case Op::text: put(n.text, out); return Flow::on;
      case Op::print: put(str(run_, eval(n.items[0])), out); return Flow::on;
      case Op::body: return body(n.body, out);
      case Op::branch:
        for (std::size_t i = 0; i < n.items.size(); ++i)
          if (truth(eval(n.items[i]))) return body(n.body[i].body, out);
        return body(n.otherwise, out);
      case Op::repeat: return repeat(n, out);
      case Op::set: set(n); return Flow::on;
      case Op::set_block: {
        Scope own{{}, scope_};
        std::string text;
        scope_ = &own;
        const Flow flow = body(n.body, text);
        scope_ = own.outer;
        assign(n.names[0], n.text, run_.text(std::move(text)));
        return flow;
      }
      case Op::macro:
        if (scope_ != &top_) return run_.outside("a macro inside a loop or a macro"), Flow::on;
        define(n.text, Value::of(Kind::macro, std::make_shared<Macro>(Macro{&n})));
        return Flow::on;
      case Op::leave: return Flow::leave;
      case Op::again: return Flow::again;
      default: run_.outside("this node"); return Flow::on;
    }
  }

  /// A value for several names is taken apart.
  void bind(Scope& scope, const std::vector<std::string>& names, const Value& value) {
    if (names.size() == 1) return void(scope.names[names[0]] = value);
    std::vector<Value> parts;
    if (!iterate(run_, value, parts)) return;
    if (parts.size() != names.size())
      run_.fail(ErrorCode::format, std::to_string(names.size()) + " values to take apart",
                std::to_string(parts.size()));
    for (std::size_t i = 0; i < names.size() && !run_.failed(); ++i) scope.names[names[i]] = parts[i];
  }
  void assign(const std::string& name, const std::string& attribute, Value value) {
    if (attribute.empty()) return void(scope_->names[name] = std::move(value));
    const Value target = look_up(name);
    if (!target.is(Kind::space)) return void(run_.fail("a namespace whose attribute can be set", target));
    run_.put(target.object<Space>().items, attribute, std::move(value));
  }
  void set(const Node& n) {
    Value value = eval(n.items[0]);
    if (run_.failed()) return;
    if (n.names.size() == 1)
      assign(n.names[0], n.text, std::move(value));
    else
      bind(*scope_, n.names, value);
  }

  Flow repeat(const Node& n, std::string& out) {
    std::vector<Value> items;
    if (!iterate(run_, eval(n.items[0]), items)) return Flow::on;
    if (n.items.size() > 1) {
      std::vector<Value> kept;
      for (const Value& item : items) {
        if (!run_.step()) return Flow::on;
        Scope own{{}, scope_};
        bind(own, n.names, item);
        scope_ = &own;
        if (truth(eval(n.items[1]))) kept.push_back(item);
        scope_ = own.outer;
      }
      items = std::move(kept);
    }
    if (run_.failed()) return Flow::on;
    if (items.empty()) {
      Scope own{{}, scope_};
      scope_ = &own;
      const Flow flow = body(n.otherwise, out);
      scope_ = own.outer;
      return flow;
    }
    const auto shared = std::make_shared<const std::vector<Value>>(std::move(items));
    const auto loop = std::make_shared<Loop>(Loop{shared, 0});
    for (std::size_t i = 0; i < shared->size() && run_.step(); ++i) {
      Scope own{{}, scope_};
      own.names["loop"] = Value::of(Kind::loop, loop);
      loop->index = std::int64_t(i);
      bind(own, n.names, (*shared)[i]);
      scope_ = &own;
      const Flow flow = body(n.body, out);
      scope_ = own.outer;
      if (flow == Flow::leave) break;
    }
    return Flow::on;
  }

  // Expressions -------------------------------------------------------------------------------------------------------
  Value look_up(const std::string& name) {
    for (const Scope* s = scope_; s != nullptr; s = s->outer)
      if (const auto it = s->names.find(name); it != s->names.end()) return it->second;
    for (const char* known : {"namespace", "range", "dict", "raise_exception", "strftime_now"})
      if (name == known) return Value::of(Kind::global, std::make_shared<Method>(Method{{}, name}));
    for (const char* other : {"lipsum", "cycler", "joiner", "self", "super", "caller", "varargs", "kwargs"})
      if (name == other) return run_.outside("'" + name + "'");
    return Value::undefined(name);
  }

  Value eval(const Node& n) {
    const Nested nested(*this);
    if (!run_.step()) return {};
    run_.line = n.line;
    switch (n.op) {
      case Op::constant: return n.value;
      case Op::name: return look_up(n.text);
      case Op::attribute: return attribute_of(run_, eval(n.items[0]), n.text);
      case Op::item: {
        const Value value = eval(n.items[0]), key = eval(n.items[1]);
        return run_.failed() ? Value() : item_of(run_, value, key);
      }
      case Op::slice: return slice(n);
      case Op::list:
      case Op::tuple: {
        std::vector<Value> items;
        for (const Node& item : n.items) items.push_back(eval(item));
        return run_.list(std::move(items), n.op == Op::list ? Flavour::list : Flavour::tuple);
      }
      case Op::dict: return dict(n);
      case Op::negate: return Value::of(!truth(eval(n.items[0])));
      case Op::negative:
      case Op::positive: return sign(n);
      case Op::both: {
        Value a = eval(n.items[0]);
        return truth(a) && !run_.failed() ? eval(n.items[1]) : a;
      }
      case Op::either: {
        Value a = eval(n.items[0]);
        return truth(a) || run_.failed() ? a : eval(n.items[1]);
      }
      case Op::concat: {
        std::string text;
        for (const Node& item : n.items) put(str(run_, eval(item)), text);
        return run_.text(std::move(text));
      }
      case Op::compare: return compare(n);
      case Op::arithmetic: {
        const Value a = eval(n.items[0]), b = eval(n.items[1]);
        return run_.failed() ? Value() : arithmetic(n.text, a, b);
      }
      case Op::choice:
        if (truth(eval(n.items[1]))) return eval(n.items[0]);
        return n.items.size() > 2 ? eval(n.items[2]) : Value::undefined("the missing else of an inline if");
      case Op::call: return call(n);
      case Op::filter: {
        const Value value = eval(n.items[0]);
        const Arguments given = arguments(n);
        return run_.failed() ? Value() : apply_filter(run_, n.text, value, given);
      }
      case Op::test: {
        const Value value = eval(n.items[0]);
        const Arguments given = arguments(n);
        return run_.failed() ? Value() : Value::of(test(run_, n.text, value, given));
      }
      default: return run_.outside("this expression");
    }
  }

  Arguments arguments(const Node& n) {
    Arguments given;
    for (std::size_t i = 1; i < n.items.size() && !run_.failed(); ++i) {
      given.values.push_back(eval(n.items[i]));
      given.names.push_back(n.names[i]);
    }
    return given;
  }

  Value dict(const Node& n) {
    Items items;
    for (std::size_t i = 0; i + 1 < n.items.size() && !run_.failed(); i += 2) {
      const Value key = eval(n.items[i]);
      if (!key.is(Kind::string)) return run_.outside("a mapping whose key is " + type_name(key));
      run_.put(items, key.text(), eval(n.items[i + 1]));
    }
    return run_.failed() ? Value() : run_.dict(std::move(items));
  }

  Value sign(const Node& n) {
    const Value v = eval(n.items[0]);
    if (v.is_integer())
      return n.op == Op::positive ? Value::of(v.integer()) : arithmetic("-", Value::of(std::int64_t(0)), v);
    if (v.is(Kind::number)) return Value::of(n.op == Op::positive ? v.number() : -v.number());
    return run_.fail("a number", v);
  }

  /// a < b <= c: every operand once, up to the first that fails.
  Value compare(const Node& n) {
    Value a = eval(n.items[0]);
    for (std::size_t i = 1; i < n.items.size() && !run_.failed(); ++i) {
      const Value b = eval(n.items[i]);
      const std::string& how = n.names[i];
      if (run_.failed()) break;
      bool holds = false;
      if (how == "==" || how == "!=")
        holds = equal(run_, a, b) == (how == "==");
      else if (how == "in" || how == "not in")
        holds = contains(run_, b, a) == (how == "in");
      else if (const int o = order(run_, a, b); how[0] == '<')
        holds = o < 0 || (o == 0 && how == "<=");
      else
        holds = o > 0 || (o == 0 && how == ">=");
      if (!holds) return Value::of(false);
      a = b;
    }
    return Value::of(true);
  }

  Value slice(const Node& n) {
    const Value v = eval(n.items[0]);
    std::optional<std::int64_t> at[3];
    for (std::size_t i = 0; i < 3 && !run_.failed(); ++i) {
      const Value x = eval(n.items[i + 1]);
      if (x.is_integer())
        at[i] = x.integer();
      else if (!x.is(Kind::none))
        run_.fail("an integer in a slice", x);
    }
    if (run_.failed()) return {};
    const bool list = v.is(Kind::sequence) && v.sequence().flavour <= Flavour::tuple;
    if (!list && !v.is(Kind::string))
      return v.is(Kind::undefined) ? run_.fail("a list or a string", v) : run_.outside("a slice of " + type_name(v));
    std::vector<Value> items, out;
    if (!iterate(run_, v, items)) return {};
    // Python's rules: negative ends count from the back, ends outside are moved to the nearest place inside.
    const std::int64_t size = std::int64_t(items.size()), step = at[2].value_or(1);
    if (step == 0 || step < -size - 1 || step > size + 1)
      return run_.outside("the step of a slice, " + std::to_string(step));
    const std::int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
    const auto inside = [&](std::optional<std::int64_t> x, std::int64_t otherwise) {
      return !x ? otherwise : std::clamp(*x < 0 ? *x + size : *x, low, high);
    };
    const std::int64_t start = inside(at[0], step > 0 ? low : high), stop = inside(at[1], step > 0 ? high : low);
    for (std::int64_t i = start; step > 0 ? i < stop : i > stop; i += step) out.push_back(items[std::size_t(i)]);
    return list ? run_.list(std::move(out), v.sequence().flavour) : joined(run_, out, "", false);
  }

  Value arithmetic(const std::string& op, const Value& a, const Value& b) {
    if (a.is_integer() && b.is_integer() && op != "/") return integers(op, a.integer(), b.integer());
    if (a.is_number() && b.is_number()) {
      const double x = a.number(), y = b.number();
      if (op == "+") return Value::of(x + y);
      if (op == "-") return Value::of(x - y);
      if (op == "*") return Value::of(x * y);
      if (op == "/" && y != 0) return Value::of(x / y);
      return run_.outside("'" + op + "' of these floats");
    }
    if (op == "+" && a.is(Kind::string) && b.is(Kind::string))
      return run_.pay(a.text().size() + b.text().size()) ? run_.text(a.text() + b.text()) : Value();
    if (op == "+" && a.is(Kind::sequence) && b.is(Kind::sequence) && a.sequence().flavour == b.sequence().flavour &&
        a.sequence().flavour <= Flavour::tuple) {
      std::vector<Value> items = a.sequence().items;
      items.insert(items.end(), b.sequence().items.begin(), b.sequence().items.end());
      return run_.list(std::move(items), a.sequence().flavour);
    }
    if (op == "*" && (a.is_integer() || b.is_integer()))
      return times(a.is_integer() ? b : a, (a.is_integer() ? a : b).integer());
    if (op == "%" && a.is(Kind::string)) return run_.outside("formatting with %");
    return run_.fail("operands that '" + op + "' takes", a.is_number() || (a.is(Kind::string) && op == "+") ? b : a);
  }

  Value times(const Value& v, std::int64_t n) {
    const std::size_t count = std::size_t(std::max<std::int64_t>(n, 0));
    const bool list = v.is(Kind::sequence) && v.sequence().flavour <= Flavour::tuple;
    if (!list && !v.is(Kind::string)) return run_.fail("operands that '*' takes", v);
    const std::size_t size = list ? v.sequence().items.size() * sizeof(Value) : v.text().size();
    if (size > 0 && (count > limits_.work / size || !run_.pay(count * size)))
      return run_.fail(ErrorCode::overflow, "a template that ends", "more work than is allowed");
    std::string text;
    std::vector<Value> items;
    for (std::size_t i = 0; size > 0 && i < count; ++i) {
      if (list)
        items.insert(items.end(), v.sequence().items.begin(), v.sequence().items.end());
      else
        text += v.text();
    }
    return list ? run_.list(std::move(items), v.sequence().flavour) : run_.text(std::move(text));
  }

  Value integers(const std::string& op, std::int64_t x, std::int64_t y) {
    std::int64_t z = 0;
    bool over = false;
    if (op == "+") {
      over = __builtin_add_overflow(x, y, &z);
    } else if (op == "-") {
      over = __builtin_sub_overflow(x, y, &z);
    } else if (op == "*") {
      over = __builtin_mul_overflow(x, y, &z);
    } else if (op == "**") {
      if (y < 0) return run_.outside("a negative power");
      z = 1;
      for (std::int64_t i = 0; i < y && !over && run_.step(); ++i) over = __builtin_mul_overflow(z, x, &z);
    } else {
      if (y == 0) return run_.fail(ErrorCode::format, "a divisor", "zero");
      if (y == -1) {
        over = op == "//" && __builtin_sub_overflow(std::int64_t(0), x, &z);
      } else {  // rounded down, as Python does
        const std::int64_t rest = x % y, down = rest != 0 && (rest < 0) != (y < 0);
        z = op == "//" ? x / y - down : rest + down * y;
      }
    }
    return over ? run_.fail(ErrorCode::overflow, "integers of 64 bits", "a larger one") : Value::of(z);
  }

  Value call(const Node& n) {
    const Value callee = eval(n.items[0]);
    const Arguments given = arguments(n);
    if (run_.failed()) return {};
    run_.line = n.line;
    if (callee.is(Kind::method)) return call_method(run_, callee.object<Method>(), given);
    if (callee.is(Kind::macro)) return call_macro(*callee.object<Macro>().node, given);
    if (callee.is(Kind::global)) return call_global(callee.object<Method>().name, given);
    return run_.fail("a function", callee);
  }

  Value call_macro(const Node& macro, const Arguments& given) {
    Scope own{{}, &top_};
    std::vector<bool> bound(macro.names.size());
    for (std::size_t i = 0; i < given.values.size(); ++i) {
      std::size_t at = i;
      if (!given.names[i].empty())
        at = std::size_t(std::find(macro.names.begin(), macro.names.end(), given.names[i]) - macro.names.begin());
      if (at >= macro.names.size() || bound[at])
        return run_.fail(ErrorCode::format, "arguments of the macro '" + macro.text + "'",
                         given.names[i].empty() ? "too many" : "'" + given.names[i] + "'");
      bound[at] = true;
      own.names[macro.names[at]] = given.values[i];
    }
    Scope* const before = std::exchange(scope_, &own);
    const std::size_t plain = macro.names.size() - macro.items.size();
    for (std::size_t i = 0; i < macro.names.size() && !run_.failed(); ++i)
      if (!bound[i])
        own.names[macro.names[i]] = i < plain ? Value::undefined(macro.names[i]) : eval(macro.items[i - plain]);
    std::string text;
    body(macro.body, text);
    scope_ = before;
    return run_.text(std::move(text));
  }

  Value call_global(const std::string& name, const Arguments& given) {
    if (name == "namespace" || name == "dict") {
      Items items;
      for (std::size_t i = 0; i < given.values.size() && !run_.failed(); ++i) {
        if (!given.names[i].empty())
          run_.put(items, given.names[i], given.values[i]);
        else if (given.values[i].is(Kind::dict) && i == 0)
          items = given.values[i].dict().items;
        else
          run_.outside(name + "() of something else than a mapping");
      }
      return run_.failed() ? Value() : name == "dict" ? run_.dict(std::move(items)) : run_.space(std::move(items));
    }
    if (name == "range") {
      const auto bound = given.bind<3>(run_, "range", {"", "", ""}, 1);
      std::int64_t at[3] = {0, 0, 1};
      for (std::size_t i = 0; i < 3 && !run_.failed(); ++i)
        if (bound[i] != nullptr) at[i] = limit_of(run_, bound[i]);
      if (bound[1] == nullptr) std::swap(at[0], at[1]);
      constexpr std::int64_t most = 100'000;  // as Jinja's sandbox
      if (at[2] == 0) return run_.fail(ErrorCode::format, "a step", "zero");
      std::vector<Value> items;
      for (std::int64_t i = at[0]; !run_.failed() && (at[2] > 0 ? i < at[1] : i > at[1]);) {
        items.push_back(Value::of(i));
        if (std::int64_t(items.size()) > most)
          run_.fail(ErrorCode::overflow, "a range of at most 100000", "a longer one");
        if (__builtin_add_overflow(i, at[2], &i)) break;
      }
      return run_.failed() ? Value() : run_.list(std::move(items), Flavour::range);
    }
    const auto [text] = given.bind<1>(run_, name, {""}, 1);
    if (text == nullptr || run_.failed()) return {};
    if (name == "raise_exception") return run_.fail(ErrorCode::format, "", "the template refuses: " + str(run_, *text));
    const std::string& format = text_of(run_, text);
    if (!now_) return run_.fail(ErrorCode::missing, "a date, which strftime_now('" + format + "') asks for", "none");
    if (format.empty()) return run_.text("");
    char buffer[512];
    const std::size_t size = std::strftime(buffer, sizeof buffer, format.c_str(), &*now_);
    return size > 0 ? run_.text(std::string(buffer, size)) : run_.outside("a date of more than 500 bytes");
  }

  Run& run_;
  ChatLimits limits_;
  std::optional<std::tm> now_;
  Scope top_;
  Scope* scope_;
  int depth_ = 0;
};

}  // namespace klens::detail::chat
