#!/bin/sh
# klens generate: where a text ends, sessions that go on, Ctrl-C, and the same text wherever the prompt comes from.
set -u
. "$2/tests/program/support.sh"

# Runs generate; ids go to $ids, the rest of the JSON to `out`.
made() {
  good generate "$@" --json
  ids=$(sed -n 's/.*"ids":\[\([0-9,]*\)\].*/\1/p' out)
}
says() { grep -q -e "$1" out || die "the output does not say $1: $(cat out)"; }
same() { cmp -s "$1" "$2" || die "$1 and $2 differ"; checks=$((checks + 1)); }

sampling='--temperature 0.9 --top-k 50 --top-p 0.95 --min-p 0.01 --repetition-penalty 1.1 --repetition-window 32 --seed 5'
prompt='It was the best of times'

# The prompt from an option, a file and a pipe.
good generate "$model" --prompt "$prompt" --tokens 12 && cp out first
printf '%s' "$prompt" >prompt.txt
good generate "$model" --prompt-file prompt.txt --tokens 12 && same out first
printf '%s' "$prompt" | "$klens" generate "$model" --tokens 12 >out 2>err || die "generate from a pipe"
same out first
printf '%s' "$prompt" | "$klens" generate "$model" --prompt-file - --tokens 12 >out 2>err || die "generate --prompt-file -"
same out first
grep -q 'tokens/s' err || die "no speed on stderr"
good pack "$model" --uniform w4g32 -o packed.klens && good generate packed.klens --prompt "$prompt" --tokens 12 && cp out mapped
good generate packed.klens --prompt "$prompt" --tokens 12 --no-mmap && same out mapped
[ "$(head -c 24 first)" = "$prompt" ] || die "the prompt is not shown"
[ "$(wc -l <first)" -ge 1 ] || die "no new line at the end"

# Two runs and one long run: the same tokens, the same text, the same bytes of the session; on another level, with other threads.
# shellcheck disable=SC2086
{
  made "$model" --prompt "$prompt" --tokens 40 --session one.session $sampling && whole=$ids
  made "$model" --prompt "$prompt" --tokens 17 --session two.session $sampling --threads 1 && part=$ids
  made "$model" --tokens 23 --session two.session $sampling --threads 2 --isa ref
}
[ "$part,$ids" = "$whole" ] || die "two runs made $part,$ids and one $whole"
same one.session two.session
says '"length":'
# shellcheck disable=SC2086
made "$model" --prompt "$prompt" --tokens 40 $sampling
[ "$ids" = "$whole" ] || die "--session changed the text"
# shellcheck disable=SC2086
made "$model" --prompt "$prompt" --tokens 40 ${sampling%5}6
[ "$ids" != "$whole" ] || die "another seed gave the same text"
# A session goes on with a new prompt, too: as if the whole text had been one prompt of these tokens.
good generate "$model" --prompt 'A new chapter.' --tokens 4 --session two.session
good generate "$model" --prompt 'A new chapter.' --tokens 4 --session one.session
same one.session two.session

# Text in pieces is the text in one piece, also where a run ends within a character; and it is UTF-8.
good generate "$model" --prompt x --tokens 60 --temperature 100 --seed 3 && cp out whole.txt
iconv -f UTF-8 -t UTF-8 whole.txt >iconv.out 2>err || die "the text is not UTF-8"
good generate "$model" --prompt x --tokens 1 --temperature 100 --seed 3 --session pieces.session
head -c -1 out >pieces.txt   # without the new line at the end
i=1
while [ "$i" -lt 60 ]; do
  good generate "$model" --tokens 1 --temperature 100 --seed 3 --session pieces.session
  head -c -1 out >>pieces.txt
  i=$((i + 1))
done
echo >>pieces.txt
same pieces.txt whole.txt

# Stop texts, within and across tokens; the text that was made up to there is the same.
made "$model" --prompt "$prompt" --tokens 40
text=$(sed -n 's/.*"text":"\(.*\)","threads".*/\1/p' out)
stop=$(printf '%s' "$text" | cut -c 21-27)
before=$(printf '%s' "$text" | awk -v s="$stop" '{ print substr($0, 1, index($0, s) - 1) }')
good generate "$model" --prompt "$prompt" --tokens 40 --stop "$stop" --json
says '"ended":"stop"'
[ "$(sed -n 's/.*"text":"\(.*\)","threads".*/\1/p' out)" = "$before" ] || die "stopped at '$stop', the text should be '$before': $(cat out)"
good generate "$model" --prompt "$prompt" --tokens 40 --stop "never in this text" --stop "$stop"
[ "$(cat out)" = "$prompt$before" ] || die "stopped at '$stop', found '$(cat out)'"

