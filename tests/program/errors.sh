#!/bin/sh
# Wrong calls end with status 2, wrong bytes with status 1, both with one line that says what and where.
set -u
. "$2/tests/program/support.sh"

bad 2 'ubcommand'
bad 2 'nonsense' nonsense
bad 2 'unknown-option\|not expected' inspect "$model" --unknown-option
bad 2 'w9' pack "$model" --uniform w9 -o x.klens
bad 2 'neither' pack "$model" -o x.klens
bad 2 'budget' plan "$root/tests/data/hymba-tiny/lens.json" -o plan.json
bad 1 'nonsense' inspect "$model" --isa nonsense
bad 1 'no such\|No such' inspect no/such/folder
bad 1 'No such\|no such' eval "$model" --text no/such/text.txt

good pack "$model" --uniform w4g32 -o good.klens
head -c 100000 good.klens >short.klens
bad 1 'short.klens' eval short.klens --text "$data/heldout.txt" --windows 2
head -c 40 good.klens >tiny.klens
bad 1 'tiny.klens' inspect tiny.klens
{ head -c 500000 good.klens; printf 'X'; tail -c +500002 good.klens; } >flipped.klens
bad 1 'flipped.klens' inspect flipped.klens
bad 1 'checkpoint' pack good.klens --uniform w8 -o again.klens
bad 2 'packed' measure good.klens --text "$data/calibration.txt" -o s.json

copy_model broken
head -c 1000000 "$model/model.safetensors" >broken/model.safetensors
bad 1 'model.safetensors' inspect broken
copy_model broken
head -c 20000 "$model/tokenizer.json" >broken/tokenizer.json
bad 1 'tokenizer.json' generate broken --prompt hello
copy_model broken
sed 's/"vocab_size": 4096/"vocab_size": 4000/' "$model/config.json" >broken/config.json
bad 1 'shape' inspect broken
sed 's/"model_type": "hymba"/"model_type": "unheard_of"/' "$model/config.json" >broken/config.json
bad 1 'unheard_of' inspect broken
printf '{"model_type": "hymba", "hidden_size": 1e99' >broken/config.json
bad 1 'config.json' inspect broken
rm broken/config.json
bad 1 'config.json' inspect broken

printf '{"schema": "klens.plan/1"}' >plan.json
bad 1 'plan.json' pack "$model" --plan plan.json -o x.klens
printf 'not json at all' >plan.json
bad 1 'plan.json' build --plan plan.json -o built
printf '{"entries": [' >s.json
bad 1 's.json' plan s.json --bpw 4 -o plan.json
bad 1 's.json' audit s.json
mkdir -p empty
bad 1 'none of them' report empty
[ ! -e x.klens ] && [ ! -e again.klens ] || die "a failed command left its output"
done_with
