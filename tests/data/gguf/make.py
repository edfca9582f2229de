"""Makes the files of tests/data/gguf (README.md says what they are):
    pip install gguf==0.19.0 numpy==2.4.6 && python make.py
Names of tensors and keys of metadata are the package's; the conversions are those of llama.cpp's converter."""
import json, os, struct, tempfile
import numpy as np
import gguf

HERE = os.path.dirname(os.path.abspath(__file__))
FAMILIES = os.path.join(HERE, "..", "families")
T = gguf.GGMLQuantizationType
rng = np.random.default_rng(7)


def read_safetensors(path):
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), f.read()
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            assert t["dtype"] == "F32"
            a, b = t["data_offsets"]
            out[name] = np.frombuffer(data[a:b], np.float32).reshape(t["shape"])
    return out


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(np.ascontiguousarray(t).tobytes())


def fnv(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"


def types():
    """Random blocks of every type; scales random, tiny, and the largest there are. Columns 256: 1 or 8 blocks a row."""
    halves = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2],
              T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0]}
    w = gguf.GGUFWriter(os.path.join(HERE, "types.gguf"), "test")
    for key, add in {"u8": w.add_uint8, "i8": w.add_int8, "u16": w.add_uint16, "i16": w.add_int16, "u32": w.add_uint32, "i32": w.add_int32,
                     "u64": w.add_uint64, "i64": w.add_int64}.items():
        add("test." + key, {"i": -7, "u": 250}[key[0]] if key != "i8" else -128)
    w.add_float32("test.f32", -0.15625), w.add_float64("test.f64", 1e-300), w.add_bool("test.bool", True), w.add_string("test.string", "grün")
    w.add_array("test.integers", [3, 0, -2]), w.add_array("test.strings", ["", "a", "bc"]), w.add_array("test.floats", [0.5, -1.0])
    expected = {}
    for kind in (T.F32, T.F16, T.BF16, *halves):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if kind in halves:
            n = 256 // block
            raw = rng.integers(0, 256, (3 * n, size), np.uint8)
            for at in halves[kind]:
                scale = rng.normal(size=(3 * n)).astype(np.float16)
                scale[n:2 * n] = rng.choice(np.array([0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 5.9e-5], np.float16), n)
                scale[2 * n:] = rng.choice(np.array([65504, -65504, np.inf, 1e-7], np.float16), n)
                raw[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
            raw = raw.reshape(3, n * size)
        else:
            x = rng.normal(size=(3, 256)).astype(np.float32)
            x[1] *= 1e-7
            x[2, :4] = [0, -0.0, np.inf, 65504]
            raw = {T.F32: x, T.F16: x.astype(np.float16), T.BF16: gguf.quantize(x, T.BF16)}[kind]
        w.add_tensor(kind.name, raw, raw_dtype=kind)
        with np.errstate(all="ignore"):
            expected[kind.name] = gguf.dequantize(raw, kind).astype(np.float32).reshape(3, 256)
    w.add_tensor("MXFP4", rng.integers(0, 256, (1, 17), np.uint8), raw_dtype=T.MXFP4)   # one that klens does not read
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    write_safetensors(os.path.join(HERE, "types.safetensors"), expected)


def tokenizer(name, source, model, pre):
    """A tokenizer.json as the converter writes it."""
    with open(os.path.join(HERE, "..", source, "tokenizer.json")) as f:
        d = json.load(f)
    vocab, merges, added = d["model"]["vocab"], d["model"]["merges"], {t["id"]: t for t in d["added_tokens"]}
    by_id = {i: t for t, i in vocab.items()} | {i: t["content"] for i, t in added.items()}
    tokens, kinds = [], []
    for i in range(max(by_id) + 3):   # two rows of padding, as published embeddings have
        tokens.append(by_id.get(i, f"[PAD{i}]"))
        byte = model == "llama" and tokens[-1].startswith("<0x")
        unknown = model == "llama" and tokens[-1] == d["model"]["unk_token"]
        kinds.append(int(gguf.TokenType.UNKNOWN if unknown else gguf.TokenType.BYTE if byte else gguf.TokenType.UNUSED if i not in by_id else
                         gguf.TokenType.NORMAL if i not in added else gguf.TokenType.CONTROL if added[i]["special"] else gguf.TokenType.USER_DEFINED))
    w = gguf.GGUFWriter(os.path.join(HERE, f"tokenizer.{name}.gguf"), "mamba")
    w.add_tokenizer_model(model)
    if pre:
        w.add_tokenizer_pre(pre)
    w.add_token_list(tokens), w.add_token_types(kinds)
    if model == "llama":
        score = {(m[0] + m[1] if isinstance(m, list) else m.replace(" ", "", 1)): -float(i) for i, m in reversed(list(enumerate(merges)))}
        w.add_token_scores([score.get(t, -1e4 if k == gguf.TokenType.NORMAL else 0.0) for t, k in zip(tokens, kinds)])
        w.add_unk_token_id(vocab[d["model"]["unk_token"]])
    else:
        w.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in merges])
    text = json.dumps(d["post_processor"])
    starts = [i for i, t in added.items() if '"SpecialToken"' in text and json.dumps(t["content"]) in text]
    if starts:
        w.add_bos_token_id(starts[0])
    w.add_add_bos_token(bool(starts))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