# The end token of generation_config.json, of config.json, and of tokenizer_config.json.
made "$model" --prompt "$prompt" --tokens 20
fifth=$(echo "$ids" | cut -d, -f5)
up_to=$(echo "$ids" | awk -F, -v e="$fifth" '{ s = ""; for (i = 1; i <= NF; ++i) { s = s (i > 1 ? "," : "") $i; if ($i == e) break } print s }')
ends() {
  made broken --prompt "$prompt" --tokens 20 "$@"
  [ "$ids" = "$up_to" ] || die "made $ids, expected the end after $up_to"
  says '"ended":"eos"'
}
copy_model broken
printf '{"eos_token_id": [4000, %s]}' "$fifth" >broken/generation_config.json
ends
ends --session ended.session
made broken --tokens 20 --session ended.session
[ -z "$ids" ] || die "a sequence that has ended went on with $ids"
says '"ended":"eos"'
printf '{"eos_token_id": "two"}' >broken/generation_config.json
bad 1 'generation_config.json' generate broken --prompt x
printf '{"eos_token_id": 4096}' >broken/generation_config.json
bad 1 'generation_config.json' generate broken --prompt x
rm broken/generation_config.json
sed "s/^{/{\"eos_token_id\": $fifth,/" "$model/config.json" >broken/config.json
ends
good pack broken --uniform w8 -o eos.klens
good generate eos.klens --prompt "$prompt" --tokens 8
cp "$model/config.json" broken/config.json
token=$("$klens" tokenize "$model" --decode <<EOF
$fifth
EOF
)
checks=$((checks + 1))
case $token in
  *[!a-zA-Z]*) ;;   # a spelling of the tokenizer's own (a leading space has one): not looked up here
  *) printf '{"eos_token": {"content": "%s"}}' "$token" >broken/tokenizer_config.json
     ends ;;
esac

# Ctrl-C: status 130, one line, whole text so far, and a session that goes on as if nothing had happened.
# shellcheck disable=SC2086
(trap - INT; exec "$klens" generate "$model" --prompt "$prompt" --tokens 100000 --session killed.session $sampling) >out 2>err &
pid=$!
while [ ! -s out ] || [ "$(wc -c <out)" -lt 60 ]; do sleep 0.05; kill -0 "$pid" || die "generate ended early"; done
kill -INT "$pid"
wait "$pid"
status=$?
[ "$status" -eq 130 ] || die "Ctrl-C ended with status $status"
[ "$(grep -c '^klens: ' err)" -eq 1 ] || die "Ctrl-C: not one line"
[ "$(tail -c 1 out | wc -l)" -eq 1 ] || die "Ctrl-C: no new line at the end"
[ -s killed.session ] || die "Ctrl-C: no session"
# shellcheck disable=SC2086
{
  good generate "$model" --tokens 3 --session killed.session --json $sampling
  total=$(sed -n 's/.*"length":\([0-9]*\).*/\1/p' out)
  asked=$("$klens" tokenize "$model" --json <prompt.txt | tr ',' '\n' | wc -l)
  good generate "$model" --prompt "$prompt" --tokens $((total - asked)) --session long.session $sampling
}
same killed.session long.session

# Wrong values and wrong files.
for wrong in '--temperature -1' '--temperature nan' '--temperature x' '--top-p 1.5' '--top-p nan' '--min-p -0.1' '--top-k -1' '--tokens 0' \
  '--repetition-penalty 0' '--repetition-penalty inf' '--repetition-window -2' '--seed x' '--stop='; do
  # shellcheck disable=SC2086
  bad 2 "${wrong%%[ =]*}" generate "$model" --prompt x $wrong
done
bad 2 'excludes' generate "$model" --prompt x --prompt-file prompt.txt
bad 2 'prompt' generate "$model" --prompt ''
bad 1 'no/such/file' generate "$model" --prompt-file no/such/file
bad 1 'no/such' generate "$model" --prompt x --session no/such/a.session
[ ! -e no ] || die "a folder was made"
printf '\377' >prompt.bin
bad 1 'UTF-8' generate "$model" --prompt-file prompt.bin
good pack "$model" --uniform w4g32 -o w4g32.klens
bad 1 'two.session: .*w4g32' generate w4g32.klens --session two.session
head -c 3000 one.session >short.session
bad 1 'short.session' generate "$model" --session short.session
{ head -c 3000 one.session; printf X; tail -c +3002 one.session; } >damaged.session
bad 1 'damaged.session.*checksum' generate "$model" --session damaged.session
cp damaged.session kept.session
"$klens" generate "$model" --session damaged.session >out 2>err
same damaged.session kept.session
bad 1 'klens session' generate "$model" --session "$model/config.json"
done_with
