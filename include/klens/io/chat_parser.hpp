// More than 400 lines: one grammar, which is read from its loosest rule to its tightest.
// The tree of a chat template (io/chat_template.hpp). Precedence, from loose to tight, as Jinja's:
//   a if b else c | or | and | not | comparisons, in (chained) | + - | ~ | * / // % | ** | unary - + | postfix . [] ()
//   , |filter , is
// A tag, or a form of one, that klens does not render is an error here, whether it would have been reached or not.
#pragma once

#include <klens/io/chat_lexer.hpp>

#include <initializer_list>

namespace klens::detail::chat {

enum class Op : std::uint8_t {
  text,
  print,
  branch,
  repeat,
  set,
  set_block,
  macro,
  body,
  leave,
  again,  // statements
  constant,
  name,
  attribute,
  item,
  slice,
  list,
  tuple,
  dict,  // values
  negate,
  negative,
  positive,
  both,
  either,
  concat,
  compare,
  arithmetic,
  choice,
  call,
  filter,
  test
};

struct Node {
  Op op = Op::constant;
  int line = 1;
  int depth = 1;
  std::string text;                // a name, an operator
  Value value;                     // of a constant
  std::vector<Node> items;         // operands; of a call, filter or test: what it is applied to, then the arguments
  std::vector<std::string> names;  // beside items: keywords of arguments, operators of comparisons, parameters
  std::vector<Node> body, otherwise;
};

class Parser {
 public:
  Parser(Run& run, std::vector<Token> tokens) : run_(run), tokens_(std::move(tokens)) {}

  std::vector<Node> parse() {
    std::vector<Node> nodes = block({});
    return run_.failed() ? std::vector<Node>() : std::move(nodes);
  }

 private:
  // Tokens ------------------------------------------------------------------------------------------------------------
  const Token& now() const { return tokens_[std::min(at_, tokens_.size() - 1)]; }
  const Token& then() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool at_mark(std::string_view m) const { return now().kind == TokenKind::mark && now().text == m; }
  bool at_name(std::string_view n) const { return now().kind == TokenKind::name && now().text == n; }
  void next() {
    if (at_ + 1 < tokens_.size()) ++at_;
    run_.line = now().line;
  }
  bool skip_mark(std::string_view m) { return at_mark(m) ? next(), true : false; }
  bool skip_name(std::string_view n) { return at_name(n) ? next(), true : false; }
  std::string found() const {
    switch (now().kind) {
      case TokenKind::end: return "the end of the template";
      case TokenKind::print_end: return "}}";
      case TokenKind::tag_end: return "%}";
      case TokenKind::string: return "a string";
      default: return "'" + now().text + "'";
    }
  }
  void expect(std::string expected) { run_.fail(ErrorCode::format, std::move(expected), found()); }
  void need_mark(std::string_view m) {
    if (!skip_mark(m)) expect("'" + std::string(m) + "'");
  }
  std::string need_name() {
    if (now().kind != TokenKind::name) return expect("a name"), "";
    std::string name = now().text;
    next();
    return name;
  }
  std::string need_variable() {
    constexpr std::string_view reserved[] = {"true", "false", "none", "True", "False", "None"};
    if (std::find(std::begin(reserved), std::end(reserved), now().text) != std::end(reserved))
      expect("a name that can be set");
    return need_name();
  }
  void need(TokenKind kind, const char* what) {
    if (now().kind == kind)
      next();
    else
      expect(what);
  }

  Node make(Op op, std::string text = {}) const {
    Node n;
    n.op = op, n.line = now().line, n.text = std::move(text);
    return n;
  }
  /// Takes an operand; a tree that is too deep (in either direction) is an error, since it is walked by recursion.
  void add(Node& n, Node operand, std::string name = {}) {
    n.depth = std::max(n.depth, operand.depth + 1);
    if (n.depth > max_depth)
      run_.fail(ErrorCode::overflow, "at most " + std::to_string(max_depth) + " nested expressions", "more");
    n.items.push_back(std::move(operand));
    n.names.push_back(std::move(name));
  }
  struct Nested {
    explicit Nested(Parser& p) : parser(p) {
      if (++p.depth_ > max_depth)
        p.run_.fail(ErrorCode::overflow, "at most " + std::to_string(max_depth) + " nested expressions and tags",
                    "more");
    }
    ~Nested() { --parser.depth_; }
    Parser& parser;
  };

