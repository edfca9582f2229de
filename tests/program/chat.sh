#!/bin/sh
# klens generate --chat: the template of a folder, turns of a conversation in a session, end tokens, and what
# generation_config.json says about sampling; all of it packed, and in a GGUF file.
set -u
. "$2/tests/program/support.sh"

made() {
  good generate "$@" --json
  ids=$(sed -n 's/.*"ids":\[\([0-9,]*\)\].*/\1/p' out)
}
says() { grep -q -e "$1" "$2" || die "$2 does not say $1: $(cat "$2")"; }

# Without a template: an error that says so, for a folder and for a packed file.
bad 1 'chat_template' generate "$model" --chat --prompt Hello
good pack "$model" --uniform w4g32 -o w4g32.klens
bad 1 'w4g32.klens: chat template: expected a chat template, found none' generate w4g32.klens --chat --prompt Hello
bad 2 'requires --chat\|chat' generate "$model" --system x --prompt Hello

# A rendered prompt is the same tokens as that text typed in, without what the tokenizer would put in front.
copy_model talk
cat >talk/tokenizer_config.json <<'JSON'
{"bos_token": "<b>", "eos_token": {"content": "<e>"},
 "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"}
JSON
made talk --chat --system 'Be brief.' --prompt 'It was the best' --tokens 12 --session one.session
chatted=$ids
says '"prompt":"system: Be brief.\\nuser: It was the best\\nassistant: "' out
printf 'system: Be brief.\nuser: It was the best\nassistant: ' >prompt.txt
made talk --prompt-file prompt.txt --tokens 12
[ "$ids" = "$chatted" ] || die "the rendered prompt made $chatted, the same text $ids"
# Only the reply is shown.
good generate talk --chat --system 'Be brief.' --prompt 'It was the best' --tokens 12
if grep -q 'user: ' out; then die "the prompt is shown"; fi

# A second turn goes on where the session stands: the rest of the template's text for all messages, nothing twice.
says '"role": "assistant"' one.session.chat.json
cp one.session before.session && cp one.session.chat.json before.session.chat.json
made talk --chat --prompt 'And the worst' --tokens 8 --session one.session
says '"prompt":"\\nuser: And the worst\\nassistant: "' out
second=$ids
printf '\nuser: And the worst\nassistant: ' >rest.txt
made talk --prompt-file rest.txt --tokens 8 --session before.session
[ "$ids" = "$second" ] || die "the second turn made $second, the same text $ids"
# The session went on without --chat: its messages are no longer what it holds.
bad 1 'before.session.chat.json.*without --chat' generate talk --chat --prompt x --session before.session
rm before.session.chat.json
bad 1 'not begun with --chat' generate talk --chat --prompt x --session before.session
bad 2 'system' generate talk --chat --system y --prompt x --session one.session
# A template that writes earlier turns in another way cannot go on.
sed 's/{{ m.content }}/{{ m.content | upper }}/' talk/tokenizer_config.json >changed && cp changed talk/tokenizer_config.json
bad 1 'one.session.chat.json.*goes on' generate talk --chat --prompt x --session one.session
printf '{' >one.session.chat.json
bad 1 'one.session.chat.json' generate talk --chat --prompt x --session one.session

# chat_template.jinja stands before the other; its faults name file, line and construct.
printf 'first\n{{ messages | nothing }}' >talk/chat_template.jinja
bad 1 "chat_template.jinja: line 2: .*the filter 'nothing'" generate talk --chat --prompt x
printf '{{ raise_exception("no " ~ messages[0].role) }}' >talk/chat_template.jinja
bad 1 'refuses: no user' generate talk --chat --prompt x
printf '{{ strftime_now("%%d %%B %%Y") }}: {{ messages[0].content }}' >talk/chat_template.jinja
bad 1 'a date' generate talk --chat --prompt x
made talk --chat --prompt x --tokens 2 --date 2026-07-26
says '"prompt":"26 July 2026: x"' out
bad 2 'date' generate talk --chat --prompt x --date 2026-02-30