class Model:
    """A model of tests/data/families as a GGUF file, of which everything before the data is kept, and how each tensor's
    bytes come from the folder's: the file would be another copy of the weights."""

    def __init__(self, name, arch):
        self.name, self.arch = name, arch
        self.path = os.path.join(tempfile.mkdtemp(), name + ".gguf")
        self.w = gguf.GGUFWriter(self.path, gguf.MODEL_ARCH_NAMES[arch])
        self.tensors = read_safetensors(os.path.join(FAMILIES, name, "model.safetensors"))
        with open(os.path.join(FAMILIES, name, "config.json")) as f:
            self.config = json.load(f)
        self.names = gguf.get_tensor_name_map(arch, 64)
        self.manifest = []

    def add(self, source, steps=(), kind=T.F32, name=None, parts=None, shape=None):
        """steps: ["neg_exp"], ["scale", s], ["scale_rows", first, last, s], ["permute", heads], ["shape", ...]. `parts`: what a tensor
        of several is put together of, [source, first value, values] each, in the given shape and under the given name."""
        if parts:
            t = np.concatenate([self.tensors[p[0]].reshape(-1)[p[1]:p[1] + p[2]] for p in parts]).reshape(shape).astype(np.float32)
            self.put(name, {"parts": parts}, (), kind, t)
            return
        t = self.tensors[source].astype(np.float32)
        key = source[:-len("dt_bias")] + "dt_proj.bias" if source.endswith("dt_bias") else source
        name = name or self.names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name, source
        self.put(name, {"source": source}, steps, kind, t)

    def block(self, tensor, layer):
        """llama.cpp's name of a tensor of a layer."""
        assert tensor in gguf.MODEL_TENSORS[self.arch]
        return gguf.TENSOR_NAMES[tensor].format(bid=layer) + ".weight"

    def put(self, name, origin, steps, kind, t):
        for step in steps:
            op, *a = step
            if op == "neg_exp":
                t = (-np.exp(t.astype(np.float64))).astype(np.float32)
            elif op == "scale":
                t = t * np.float32(a[0])
            elif op == "scale_rows":
                t = t.copy()
                t[a[0]:a[1]] *= np.float32(a[2])
            elif op == "permute":
                h = a[0]
                t = t.reshape(h, 2, t.shape[0] // h // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)
            elif op == "shape":
                t = t.reshape(a)
        raw = {T.F32: lambda: t, T.F16: lambda: t.astype(np.float16)}.get(kind, lambda: gguf.quantize(t, kind))()
        self.w.add_tensor(name, np.ascontiguousarray(raw), raw_dtype=kind)
        entry = {"gguf": name, **origin, "type": kind.name, "steps": [s for s in steps if s[0] != "shape"], "fnv": fnv(raw.tobytes())}
        if kind not in (T.F32, T.F16, T.BF16):
            entry["bytes"] = raw.tobytes().hex()
        self.manifest.append(entry)

    def write(self, config):
        """config: what the folder's config.json must say instead, for what a GGUF file cannot say."""
        w = self.w
        w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
        reader = gguf.GGUFReader(self.path)
        start = reader.data_offset
        for entry, t in zip(self.manifest, reader.tensors):
            assert entry["gguf"] == t.name
            entry["offset"] = int(t.data_offset - start)
        with open(self.path, "rb") as f:
            head = f.read(start)
        with open(os.path.join(HERE, self.name + ".head.gguf"), "wb") as f:
            f.write(head)
        with open(os.path.join(HERE, self.name + ".json"), "w") as f:
            f.write('{"config": ' + json.dumps(config) + ',\n "tensors": [\n' + ",\n".join(json.dumps(e) for e in self.manifest) + "\n]}\n")


def mamba():
    m = Model("mamba", gguf.MODEL_ARCH.MAMBA)
    c, w = m.config, m.w
    w.add_context_length(2**20), w.add_embedding_length(c["hidden_size"]), w.add_feed_forward_length(0), w.add_head_count(0)
    w.add_block_count(c["num_hidden_layers"]), w.add_ssm_conv_kernel(c["conv_kernel"]), w.add_ssm_inner_size(c["intermediate_size"])
    w.add_ssm_state_size(c["state_size"]), w.add_ssm_time_step_rank(c["time_step_rank"]), w.add_layer_norm_rms_eps(c["layer_norm_epsilon"])
    w.add_ssm_dt_b_c_rms(False), w.add_file_type(0)
    for name, t in m.tensors.items():
        steps = [["neg_exp"]] if name.endswith("A_log") else [["shape", t.shape[0], t.shape[2]]] if name.endswith("conv1d.weight") else []
        m.add(name, steps)
    m.write({})


def mamba2_tensor(m, name, groups, kind=T.F32, steps=()):
    t = m.tensors[name]
    if name.endswith("A_log"):
        m.add(name, [["neg_exp"], ["shape", len(t), 1]])
    elif name.endswith(".D"):
        m.add(name, [["shape", len(t), 1]])
    elif name.endswith(("mixer.norm.weight", "mamba.norm.weight")):
        m.add(name, [["shape", groups, len(t) // groups]])
    elif name.endswith("conv1d.weight"):
        m.add(name, [["shape", t.shape[0], t.shape[2]]])
    else:
        m.add(name, list(steps), kind)


def mamba2():
    m = Model("mamba2", gguf.MODEL_ARCH.MAMBA2)
    c, w = m.config, m.w
    w.add_context_length(2**20), w.add_embedding_length(c["hidden_size"]), w.add_feed_forward_length(0), w.add_head_count(0)
    w.add_block_count(c["num_hidden_layers"]), w.add_ssm_conv_kernel(c["conv_kernel"]), w.add_ssm_inner_size(2 * c["hidden_size"])
    w.add_ssm_state_size(c["state_size"]), w.add_ssm_time_step_rank(2 * c["hidden_size"] // c["head_dim"]), w.add_ssm_group_count(c["n_groups"])
    w.add_layer_norm_rms_eps(c["layer_norm_epsilon"]), w.add_file_type(0)
    for name in m.tensors:
        kind = {"backbone.layers.0.mixer.out_proj.weight": T.Q8_0, "backbone.layers.1.mixer.out_proj.weight": T.Q4_0}.get(name, T.F32)
        mamba2_tensor(m, name, c["n_groups"], kind)
    m.write({"time_step_limit": None})


def falcon_h1():
    m = Model("falcon_h1", gguf.MODEL_ARCH.FALCON_H1)
    c, w = m.config, m.w
    inner = c["mamba_d_ssm"]
    w.add_vocab_size(c["vocab_size"]), w.add_block_count(c["num_hidden_layers"]), w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"]), w.add_feed_forward_length(c["intermediate_size"]), w.add_ssm_conv_kernel(c["mamba_d_conv"])
    w.add_ssm_inner_size(inner), w.add_ssm_state_size(c["mamba_d_state"]), w.add_ssm_time_step_rank(inner // c["mamba_d_head"])
    w.add_ssm_group_count(c["mamba_n_groups"]), w.add_layer_norm_rms_eps(c["rms_norm_eps"]), w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"]), w.add_key_length(c["head_dim"]), w.add_value_length(c["head_dim"])
    w.add_rope_freq_base(c["rope_parameters"]["rope_theta"]), w.add_file_type(0)
    gs = c["mamba_n_groups"] * c["mamba_d_state"]
    ends = [0, inner, 2 * inner, 2 * inner + gs, 2 * inner + 2 * gs, 2 * inner + 2 * gs + c["mamba_n_heads"]]
    attention, mlp = c["attention_in_multiplier"], c["mlp_multipliers"]
    rules = [("down_proj", [mlp[1]]), ("gate_proj", [mlp[0]]), ("k_proj", [c["key_multiplier"], attention]), ("q_proj", [attention]),
             ("v_proj", [attention]), ("o_proj", [c["attention_out_multiplier"]]), ("out_proj", [c["ssm_out_multiplier"]]),
             ("in_proj", [c["ssm_in_multiplier"]]), ("lm_head", [c["lm_head_multiplier"]]), ("embed_tokens", [c["embedding_multiplier"]])]
    for name in m.tensors:
        scales = next((s for key, s in rules if key in name), [])
        steps = [["scale", s] for s in scales]
        if ".in_proj" in name:
            steps += [["scale_rows", ends[i], ends[i + 1], c["ssm_multipliers"][i]] for i in range(5)]
        mamba2_tensor(m, name, c["mamba_n_groups"], steps=steps)
    m.write({"mamba_norm_before_gate": False})


def lfm2():
    m = Model("lfm2", gguf.MODEL_ARCH.LFM2)
    c, w = m.config, m.w
    kinds = c["layer_types"]
    w.add_block_count(c["num_hidden_layers"]), w.add_context_length(c["max_position_embeddings"]), w.add_embedding_length(c["hidden_size"])
    w.add_head_count(c["num_attention_heads"]), w.add_head_count_kv([c["num_key_value_heads"] if k != "conv" else 0 for k in kinds])
    w.add_rope_freq_base(c["rope_parameters"]["rope_theta"]), w.add_vocab_size(c["vocab_size"]), w.add_shortconv_l_cache(c["conv_L_cache"])
    w.add_layer_norm_rms_eps(c["norm_eps"]), w.add_feed_forward_length(c["intermediate_size"]), w.add_file_type(0)
    for name, t in m.tensors.items():
        m.add(name, [["shape", t.shape[0], t.shape[2]]] if name.endswith("conv.conv.weight") else [], T.BF16 if "embed_tokens" in name else T.F32)
    m.write({})


def nemotron_h():
    m = Model("nemotron_h", gguf.MODEL_ARCH.NEMOTRON_H)
    c, w = m.config, m.w
    kinds, heads = c["layers_block_type"], c["mamba_num_heads"]
    w.add_block_count(len(kinds)), w.add_context_length(2**20), w.add_embedding_length(c["hidden_size"]), w.add_head_count(c["num_attention_heads"])
    w.add_rope_dimension_count(c["head_dim"]), w.add_layer_norm_eps(c["layer_norm_epsilon"]), w.add_vocab_size(c["vocab_size"])
    w.add_ssm_conv_kernel(c["conv_kernel"]), w.add_ssm_state_size(c["ssm_state_size"]), w.add_ssm_group_count(c["n_groups"])
    w.add_ssm_inner_size(heads * c["mamba_head_dim"]), w.add_ssm_time_step_rank(heads)
    w.add_head_count_kv([c["num_key_value_heads"] if k == "full_attention" else 0 for k in kinds]), w.add_rope_scaling_finetuned(False)
    w.add_key_length(c["head_dim"]), w.add_value_length(c["head_dim"])
    w.add_feed_forward_length([c["intermediate_size"] if k == "mlp" else 0 for k in kinds]), w.add_file_type(0)
    for name in m.tensors:
        steps = [["permute", c["num_attention_heads"]]] if ".q_proj." in name else [["permute", c["num_key_value_heads"]]] if ".k_proj." in name else []
        mamba2_tensor(m, name, c["n_groups"], T.F16 if "up_proj.weight" in name else T.F32, steps)
    m.write({"time_step_min": None})


def jamba():
    m = Model("jamba", gguf.MODEL_ARCH.JAMBA)
    c, w = m.config, m.w
    layers, experts = c["num_hidden_layers"], c["num_experts"]
    attends = [i % c["attn_layer_period"] == c["attn_layer_offset"] for i in range(layers)]
    w.add_block_count(layers), w.add_context_length(c["max_position_embeddings"]), w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"]), w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv([c["num_key_value_heads"] if a else 0 for a in attends]), w.add_ssm_conv_kernel(c["mamba_d_conv"])
    w.add_ssm_inner_size(c["mamba_expand"] * c["hidden_size"]), w.add_ssm_state_size(c["mamba_d_state"])
    w.add_ssm_time_step_rank(c["mamba_dt_rank"]), w.add_layer_norm_rms_eps(c["rms_norm_eps"]), w.add_expert_count(experts)
    w.add_expert_used_count(c["num_experts_per_tok"]), w.add_file_type(0)
    stacks = {"gate_proj": gguf.MODEL_TENSOR.FFN_GATE_EXP, "up_proj": gguf.MODEL_TENSOR.FFN_UP_EXP, "down_proj": gguf.MODEL_TENSOR.FFN_DOWN_EXP}
    for name, t in m.tensors.items():
        if ".experts." in name:
            if ".experts.0." in name:
                layer, linear = int(name.split(".")[2]), name.split(".")[-2]
                parts = [[name.replace(".experts.0.", f".experts.{e}."), 0, t.size] for e in range(experts)]
                m.add(None, (), T.F16 if linear == "up_proj" else T.F32, m.block(stacks[linear], layer), parts, (experts, *t.shape))
        elif name.endswith("conv1d.weight"):
            m.add(name, [["shape", t.shape[0], t.shape[2]]])
        else:
            m.add(name, [["neg_exp"]] if name.endswith("A_log") else [])
    m.write({})


def granite(name, rope):
    m = Model(name, gguf.MODEL_ARCH.GRANITE_HYBRID)
    c, w = m.config, m.w
    layers, experts, groups = c["num_hidden_layers"], c["num_local_experts"], c["mamba_n_groups"]
    w.add_block_count(layers), w.add_context_length(2**20), w.add_embedding_length(c["hidden_size"]), w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"]), w.add_head_count_kv([c["num_key_value_heads"] if k == "full_attention" else 0 for k in c["layer_types"]])
    w.add_rope_freq_base(c["rope_parameters"]["rope_theta"]), w.add_layer_norm_rms_eps(c["rms_norm_eps"]), w.add_vocab_size(c["vocab_size"])
    w.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    if experts:
        w.add_expert_count(experts), w.add_expert_used_count(c["num_experts_per_tok"])
    w.add_attention_scale(c["attention_multiplier"]), w.add_embedding_scale(c["embedding_multiplier"])
    w.add_residual_scale(c["residual_multiplier"]), w.add_logit_scale(c["logits_scaling"])
    w.add_expert_shared_feed_forward_length(c["shared_intermediate_size"]), w.add_ssm_conv_kernel(c["mamba_d_conv"])
    w.add_ssm_state_size(c["mamba_d_state"]), w.add_ssm_group_count(groups), w.add_ssm_inner_size(c["mamba_expand"] * c["hidden_size"])
    w.add_ssm_time_step_rank(c["mamba_n_heads"]), w.add_rope_scaling_finetuned(rope), w.add_file_type(0)
    MT = gguf.MODEL_TENSOR
    shared = (MT.FFN_GATE_SHEXP, MT.FFN_UP_SHEXP) if experts else (MT.FFN_GATE, MT.FFN_UP)
    kinds = {0: (T.F16, T.F16), 1: (T.F16, T.F32), 2: (T.BF16, T.BF16)}   # of a layer's gate and up: alike, or not
    for name, t in m.tensors.items():
        layer = int(name.split(".")[2]) if name.startswith("model.layers.") else None
        if name.endswith("input_linear.weight"):
            stacked = t.ndim == 3
            count, half = t.shape[0] if stacked else 1, t.shape[-2] // 2 * t.shape[-1]
            shape = (*t.shape[:-2], t.shape[-2] // 2, t.shape[-1])
            for i, tensor in enumerate((MT.FFN_GATE_EXP, MT.FFN_UP_EXP) if stacked else shared):
                kind = kinds[layer][i] if stacked else T.F32
                m.add(None, (), kind, m.block(tensor, layer), [[name, (2 * e + i) * half, half] for e in range(count)], shape)
        elif name.endswith("shared_mlp.output_linear.weight"):
            m.add(name, name=m.block(MT.FFN_DOWN_SHEXP if experts else MT.FFN_DOWN, layer))
        else:
            heads = c["num_attention_heads"] if ".q_proj." in name else c["num_key_value_heads"] if ".k_proj." in name else 0
            mamba2_tensor(m, name, groups, steps=[["permute", heads]] if heads else [])
    m.write({"time_step_limit": None})


def granitemoehybrid():
    granite("granitemoehybrid", True)   # the converter writes False for all hybrids, and llama.cpp then leaves RoPE out


def granitemoehybrid_dense():
    granite("granitemoehybrid.dense", False)


def chat():
    """A whole model, random and small: a byte-level tokenizer of two merges, a chat template among others, recommended sampling."""
    w = gguf.GGUFWriter(os.path.join(HERE, "chat.gguf"), "mamba")
    d, n, rank, taps, layers = 16, 4, 2, 4, 2
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    specials = ["<bos>", "<eos>", "<eot>", "<unk>"]
    tokens = specials + [letters[b] for b in range(256)] + ["th", "the"]
    w.add_context_length(2**20), w.add_embedding_length(d), w.add_feed_forward_length(0), w.add_head_count(0), w.add_block_count(layers)
    w.add_ssm_conv_kernel(taps), w.add_ssm_inner_size(2 * d), w.add_ssm_state_size(n), w.add_ssm_time_step_rank(rank)
    w.add_layer_norm_rms_eps(1e-5), w.add_ssm_dt_b_c_rms(False), w.add_file_type(0)
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("gpt-2"), w.add_token_list(tokens), w.add_token_merges(["t h", "th e"])
    w.add_token_types([gguf.TokenType.CONTROL] * len(specials) + [gguf.TokenType.NORMAL] * 258)
    w.add_bos_token_id(0), w.add_eos_token_id(1), w.add_eot_token_id(2), w.add_unk_token_id(3), w.add_add_bos_token(False)
    w.add_chat_template([{"name": "tool_use", "template": "tools"}, {"name": "default", "template":
                        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                        "{% if add_generation_prompt %}assistant: {% endif %}"}])
    w.add_sampling_temp(0.75), w.add_sampling_top_k(40), w.add_sampling_top_p(0.875), w.add_sampling_min_p(0.0625)
    w.add_sampling_penalty_repeat(1.25), w.add_sampling_penalty_last_n(64)

    def add(name, *shape, scale=0.3, kind=np.float32):
        w.add_tensor(name, (rng.normal(size=shape) * scale).astype(kind))

    add("token_embd.weight", len(tokens), d, scale=1, kind=np.float16), add("output_norm.weight", d, scale=1)
    for i in range(layers):
        b = f"blk.{i}."
        add(b + "attn_norm.weight", d, scale=1), add(b + "ssm_in.weight", 4 * d, d), add(b + "ssm_conv1d.weight", 2 * d, taps)
        add(b + "ssm_conv1d.bias", 2 * d), add(b + "ssm_x.weight", rank + 2 * n, 2 * d), add(b + "ssm_dt.weight", 2 * d, rank)
        add(b + "ssm_dt.bias", 2 * d), add(b + "ssm_d", 2 * d), add(b + "ssm_out.weight", d, 2 * d)
        w.add_tensor(b + "ssm_a", -np.exp(rng.normal(size=(2 * d, n))).astype(np.float32))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


types()
tokenizer("gpt2", "gpt2_byte_level", "gpt2", "gpt-2")
tokenizer("llama3", "tokenizers/llama3", "gpt2", "llama-bpe")
tokenizer("tekken", "tokenizers/o200k", "gpt2", "tekken")
tokenizer("sentencepiece", "tokenizers/llama_sentencepiece", "llama", None)
for make in (mamba, mamba2, falcon_h1, lfm2, nemotron_h, jamba, granitemoehybrid, granitemoehybrid_dense):
    make()
chat()
