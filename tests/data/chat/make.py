"""Makes cases.json, what jinja2 renders of chat templates in the styles of published checkpoints and of every construct
that klens/io/chat_template.hpp knows:
    pip install jinja2==3.1.6 && python make.py > cases.json
The environment is set up as transformers sets up its own. "output": null stands for an error."""
import datetime, itertools, json, sys
from jinja2.ext import loopcontrols, Extension
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 7, 26, 9, 5, 3)


class Generation(Extension):  # {% generation %}: the text inside it
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller):
        return caller()


def raise_exception(message):
    raise ValueError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = NOW.strftime


def render(template, variables):
    try:
        return env.from_string(template).render(**variables)
    except Exception:
        return None


STYLES = {
    "chatml": """{%- for turn in messages %}
    {%- if loop.first and turn.role != 'system' %}
        {{- '<|im_start|>system\\nAnswer briefly.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "llama2": """{% if messages and messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set sys = false %}{% endif %}
{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}
{% if loop.index0 == 0 and sys is not false %}{% set text = '<<SYS>>\\n' ~ sys ~ '\\n<</SYS>>\\n\\n' ~ m['content'] %}{% else %}{% set text = m['content'] %}{% endif %}
{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + text | trim + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' '  + text | trim + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "1 Jan 2020" %}
    {%- endif %}
{%- endif %}
{%- if messages|length > 0 and messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none and tools is defined %}
    {{- "Tools at hand: ipython\\n" }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{%- for t in tools or [] %}
    {{- t | tojson(indent=4) }}
    {{- "\\n\\n" }}
{%- endfor %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}""",
    "falcon": """{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}{% if message['role'] == 'system' %}{{ 'System: ' + message['content'].strip() }}{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] | trim | replace('\\n\\n', '\\n') }}{% elif message['role'] == 'assistant' %}{{ 'Falcon: ' + (message.content or '') }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\\n' + 'Falcon:' }}{% endif %}""",
    "falcon_h1": """{{bos_token}}{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages and messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}{{- "You may call:\\n<tools>" }}{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}{{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages and messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages -%}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}{{- '<|im_start|>' + message.role }}{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}{%- for call in message.tool_calls %}{%- if call.function is defined %}{%- set call = call.function %}{%- endif %}{{- '\\n<tool_call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}{{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}{%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}{{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}{%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    "lfm2": """{{- bos_token -}}
{%- set system_prompt = "" -%}
{%- set ns = namespace(system_prompt="") -%}
{%- if messages and messages[0]["role"] == "system" -%}
    {%- set ns.system_prompt = messages[0]["content"] -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
    {%- set ns.system_prompt = ns.system_prompt + ("\\n" if ns.system_prompt else "") + "List of tools: <|tool_list_start|>[" -%}
    {%- for tool in tools -%}
        {%- if tool is not string -%}
            {%- set tool = tool | tojson -%}
        {%- endif -%}
        {%- set ns.system_prompt = ns.system_prompt + tool -%}
        {%- if not loop.last -%}
            {%- set ns.system_prompt = ns.system_prompt + ", " -%}
        {%- endif -%}
    {%- endfor -%}
    {%- set ns.system_prompt = ns.system_prompt + "]<|tool_list_end|>" -%}
{%- endif -%}
{%- if ns.system_prompt -%}
    {{- "<|im_start|>system\\n" + ns.system_prompt + "<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
    {{- "<|im_start|>" + message["role"] + "\\n" -}}
    {%- set content = message["content"] -%}
    {%- if content is not string -%}
        {%- set content = content | tojson -%}
    {%- endif -%}
    {%- if message["role"] == "tool" -%}
        {%- set content = "<|tool_response_start|>" + content + "<|tool_response_end|>" -%}
    {%- endif -%}
    {{- content + "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}""",
    "granite": """{%- if messages and messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = "Knowledge cutoff: April.\\nToday's Date: " + strftime_now('%B %d, %Y') + "." %}{%- if tools and documents %}{%- set system_message = system_message + " Tools and documents." %}{%- elif tools %}{%- set system_message = system_message + " Tools." %}{%- endif %}{%- set loop_messages = messages %}{%- endif %}{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}
{%- if tools %}{{- '<|start_of_role|>tools<|end_of_role|>' }}{{- tools | tojson(indent=4) }}{{- '<|end_of_text|>\\n' }}{%- endif %}
{%- for message in loop_messages %}{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + (message['content'] if message['content'] is string else message['content'] | tojson) + '<|end_of_text|>\\n' }}{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}{%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}{{- '<|end_of_role|>' }}{%- endif %}{%- endfor %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + (message['content'] | default('', true)) + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "mistral": """{%- set loop_messages = messages | rejectattr("role", "equalto", "system") | list %}
{%- set systems = messages | selectattr("role", "equalto", "system") | map(attribute="content") | list %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + (systems | join("\\n\\n") + "\\n\\n" if loop.first and systems else "") + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] " + (message.tool_calls | map(attribute="function") | list | tojson) + eos_token }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] in ["tool", "tool_results"] %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {%- if not message.tool_call_id is defined or message.tool_call_id|length != 9 %}
            {{- raise_exception("a call id has nine characters") }}
        {%- endif %}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
""",
    "nemotron": """{% macro part(content) -%}
  {%- if content is string -%}{{ content }}{%- elif content is iterable -%}{%- for c in content -%}{%- if c is mapping and c.type == 'text' -%}{{ c.text }}{%- else -%}{{ c }}{%- endif -%}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{% set ns = namespace(think=true, last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% if '/no_think' in m.content %}{% set ns.think = false %}{% endif %}{% endif %}{% endfor %}
<SPECIAL_10>System
{% for m in messages if m.role == 'system' %}{{ part(m.content) | trim }}
{% endfor %}
{% for m in messages if m.role != 'system' %}
{% if m.role == 'user' %}
<SPECIAL_11>User
{{ part(m.content).replace('/no_think', '').strip() }}
{% elif m.role == 'assistant' %}
<SPECIAL_11>Assistant
{% generation %}{% set content = m.content or '' %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}{{ content }}{% endgeneration %}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<SPECIAL_11>Assistant
{{ '<think>\\n' if ns.think else '<think></think>' }}{% endif %}""",
    "jamba": """{# Turns are joined;
 two of one role in a row, too. #}
{%- set ns = namespace(previous='') -%}
{%- for m in messages -%}
  {%- set same = m.role == ns.previous -%}
  {{- '\\n' if same else ('<|bom|><|' ~ m.role ~ '|> ') -}}
  {{- m.content if m.content is string else m.content | map(attribute='text') | join('\\n') if m.content is iterable else '' -}}
  {%- if loop.last or loop.nextitem.role != m.role %}{{ '<|eom|>' }}{% endif -%}
  {%- set ns.previous = m['role'] -%}
{%- else -%}
  nothing was said
{%- endfor -%}
{%- if add_generation_prompt %}<|bom|><|assistant|>{% endif %}
""",
}

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather of a \"place\"\n", "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 1}}, "required": ["place"]}}},
         {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}, "items": [0.5, 1e20, 3, True, None]}}}]
U = lambda text: {"role": "user", "content": text}
A = lambda text: {"role": "assistant", "content": text}
S = lambda text: {"role": "system", "content": text}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2}}}]}
TOOL = {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": "12 °C"}
CONVERSATIONS = {
    "empty": [], "user": [U("Hello")], "system": [S("  Be kind. \n"), U("Hi\n\nthere ")],
    "turns": [U("1+1?"), A(" 2 "), U("And <b>1+2</b>?")], "long": [S("x"), U("a"), A("<think>\nhm</think>\n\nb"), U("c /no_think"), A(""), U("d")],
    "unicode": [S("日本語で。"), U("Grüße 🎉 'quote' \"double\" \\n é"), A("\u00a0ok\u2003"), U("{{ messages }} {% if %}")],
    "tools": [U("Weather?"), CALL, TOOL, A("12 degrees."), U("Thanks")], "tool_twice": [S("s"), U("q"), CALL, TOOL, TOOL],
    "parts": [U([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])], "two_users": [U("a"), U("b"), A("c")], "no_role": [{"content": "x"}],
}

# One construct each. v: the variables below.
V = {"a": "Hello, World", "b": "", "n": 7, "m": -3, "x": 2.5, "t": True, "f": False, "z": None, "l": [3, 1, 2], "e": [], "s": ["b", "A", "c"],
     "d": {"k": 1, "items": "hidden", "x": {"y": [10, 20]}}, "u": "äöÜ ßé 日本🎉", "w": " \t pad\n ", "r": [{"n": "p", "v": 1, "g": {"h": "q"}}, {"n": "o", "v": 0}, {"n": "r", "v": 3}]}
EXPRESSIONS = """a;b;n;m;x;t;f;z;l;e;s;d;u;w;missing;missing.x;missing[0];a.missing;a.missing.x;d.missing;d.missing.x;d['missing'];n.foo;z.foo;l.foo;l[0];l[-1];l[5];l['a'];a[0];a[-1];a[99];u[3];u[-1];d.k;d['k'];d['items'];d.x.y[1];d.x.y.0;d.x['y'][0]
a[1:4];a[:-3];a[::-1];a[10:2:-2];l[1:];l[:-1];l[::-1];l[5:];u[4:9];l[-2:];e[1:];(1,2,3)[1:];l[::2];a[-100:100];l[n:];l[none:2];z[1:];d[1:];a['x':]
n + m;n - m;n * m;n / m;n // m;n % m;m // n;m % n;n ** 2;2 ** -1;-n;+n;-m ** 2;n + x;x * x;n / 2;7 // 2.0;1 / 0;1 % 0;t + t;-t;a + b;a + n;n + a;l + e;l + a;l * 2;2 * l;a * 2;a * -1;'-' * 3;[1] + (2,);(1,) + (2,);z + 1;missing + a;a + missing;1 + 2 * 3;(1 + 2) * 3;2 ** 3 ** 2;9223372036854775807;10 - 3 - 2;100 // 7 % 4
a ~ n ~ x ~ z ~ t ~ l ~ d.x ~ missing;1 ~ 2 + 3;'a' ~ 'b' ~ 1 * 2;'a' 'b' "c";1.0;1.5e3;1e16;1e15;0.1 + 0.2;1e-5;0.0001;123456789.123;1e22;-0.0;2.0;1e100;0.5
n == 7;n == 7.0;t == 1;f == 0;a == 'Hello, World';z == none;l == [3,1,2];l == (3,1,2);d == {'k': 1};missing == missing2;missing == z;n != 7;n > 3;n >= 7;n < m;n <= 7 <= 8;1 < 2 < 3;3 > 2 > 2;a < 'Z';'a' < 'B';l < [3,2];n < a;z < 1;t < 2;missing < 1;1 == 1 == 1;1 in [1,2];4 in l;'W' in a;'' in a;'k' in d;'q' in d;n in a;'a' not in a;1 not in l;'x' in missing;z in [none];t in [1];not 1 in [1];n in z;a in [a];'b' in s
t and f;t or f;not t;not a;a and n;b or 'x';z or e or 0;t and a;not t or t;not (t or f);n and missing;missing or 1;1 if t else 2;1 if f else 2;1 if f;'x' ~ (1 if f) ~ 'y';1 if t else 2 if f else 3;1 if f else 2 if t else 3;(1 if t else 2) + 1;t and not f and n > 3;a and b;not not a;none is none and true
n is defined;missing is defined;missing is not defined;missing is undefined;d.q is defined;d.k is defined;z is none;n is not none;a is string;n is string;d is mapping;l is mapping;l is iterable;a is iterable;n is iterable;z is iterable;missing is iterable;l is sequence;d is sequence;a is sequence;n is sequence;missing is sequence;n is number;t is number;a is number;x is float;n is float;n is integer;t is integer;t is boolean;n is boolean;t is true;f is false;t is false;n is true;n is odd;n is even;m is odd;n is divisibleby(7);n is divisibleby 3;n is divisibleby 0;n is eq 7;n is equalto(7);n is ne 7;n is lt 8;n is ge(8);n is gt 3;n is le 7;n is in [7];a is in d;n is greaterthan 3;n is lessthan 3;not n is odd;n is not odd and t;a is string and n is number;n is nothing;a.upper is callable;range is callable;n is callable;'x' if n is odd else 'y';n is odd == true;1 + 1 is odd;(1 + 2) is odd;a is string is defined
w | trim;w.strip();w.lstrip();w.rstrip();'xxaxx' | trim('x');'xyaxy'.strip('yx');'xya'.lstrip('x');n | trim;a | upper;a | lower;u | upper;u[:4] | upper;u[:4].lower();'ää éé'.title();'éA bC-dE f1g 3h'.title();a.upper();a.capitalize();'hELLO wORLD' | capitalize;'éa' | capitalize;"it's a dog's life".title();a | length;u | length;l | length;d | length;e | length;z | length;n | length;missing | length;d | count;l | join;l | join(', ');s | join('-');e | join('x');a | join('.');[1, none, true, 2.0, 'x', missing] | join('|');r | join(',', attribute='n');d | join(' ');n | join
l | first;l | last;a | first;a | last;e | first;e | last;u | last;e | first | default('none');missing | first;n | first;l | list;a | list;d | list;n | list;missing | list;l | reverse | list;a | reverse;d | first;d | last;(1,2) | list;range(3) | list
missing | default('x');b | default('x');b | default('x', true);z | default('x');z | d('x', boolean=true);missing | default;d.q.r | default('x');d.q | default('x');n | default(1);missing | default(n + 1);f | default('x', true)
a | replace('l', 'L');a | replace('l', 'L', 1);a.replace('o', '0');a.replace('l', '', 2);a | replace('', '-');'abc'.replace('', '.');'abc'.replace('', '.', 2);u.replace('', '|');n | replace(7, 8);'aaaa'.replace('aa', 'b');a | replace('x');'ababab'.replace('aba', 'x');''.replace('', 'x');'a'.replace('a', 'aa')
d | tojson;l | tojson;a | tojson;u | tojson;n | tojson;x | tojson;z | tojson;t | tojson;w | tojson;'"\\\\/\\u0001\\x7f' | tojson;missing | tojson;d | tojson(indent=2);e | tojson(indent=2);{} | tojson(indent=2);[[], {}, [1]] | tojson(indent=3);d | tojson(sort_keys=true);u | tojson(ensure_ascii=true);l | tojson(separators=(',', ':'));d | tojson(separators=(',', ':'), indent=1);(1, 2) | tojson;1e20 | tojson;[1.5, -2, 1e-7] | tojson;d.items() | tojson;a.upper | tojson;r | tojson;d | tojson(none);d | tojson(indent=0);{'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true)
r | selectattr('v') | list;r | selectattr('v', 'eq', 1) | list;r | selectattr('v', 'gt', 0) | map(attribute='n') | list;r | rejectattr('v') | map(attribute='n') | join;r | selectattr('g') | list;r | selectattr('g', 'defined') | map(attribute='g.h') | list;r | map(attribute='g') | list;r | map(attribute='g', default='-') | map('string') | list;r | map(attribute='g.h') | list;s | map('upper') | join;s | map('replace', 'A', 'B') | list;l | select('odd') | list;l | reject('odd') | list;[0, 1, '', 'x', none] | select | list;l | select('gt', 1) | list;l | select('in', [1, 2]) | list;r | selectattr('n', 'in', ['p', 'r']) | map(attribute='v') | list;r | map(attribute='n') | first;r | selectattr('v') | length;r | selectattr('n', 'string') | list | length;r | selectattr('v', 'equalto', 3) | first;d.x | map(attribute='y') | list;[[1, 2], [3]] | map(attribute=0) | list;[[1, 2], [3]] | map('length') | list;[[1, 2], [3]] | map('first') | list;l | map('nothing') | list;l | map | list;missing | selectattr('x') | list
d | items | list;d.items() | list;d.keys() | list;d.values() | list;d.get('k');d.get('q');d.get('q', 5);d.get('k', 5);d.get(1);missing | items | list;l | items | list;d.items() | length;d.keys() | join(',');d.items()[0];d.copy();d.x.y.index(20);l.count(1);l.index(9);d.pop('k');l.append(4);d.update({});l.sort();d.nothing();a.nothing();a.encode();l.clear()
a.split();a.split(', ');a.split(',', 1);a.split('o');w.split();' a  b '.split(' ');'a,b,c'.split(',', 1)[1];''.split();''.split(',');a.split('');'a b c'.split(none, 1);'a b c'.split(maxsplit=1);' a b '.split(none, 0);a.split(sep='l', maxsplit=2);u.split(' ');'x\\x1cy\\x85z'.split()
a.startswith('Hell');a.startswith('x');a.startswith(('x', 'H'));a.endswith('d');a.endswith(('x', 'y'));a.startswith('');a.startswith(1);a.startswith();a.find('o');a.find('zz');u.find('日');a.count('l');a.count('');a.removeprefix('Hello');a.removesuffix('x');a.removesuffix('World');', '.join(s);', '.join(l);''.join([]);'-'.join('abc');a.strip('Hd');a.upper().lower();'a'.join(e)
'7' | int;'x' | int;'x' | int(5);' 12 ' | int;'2.9' | int;x | int;z | int;t | int;m | abs;x | float;n | float;n | string;t | string;l | string;'a' | string | length;(n | string) + 'x';-2.5 | int;-2.5 | abs;missing | int;'1e3' | int;'+5' | int
range(3);range(3) | list;range(1, 4) | list;range(4, 0, -2) | list;range(0) | list;range(3)[1];range(100001) | list;range(2) | length;range(1, 2, 0) | list;range(3)[-1];range('a');1 in range(3);range(3) == range(0, 3)
{'a': 1, 'b': [2]};{'a': 1, 'a': 2};{}['x'];{'a': 1}.a;{'a': 1,};[1, 2,];();(1,);(1, 2);1, 2;1,;['it''s', "it's", 'a"b', '\\'"'];['\\n\\t\\r\\\\', '\\x00\\x1f\\x7f', 'é日🎉', '\\u200b\\u00a0\\u2028'];[1, 2.0, true, none, missing];[missing];{'x': missing};(none, [()]);'a\\x41\\u00e9\\U0001F389\\d';"a\\'b";'\\a\\b\\f\\v' | tojson;dict(a=1, b=2);dict({'a': 1}, b=2);namespace(a=1).a;namespace(a=1)['a'];namespace(a=1).b;{'a': {'b': {'c': 1}}}.a.b.c;{'x y': 1}['x y'];[[1, [2, [3]]]];{1: 2}['x']
raise_exception('no');strftime_now('%Y-%m-%d');strftime_now('%d %b %Y, %H:%M:%S %A %B %j');strftime_now('');unknown();a();n();(a | upper)[0];(a | upper).lower();a | upper | lower | length;a|upper~'x';-n | abs;-(n | abs);n | abs + 1;[1, 2] | length * 2;l | sort | first;a | nothing;a | safe;a | upper | safe;loop;loop.index;a | trim(chars='Hd');a | default(value='x');self;a.__class__;d.__len__();a.format(1);'%s' % 1;a is filter('x');true;True;false;none;None;nONE;not;1 2;a b;(1;[1;{1;1 +;a.;a|;a is;.5;1.;01;1_000;0x10;a['k;"x;a @ b;a && b;!a;a ? b : c;[x for x in l];lambda: 1;a[1, 2];f(*l);a := 1""".replace("it''s", "it\\'s")
BLOCKS = [
    "{% for i in l %}{{ i }}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}", "{% for i in e %}x{% else %}none{% endfor %}", "{% for i in missing %}x{% else %}none{% endfor %}",
    "{% for i in l if i > 1 %}{{ i }}/{{ loop.length }}{% else %}none{% endfor %}", "{% for i in l if i > 9 %}{{ i }}{% else %}none{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d | items %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }};{% endfor %}", "{% for c in u %}{{ c }}.{% endfor %}", "{% for (p, q) in [(1, 2), [3, 4], 'xy'] %}{{ p }}{{ q }} {% endfor %}",
    "{% for p, q in [(1, 2, 3)] %}{% endfor %}", "{% for p in z %}{% endfor %}", "{% for p in n %}{% endfor %}", "{% for i in [1, 2] %}{% for j in [1, 2] %}{{ i }}{{ j }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% for i in [1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% break %}", "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for i in l %}{{ loop.changed(i) }}{% endfor %}x",
    "{% for i in l %}{% set outer = loop %}{% for j in l %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}", "{% set q = r | selectattr('v') %}{% for i in q %}{{ i.n }}{% endfor %}{% for i in q %}{{ i.n }}{% endfor %}{{ q is defined }}{{ 1 if q else 2 }}",
    "{% set k = 1 %}{% for i in l %}{{ k }}{% set k = i %}{{ k }} {% endfor %}{{ k }}", "{% if t %}{% set k = 5 %}{% endif %}{{ k }}", "{% set ns = namespace(c=0) %}{% for i in l %}{% set ns.c = ns.c + i %}{% endfor %}{{ ns.c }}", "{% set ns = namespace() %}{% set ns.q = 1 %}{{ ns.q }}{{ ns.none }}",
    "{% set d.k = 2 %}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set (a, b) = l[:2] %}{{ a }}{{ b }}", "{% set a, b = 1 %}", "{% set k = 1, 2 %}{{ k }}", "{% set k %}text {{ n }}{% endset %}[{{ k }}]{{ k is string }}", "{% set k | upper %}text{% endset %}{{ k }}", "{% set loop2 = 1 %}{{ loop2 }}", "{% set true = 1 %}",
    "{% if f %}1{% elif n == 7 %}2{% elif t %}3{% else %}4{% endif %}", "{% if f %}1{% elif f %}2{% else %}4{% endif %}", "{% if f %}1{% endif %}", "{% if missing %}1{% else %}2{% endif %}", "{% if missing.x %}1{% endif %}", "{% if n > 3 and not f %}y{% endif %}", "{% if a, b %}t{% endif %}",
    "{% macro p(x, y=2, z='q') %}({{ x }}{{ y }}{{ z }}){% endmacro %}{{ p(1) }}{{ p(1, 3) }}{{ p(1, z=4) }}{{ p(x=5) }}{{ p() }}", "{% macro p(x) %}{{ x }}{% endmacro %}{{ p(1, 2) }}", "{% macro p(x) %}{{ x }}{% endmacro %}{{ p(y=2) }}", "{% macro p(x) %}{{ x }}{{ n }}{{ later }}{% endmacro %}{% set later = 9 %}{{ p(1) }}x",
    "{% macro f(k) %}{{ k }}{% if k > 0 %}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro p(x, y=x) %}{{ y }}{% endmacro %}{{ p(3) }}", "{% for i in l %}{{ p is defined }}{% endfor %}", "{% macro p() %}{% for i in l %}{{ i }}{% endfor %}{% endmacro %}{{ p() | upper }}{{ p().strip('3') }}", "{% for i in l %}{% macro q() %}{{ i }}{% endmacro %}{% endfor %}{{ q is defined }}",
    "{# comment #}x{#- c -#} y {#- {{ broken -#}\nz", "a\n{# c #}\nb", "  {# c #}\nb", "{# x", "{{", "{%", "{% if", "{{ a", "{% endif %}", "{% if t %}", "{% for i in l %}", "{% for i l %}{% endfor %}", "{% else %}", "{% nothing %}", "{% include 'x' %}", "{% if t %}{% else %}{% else %}{% endif %}",
    "a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "a\n  {%- if t -%}\n  b\n  {%- endif -%}\nc\n", "a {%+ if t +%}\n  b\n  {%+ endif %}\nc\n\n", "  {{ n }}\n  {{- n -}}\n  x  {{ n }}\n\n", "{% if t %}\n\n\nx{% endif %}\n\n", "x {% if t %} {% endif %} y\n{% if t %} {% endif %}", "a\r\n{% if t %}\r\nb\r{% endif %}\r\n", "\n{% if t %}\n{{ n }}\n{% endif %}\n\n\n", "\t{% if t %}\tx{% endif %}\t\n\t{% if t %}", " {%- set k = 1 %} x {% set k = 2 -%} y", "x\u00a0{%- if t %}\u2003{%- endif -%}\u3000y", "\u00a0{% if t %}x{% endif %}",
    "{{ '{{ x }}' }}{{ '%}' }}{{ \"}}\" }}{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a': {'b': 1}} }}", "{{ '\n' }}|{{ 'a\r\nb' }}", "{ { n } } {n} { % % } #} %} }}", "{{ n }}{{-n}}{{+n}}{{ n-}}{{- -n -}}", "{% generation %}\nx{{ n }}\n{% endgeneration %}\ny", "{% raw %}{{ n }}{% endraw %}", "{{\nn\n}}{%\nif t\n%}x{%\nendif\n%}", "", "\n", "\n\n", "x", "é{{ u }}日", "{% set x = [] %}{% set _ = x.append(1) %}{{ x }}", "{{ n }}\n\n{{ n }}\n", "{% set ns = namespace(x=[]) %}{% for i in l %}{% set ns.x = ns.x + [i * 2] %}{% endfor %}{{ ns.x }}{{ ns.x | join(',') }}",
    "{%- for i in range(3) -%} {{ i }} {%- if not loop.last -%} , {%- endif -%} {%- endfor %}", "{% with %}{% endwith %}", "{% call p() %}{% endcall %}", "{% filter upper %}x{% endfilter %}", "{% if t -%} x {%- else -%} y {%- endif -%} z", "{% for i in 'ab' %}{% set i = i ~ i %}{{ i }}{% endfor %}{{ i }}", "{% set i = 0 %}{% for i in l %}{% endfor %}{{ i }}", "{% for i in l %}{% else %}{% set k = 1 %}{% endfor %}{{ k }}", "{% for i in e %}{% else %}{% set k = 1 %}{{ k }}{% endfor %}{{ k }}", "{% for a in l recursive %}{{ a }}{% endfor %}",
]

# What jinja2 renders and klens refuses.
OUTSIDE = ["{{ " + e + " }}" for e in """2 ** -1;7 // 2.0;u | upper;a.encode();range(3);{1: 2}['x'];l | sort | first;self;a.__class__;a.format(1);'%s' % 1;1_000;0x10;a[1, 2]""".split(";")] + [
    "{% for i in l %}{{ loop.changed(i) }}{% endfor %}x", "{% set k | upper %}text{% endset %}{{ k }}", "{% for i in l %}{% macro q() %}{{ i }}{% endmacro %}{% endfor %}{{ q is defined }}",
    "{% raw %}{{ n }}{% endraw %}", "{% with %}{% endwith %}", "{% filter upper %}x{% endfilter %}", "{% for a in l recursive %}{{ a }}{% endfor %}"]

cases = []
for name, style in STYLES.items():
    for conversation, messages in CONVERSATIONS.items():
        for add in (False, True):
            for tools in (None, TOOLS):
                if tools and (add or conversation not in ("user", "system", "tools", "empty")):
                    continue
                variables = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": add, "bos_token": "<s>", "eos_token": "</s>"}
                cases.append({"style": name, "conversation": conversation, "tools": tools is not None, "add": add, "output": render(style, variables)})
templates = ["{{ " + e + " }}" for line in EXPRESSIONS.split("\n") for e in line.split(";")] + BLOCKS
assert set(OUTSIDE) <= set(templates)
pieces = [[t, render(t, V), t in OUTSIDE] for t in templates]
json.dump({"styles": STYLES, "conversations": CONVERSATIONS, "tools": TOOLS, "variables": V, "cases": cases, "pieces": pieces}, sys.stdout, ensure_ascii=False, indent=0)