# generation_config.json: what it says stands in for what is not given, and is told; only where it says do_sample.
printf '{"do_sample": true, "temperature": 0.9, "top_k": 50, "top_p": 0.95, "eos_token_id": [4000, 4001]}' >talk/generation_config.json
made talk --prompt 'It was' --tokens 12 --seed 5
sampled=$ids
says '"generation_config":"temperature 0.9, top_k 50, top_p 0.95, end tokens 4000 4001"' out
made "$model" --prompt 'It was' --tokens 12 --seed 5 --temperature 0.9 --top-k 50 --top-p 0.95
[ "$ids" = "$sampled" ] || die "the file's values made $sampled, the same as options $ids"
good generate talk --prompt 'It was' --tokens 12 --seed 5
says '^from generation_config.json: temperature 0.9, top_k 50, top_p 0.95, end tokens 4000 4001$' err
made talk --prompt 'It was' --tokens 12 --temperature 0
greedy=$ids
[ "$greedy" != "$sampled" ] || die "--temperature 0 did not win over the file"
printf '{"temperature": 0.9, "top_k": 50}' >talk/generation_config.json
made talk --prompt 'It was' --tokens 12
[ "$ids" = "$greedy" ] || die "a temperature was taken without do_sample"
if grep -q generation_config out; then die "nothing was taken, yet it is told"; fi
printf '{"do_sample": true, "top_p": 3}' >talk/generation_config.json
bad 1 'generation_config.json.*top_p' generate talk --prompt x

# Packed: the same text, ids and sampling as the folder, and a conversation goes on in the file.
rm -r talk && copy_model talk
cat >talk/tokenizer_config.json <<'JSON'
{"bos_token": "<b>", "eos_token": {"content": "<e>"}, "chat_template": "from tokenizer_config.json"}
JSON
printf '{%% for m in messages %%}{{ m.role }}: {{ m.content }}\n{%% endfor %%}{%% if add_generation_prompt %%}assistant: {%% endif %%}' \
  >talk/chat_template.jinja
printf '{"do_sample": true, "temperature": 0.9, "top_k": 50, "eos_token_id": [4000, 4001]}' >talk/generation_config.json
good pack talk --uniform f32 -o talk.klens
for given in talk talk.klens; do
  made $given --chat --prompt 'It was the best' --tokens 12 --seed 5 --session $given.session
  says '"prompt":"user: It was the best\\nassistant: "' out
  says '"generation_config":"temperature 0.9, top_k 50, end tokens 4000 4001"' out
  first=$ids
  made $given --chat --prompt 'And the worst' --tokens 8 --seed 5 --session $given.session
  first="$first / $ids"
  good generate $given --prompt 'It was' --tokens 12 --seed 5
  [ "$given" = talk ] && whole="$first $(cat out)"
done
[ "$first $(cat out)" = "$whole" ] || die "packed it makes $first $(cat out), the folder $whole"
says '^from talk.klens: generation config: temperature 0.9, top_k 50, end tokens 4000 4001$' err
# What klens cannot render is packed all the same, and told where it is used; a broken folder is told when packing.
printf 'first\n{{ messages | nothing }}' >talk/chat_template.jinja
good pack talk --uniform w4g32 -o talk.klens
bad 1 "talk.klens: chat template: line 2: .*the filter 'nothing'" generate talk.klens --chat --prompt x
good generate talk.klens --prompt x --tokens 2
rm talk/chat_template.jinja && printf '{"chat_template": 3}' >talk/tokenizer_config.json
"$klens" pack talk --uniform w4g32 -o talk.klens >out 2>err || die 'packing stopped at a chat template'
says '^klens: warning: packed without a chat template: talk/tokenizer_config.json' err

# A GGUF file: its template, end tokens (eos and eot) and recommended sampling; packed they stay.
gguf=$root/tests/data/gguf/chat.gguf
good pack "$gguf" --uniform f32 -o gguf.klens
for given in "$gguf" gguf.klens; do
  made "$given" --chat --prompt 'Hello' --tokens 12 --seed 3
  says '"prompt":"<bos>user: Hello\\nassistant: "' out
  says '"generation_config":"temperature 0.75, top_k 40, top_p 0.875, min_p 0.0625, repetition_penalty 1.25, end tokens 1 2"' out
  [ "$given" = "$gguf" ] && first=$ids
done
[ "$ids" = "$first" ] || die "packed the GGUF file makes $ids, itself $first"
good generate "$gguf" --prompt 'Hello' --tokens 4
says 'chat.gguf: generation config: temperature 0.75' err
made "$gguf" --prompt 'Hello' --tokens 200 --seed 1 --temperature 4 --top-k 0 --top-p 1 --min-p 0
says '"ended":"eos"' out
done_with