  // Statements --------------------------------------------------------------------------------------------------------
  /// Nodes up to a tag of `ends`, which is left at its name; without ends, to the end of the template.
  std::vector<Node> block(std::initializer_list<std::string_view> ends) {
    const Nested nested(*this);
    std::vector<Node> nodes;
    while (!run_.failed()) {
      if (now().kind == TokenKind::text) {
        nodes.push_back(make(Op::text, now().text));
        next();
      } else if (now().kind == TokenKind::print) {
        next();
        Node n = make(Op::print);
        add(n, expressions(true, false));
        // |safe is the mark of a text that is not to be escaped; nothing is, so it means nothing at the end of a print.
        if (Node& last = n.items[0]; last.op == Op::filter && last.text == "safe" && last.items.size() == 1)
          last = Node(std::move(last.items[0]));
        nodes.push_back(std::move(n));
        need(TokenKind::print_end, "}}");
      } else if (now().kind == TokenKind::tag) {
        next();
        if (now().kind == TokenKind::name && std::find(ends.begin(), ends.end(), now().text) != ends.end())
          return nodes;
        nodes.push_back(statement());
      } else {
        if (ends.size() > 0) expect("{% " + std::string(*std::prev(ends.end())) + " %}");
        return nodes;
      }
    }
    return nodes;
  }
  void tag_end() { need(TokenKind::tag_end, "%}"); }

