"""Makes the files of tests/data/torch: what torch.save writes, and beside some of them the same tensors as safetensors:
    pip install torch==2.13.0 safetensors==0.8.0 && python make.py OUT_DIR"""
import collections, json, os, sys, zipfile
import torch
from safetensors.torch import save_file

out = sys.argv[1]
path = lambda name: os.path.join(out, name)
g = torch.Generator().manual_seed(5)
TYPES = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i64": torch.int64, "i32": torch.int32,
         "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool}


def both(name, tensors, **how):
    torch.save(tensors, path(name + ".bin"), **how)
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path(name + ".safetensors"))


# Every type, a scalar, no values at all, and sizes of 1, whose strides mean nothing.
types = {k: (torch.randn(3, 2, generator=g) * 100).to(t) for k, t in TYPES.items()}
types["scalar"] = torch.tensor(-2.5)
types["none"] = torch.zeros(0, 5)
types["ones"] = torch.randn(4, 1, generator=g).t().unsqueeze(2)
both("types", types)

# One storage for several tensors, at offsets, and one tensor under two names.
base = torch.randn(6, 4, generator=g)
both("shared", {"all": base, "rows": base[2:5], "row": base[5], "again": base, "flat": base.view(24)[7:9]})

# state_dict() of a module: an OrderedDict with _metadata; parameters; every protocol.
module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2).to(torch.bfloat16))
for p in module.parameters():
    p.data = torch.randn(p.shape, generator=g).to(p.dtype)
both("module", module.state_dict())
for protocol in (3, 4, 5):
    torch.save(collections.OrderedDict(module.named_parameters()), path(f"protocol{protocol}.bin"), pickle_protocol=protocol)

# Shards, as save_pretrained writes them.
state = module.state_dict()
names = sorted(state)
shards = {"pytorch_model-00001-of-00002.bin": names[:4], "pytorch_model-00002-of-00002.bin": names[4:]}
os.makedirs(path("shards"), exist_ok=True)
for file, part in shards.items():
    torch.save({k: state[k].clone() for k in part}, path("shards/" + file))
with open(path("shards/pytorch_model.bin.index.json"), "w") as f:
    json.dump({"metadata": {"total_size": 1}, "weight_map": {k: file for file, part in shards.items() for k in part}}, f, indent=1)


# What must be refused.
class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/klens_evil_pickle",)


torch.save({"a": torch.ones(2), "b": Evil()}, path("evil.bin"))
torch.save({"a": torch.ones(2), "step": 3}, path("number.bin"))
torch.save({"model": {"a": torch.ones(2)}, "epoch": 1}, path("nested.bin"))
torch.save(torch.ones(2), path("bare.bin"))
torch.save({"a": torch.arange(12.0).view(3, 4).t()}, path("strided.bin"))
torch.save({"a": torch.ones(1).expand(3)}, path("expanded.bin"))
torch.save({"a": torch.ones(2, dtype=torch.float8_e4m3fn)}, path("float8.bin"))
torch.save({"a": torch.ones(2)}, path("older.bin"), _use_new_zipfile_serialization=False)
torch.save({"a": torch.ones(2)}, path("plain.bin"))
with zipfile.ZipFile(path("plain.bin")) as source, zipfile.ZipFile(path("deflated.bin"), "w", zipfile.ZIP_DEFLATED) as target:
    for item in source.infolist():
        target.writestr(item.filename, source.read(item))
with zipfile.ZipFile(path("plain.bin")) as source, zipfile.ZipFile(path("restored.bin"), "w", zipfile.ZIP_STORED) as target:
    for item in source.infolist():   # as Python's zipfile writes it: no ZIP64, no descriptors; this one is accepted
        target.writestr(item.filename, source.read(item))
print(sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(out) for f in files))
