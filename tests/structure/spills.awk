# Innermost loops of the functions of one object that multiply, and what they do on the stack; the program of spills.sh.
# Reads objdump -d -r -C -w --no-show-raw-insn; prints faults; -v object=NAME -v counts=FILE. Any POSIX awk.
#
# Loops are natural loops of the control flow graph: retreating edges of a depth-first walk, and all that reaches them
# without passing the header; innermost: no other header inside. %rbp is the stack only in functions that make it their
# frame pointer.
function is_dot(m) { return m ~ /^(vpdp|vpmaddwd|vpmaddubsw|vdpbf16ps|tdp)/ }
function is_work(m) { return m ~ /^vfn?m(add|sub)[0-9]*p[sd]/ || is_dot(m) }

# Blocks, edges, a depth-first walk, and one judgement for each innermost loop of the function just read.
function judge(   i, j, b, u, v, e, top, roots, header, inner, found, framed, from, to) {
  if (works == 0) return
  split("", block); split("", first); split("", last); split("", at); split("", leads)
  split("", degree); split("", next_of); split("", into); split("", from_of); split("", color); split("", is_root)
  split("", latches); split("", latch)
  framed = 0
  for (i = 1; i <= n; i++) {
    at[address[i]] = i
    if (mnemonic[i] ~ /^mov/ && text[i] ~ /%rsp,%rbp$/) framed = 1
  }
  leads[1] = 1
  for (i = 1; i <= n; i++) {
    if (!ends[i]) continue
    leads[i + 1] = 1
    if (target[i] != "" && target[i] in at) leads[at[target[i]]] = 1
  }
  b = 0
  for (i = 1; i <= n; i++) {
    if (i in leads) first[++b] = i
    block[i] = b
    last[b] = i
  }
  for (u = 1; u <= b; u++) {
    i = last[u]
    degree[u] = 0
    if (target[i] != "" && target[i] in at) join(u, block[at[target[i]]])
    if (falls[i] && u < b) join(u, u + 1)
  }
  # color 1: on the path, 2: done. An edge to a block on the path closes a loop at that block.
  for (v = 1; v <= b; v++) {
    if (color[v]) continue
    is_root[v] = 1
    top = 1; path[1] = v; edge[1] = 0; color[v] = 1
    while (top > 0) {
      u = path[top]
      if (edge[top] < degree[u]) {
        e = next_of[u, ++edge[top]]
        if (color[e] == 1) latch[e, ++latches[e]] = u
        else if (!color[e]) { color[e] = 1; path[++top] = e; edge[top] = 0 }
      } else { color[u] = 2; top-- }
    }
  }
  found = 0
  for (header = 1; header <= b; header++) {
    if (!latches[header]) continue
    split("", body)
    body[header] = 1
    roots = 0; top = 0
    for (j = 1; j <= latches[header]; j++) path[++top] = latch[header, j]
    while (top > 0) {
      u = path[top--]
      if (u in body) continue
      body[u] = 1
      if (u in is_root) roots++
      for (j = 1; j <= into[u]; j++) path[++top] = from_of[u, j]
    }
    if (roots) {  # entered elsewhere than at its header: take what lies between header and latch
      split("", body)
      for (j = 1; j <= latches[header]; j++)
        for (u = header; u <= latch[header, j]; u++) body[u] = 1
      body[header] = 1
    }
    inner = 1
    for (u in body) if (u + 0 != header && latches[u]) inner = 0
    if (inner) found += judge_loop(header, framed)
  }
  functions++
  if (!found && dots) print object ": " name ": multiplies integers, but no loop of it was found"  # FMAs alone: an exp
}

function join(u, v) { next_of[u, ++degree[u]] = v; from_of[v, ++into[v]] = u }

# One innermost loop, its blocks in body[]: 1 if it multiplies.
function judge_loop(header, framed,   u, i, work, size, spills, example, low, high, line) {
  work = size = spills = low = high = 0
  for (u in body)
    for (i = first[u]; i <= last[u]; i++) {
      size++
      if (!low || i < low) low = i
      if (i > high) high = i
      if (is_work(mnemonic[i])) work++
    }
  if (!work) return 0
  loops++
  if (size > longest) { longest = size; longest_name = name; longest_work = work }
  for (i = low; i <= high; i++) {
    if (!(block[i] in body)) continue
    line = text[i]
    if (line !~ /\(%rsp[,)]/ && !(framed && line ~ /\(%rbp[,)]/)) continue
    if (line !~ /%[xyz]mm[0-9]/) { if (mnemonic[i] !~ /^(lea|prefetch)/) scalars++; continue }
    if (!spills++) example = line
  }
  if (spills) {
    all_spills += spills
    print object ": " name ": loop at " address[low] ".." address[high] ", " size " instructions, " work \
      " products: " spills " on the stack, first: " example
  }
  return 1
}

/^[0-9a-f]+ <.*>:$/ {
  judge()
  n = 0; works = dots = 0
  name = substr($0, index($0, "<") + 1); sub(/>:$/, "", name)
  if (index(name, ">(")) name = substr(name, 1, index(name, ">("))   # template arguments tell which it is
  gsub(/klens::(N_[a-z0-9_]+::)?/, "", name); sub(/^void /, "", name)
  next
}
/^[ \t]*[0-9a-f]+:[ \t]+R_X86_64/ { if (n) target[n] = ""; next }   # what the linker fills in leaves the function
/^ *[0-9a-f]+:\t/ {
  line = $0
  n++
  colon = index(line, ":")
  address[n] = substr(line, 1, colon - 1); sub(/^ */, "", address[n])
  line = substr(line, colon + 1)
  sub(/^[ \t]*/, "", line); sub(/[ \t]*(#.*)?$/, "", line)
  while (sub(/^(\{[a-z0-9]+\}|notrack|bnd|data16|cs|ds|rep|repz|repnz|lock) +/, "", line)) {}
  gsub(/[ \t]+/, " ", line)
  text[n] = line
  m = line; sub(/ .*/, "", m)
  mnemonic[n] = m
  target[n] = ""
  falls[n] = 1; ends[n] = 0
  if (m ~ /^j/) {
    ends[n] = 1
    falls[n] = m !~ /^jmp/
    split(line, word, " ")
    if (word[2] !~ /^\*/) target[n] = word[2]
  } else if (m ~ /^(ret|ud2|hlt)/) { ends[n] = 1; falls[n] = 0 }
  if (is_work(m)) works++
  if (is_dot(m)) dots++
}
END {
  judge()
  printf "%d %d %d %d %d %d %s\n", functions, loops, all_spills, scalars, longest, longest_work, longest_name >>counts
  if (!loops && object ~ /linear/) print object ": no loop that multiplies"
}