  Node statement() {
    const std::string tag = need_name();
    if (tag == "if") return branch();
    if (tag == "for") return repeat();
    if (tag == "set") return set();
    if (tag == "macro") return macro();
    Node n = make(tag == "break" ? Op::leave : tag == "continue" ? Op::again : Op::body);
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) run_.fail(ErrorCode::format, "a loop around", tag);
      return tag_end(), n;
    }
    if (tag == "generation") {  // transformers marks what the model wrote with it; the text is the same
      tag_end();
      n.body = block({"endgeneration"});
      return next(), tag_end(), n;
    }
    run_.outside("{% " + tag + " %}");
    return n;
  }

  /// items: conditions; body: one node of op body for each; otherwise: else.
  Node branch() {
    Node n = make(Op::branch);
    for (;;) {
      add(n, expressions(false, false));
      tag_end();
      Node part = make(Op::body);
      part.body = block({"elif", "else", "endif"});
      n.body.push_back(std::move(part));
      if (run_.failed() || !skip_name("elif")) break;
    }
    if (skip_name("else")) {
      tag_end();
      n.otherwise = block({"endif"});
    }
    return next(), tag_end(), n;
  }

  /// names: the variables (several: each item is taken apart); items: the iterable, then the condition if there is one.
  Node repeat() {
    Node n = make(Op::repeat);
    std::vector<std::string> variables = targets();
    if (!skip_name("in")) expect("in");
    add(n, expressions(false, false));
    if (skip_name("if")) add(n, expression(true));
    if (at_name("recursive")) run_.outside("a recursive loop");
    tag_end();
    n.names = std::move(variables);
    ++loops_;
    n.body = block({"else", "endfor"});
    --loops_;
    if (skip_name("else")) {
      tag_end();
      n.otherwise = block({"endfor"});
    }
    return next(), tag_end(), n;
  }

  /// a, b or (a, b); one name followed by a comma would be a tuple of one: outside.
  std::vector<std::string> targets() {
    const bool bracket = skip_mark("(");
    std::vector<std::string> names = {need_variable()};
    while (!run_.failed() && skip_mark(",")) names.push_back(need_variable());
    if (bracket) need_mark(")");
    return names;
  }

  /// text: the attribute of a namespace, if one is set; names: the variables.
  Node set() {
    Node n = make(Op::set);
    std::vector<std::string> variables = targets();
    if (variables.size() == 1 && skip_mark(".")) n.text = need_name();
    if (skip_mark("=")) {
      add(n, expressions(true, false));
      n.names = std::move(variables);
      return tag_end(), n;
    }
    n.op = Op::set_block;
    n.names = std::move(variables);
    if (n.names.size() != 1 || at_mark("|")) run_.outside("this form of {% set %}");
    tag_end();
    n.body = block({"endset"});
    return next(), tag_end(), n;
  }

  /// text: its name; names: the parameters; items: the defaults of the last ones.
  Node macro() {
    Node n = make(Op::macro, need_variable());
    std::vector<std::string> parameters;
    need_mark("(");
    while (!run_.failed() && !at_mark(")")) {
      if (!parameters.empty()) need_mark(",");
      parameters.push_back(need_variable());
      if (skip_mark("="))
        add(n, expression(true));
      else if (!n.items.empty())
        expect("a default, after one that has one");
    }
    need_mark(")");
    tag_end();
    n.names = std::move(parameters);
    const int loops = std::exchange(loops_, 0);
    n.body = block({"endmacro"});
    loops_ = loops;
    return next(), tag_end(), n;
  }

  // Expressions -------------------------------------------------------------------------------------------------------
  /// One expression, or several with commas: a tuple.
  Node expressions(bool condition, bool bracket) {
    Node first = make(Op::tuple);
    if (bracket && at_mark(")")) return first;
    first = expression(condition);
    if (!at_mark(",")) return first;
    Node n = make(Op::tuple);
    add(n, std::move(first));
    while (!run_.failed() && skip_mark(",")) {
      if (at_mark(")") || now().kind == TokenKind::print_end || now().kind == TokenKind::tag_end || at_mark("=")) break;
      add(n, expression(condition));
    }
    return n;
  }

  /// items: then, condition, else (if there is one).
  Node expression(bool condition) {
    const Nested nested(*this);
    Node a = either();
    while (condition && !run_.failed() && skip_name("if")) {
      Node n = make(Op::choice);
      add(n, std::move(a));
      add(n, either());
      if (skip_name("else")) add(n, expression(true));
      a = std::move(n);
    }
    return a;
  }

  template <class Operand, class Match>
  Node chain(Op op, Operand operand, Match match) {
    Node a = operand();
    while (!run_.failed() && match()) {
      Node n = make(op, now().text);
      next();
      add(n, std::move(a));
      add(n, operand());
      a = std::move(n);
    }
    return a;
  }
  Node either() {
    return chain(
        Op::either, [this] { return both(); }, [this] { return at_name("or"); });
  }
  Node both() {
    return chain(
        Op::both, [this] { return negation(); }, [this] { return at_name("and"); });
  }
  Node negation() {
    const Nested nested(*this);
    if (!at_name("not")) return compare();
    Node n = make(Op::negate);
    next();
    if (!run_.failed()) add(n, negation());
    return n;
  }

  Node compare() {
    Node first = sum();
    Node n = make(Op::compare);
    constexpr std::string_view marks[] = {"==", "!=", "<", "<=", ">", ">="};
    while (!run_.failed()) {
      std::string how;
      if (now().kind == TokenKind::mark && std::find(std::begin(marks), std::end(marks), now().text) != std::end(marks))
        how = now().text;
      else if (at_name("in"))
        how = "in";
      else if (at_name("not") && then().kind == TokenKind::name && then().text == "in")
        next(), how = "not in";
      else
        break;
      next();
      if (n.items.empty()) add(n, Node(first));
      add(n, sum(), how);
    }
    return n.items.empty() ? first : n;
  }

  Node sum() {
    return chain(
        Op::arithmetic, [this] { return concat(); }, [this] { return at_mark("+") || at_mark("-"); });
  }
  Node concat() {
    Node first = product();
    if (!at_mark("~")) return first;
    Node n = make(Op::concat);
    add(n, std::move(first));
    while (!run_.failed() && skip_mark("~")) add(n, product());
    return n;
  }
  Node product() {
    return chain(
        Op::arithmetic, [this] { return power(); },
        [this] { return at_mark("*") || at_mark("/") || at_mark("//") || at_mark("%"); });
  }
  Node power() {
    return chain(
        Op::arithmetic, [this] { return unary(true); }, [this] { return at_mark("**"); });
  }

  Node unary(bool filters) {
    const Nested nested(*this);
    Node n;
    if (run_.failed()) return n;
    if (at_mark("-") || at_mark("+")) {
      n = make(at_mark("-") ? Op::negative : Op::positive);
      next();
      add(n, unary(false));
    } else {
      n = primary();
    }
    n = postfix(std::move(n));
    while (filters && !run_.failed()) {
      if (at_mark("|"))
        n = filter(std::move(n));
      else if (at_name("is"))
        n = test(std::move(n));
      else if (at_mark("("))
        n = call(std::move(n));
      else
        break;
    }
    return n;
  }

  Node primary() {
    Node n = make(Op::constant);
    const std::string& text = now().text;
    switch (now().kind) {
      case TokenKind::name:
        if (text == "true" || text == "True" || text == "false" || text == "False")
          n.value = Value::of((text[0] | 32) == 't');
        else if (text == "none" || text == "None")
          n.value = Value::none();
        else
          n.op = Op::name, n.text = text;
        return next(), n;
      case TokenKind::string: {
        std::string all;
        for (; now().kind == TokenKind::string; next()) all += now().text;
        n.value = run_.text(std::move(all));
        return n;
      }
      case TokenKind::integer: {
        std::int64_t i = 0;
        if (std::from_chars(text.data(), text.data() + text.size(), i).ec != std::errc())
          run_.fail(ErrorCode::overflow, "integers of 64 bits", text);
        n.value = Value::of(i);
        return next(), n;
      }
      case TokenKind::number: {
        double x = 0;
        std::from_chars(text.data(), text.data() + text.size(), x);
        n.value = Value::of(x);
        return next(), n;
      }
      default: break;
    }
    if (skip_mark("(")) {
      n = expressions(true, true);
      return need_mark(")"), n;
    }
    if (skip_mark("[")) {
      n.op = Op::list;
      while (!run_.failed() && !at_mark("]")) {
        if (!n.items.empty()) need_mark(",");
        if (at_mark("]")) break;
        add(n, expression(true));
      }
      return need_mark("]"), n;
    }
    if (skip_mark("{")) {  // items: key, value, key, value
      n.op = Op::dict;
      while (!run_.failed() && !at_mark("}")) {
        if (!n.items.empty()) need_mark(",");
        if (at_mark("}")) break;
        add(n, expression(true));
        need_mark(":");
        add(n, expression(true));
      }
      return need_mark("}"), n;
    }
    expect("an expression");
    return n;
  }

  Node postfix(Node n) {
    while (!run_.failed()) {
      if (skip_mark(".")) {
        Node a = make(Op::attribute);
        if (now().kind == TokenKind::integer) {
          a.op = Op::item;
          add(a, std::move(n));
          add(a, primary());
        } else {
          a.text = need_name();
          add(a, std::move(n));
        }
        n = std::move(a);
      } else if (skip_mark("[")) {
        n = subscript(std::move(n));
      } else if (at_mark("(")) {
        n = call(std::move(n));
      } else {
        break;
      }
    }
    return n;
  }

  /// item: [value, index]; slice: [value, start, stop, step], what is left out being none.
  Node subscript(Node value) {
    Node n = make(Op::item);
    add(n, std::move(value));
    Node part = make(Op::constant);
    part.value = Value::none();
    for (int i = 0; i < 3 && !run_.failed(); ++i) {
      const bool there = !at_mark(":") && !at_mark("]");
      if (!there && i == 0 && at_mark("]")) expect("an index");
      add(n, there ? expression(true) : Node(part));
      if (at_mark(",")) run_.outside("several indices");
      if (i < 2 && skip_mark(":"))
        n.op = Op::slice;
      else
        break;
    }
    while (n.op == Op::slice && n.items.size() < 4) add(n, Node(part));
    return need_mark("]"), n;
  }

  void arguments(Node& n) {
    bool named = false;
    for (bool first = true; !run_.failed() && !at_mark(")"); first = false) {
      if (!first) need_mark(",");
      if (at_mark(")")) break;
      if (at_mark("*") || at_mark("**")) run_.outside("unpacked arguments (* or **)");
      std::string name;
      if (now().kind == TokenKind::name && then().kind == TokenKind::mark && then().text == "=") {
        name = now().text;
        next(), next();
        named = true;
        if (std::find(n.names.begin(), n.names.end(), name) != n.names.end())
          run_.fail(ErrorCode::format, "each argument once", "'" + name + "' twice");
      } else if (named) {
        expect("a named argument");
      }
      add(n, expression(true), std::move(name));
    }
    need_mark(")");
  }
  Node call(Node callee) {
    Node n = make(Op::call);
    need_mark("(");
    add(n, std::move(callee));
    arguments(n);
    return n;
  }
  Node filter(Node value) {
    need_mark("|");
    Node n = make(Op::filter, need_name());
    add(n, std::move(value));
    if (skip_mark("(")) arguments(n);
    return n;
  }

  /// x is test, x is test(a), x is test a; "is not" is the negation of the whole.
  Node test(Node value) {
    next();
    const bool negated = skip_name("not");
    Node n = make(Op::test, need_name());
    add(n, std::move(value));
    const TokenKind k = now().kind;
    if (skip_mark("(")) {
      arguments(n);
    } else if ((k == TokenKind::name && !at_name("else") && !at_name("or") && !at_name("and") && !at_name("is") &&
                !at_name("if") && !at_name("in") && !at_name("not")) ||
               k == TokenKind::string || k == TokenKind::integer || k == TokenKind::number || at_mark("[") ||
               at_mark("{")) {
      Node argument = primary();
      add(n, postfix(std::move(argument)));
    } else if (at_name("is") || at_name("in") || at_name("if") || at_name("not")) {
      run_.outside("'" + now().text + "' right after a test (add brackets)");  // Jinja takes it for the test's argument
    }
    if (!negated) return n;
    Node all = make(Op::negate);
    add(all, std::move(n));
    return all;
  }

  Run& run_;
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
};

}  // namespace klens::detail::chat
