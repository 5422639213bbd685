"""An ONNX model read into kernels: counts by hand, the same kernels as onnxruntime itself, and each error's message."""

from __future__ import annotations

import collections
import functools
import random
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from devices.onnx_cpu import export_onnx
from latency import kernel_space
from latency.kernel_networks import build_draw
from latency.kernel_space import ZOO, draw
from latency.kernel_times import kernel_seconds
from latency.kernels import Copy, Gemm, View
from latency.onnx_check import OnnxError
from latency.onnx_file import read_onnx
from latency.onnx_graph import kernels_of
from latency.onnx_parts import RULES


def refused(model, says, tmp_path):
    """What is said of a model that is refused: `says`, with the name of its file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    with pytest.raises(OnnxError, match=says) as error:
        kernels_of(path)
    assert str(path) in str(error.value)
    return str(error.value)


def conv(i, o, kernel=3, stride=1, groups=1, act=nn.ReLU):
    layers = [nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Residual(nn.Module):
    def __init__(self, body, relu=False):
        super().__init__()
        self.body, self.relu = body, relu

    def forward(self, x):
        y = x + self.body(x)
        return y.relu() if self.relu else y


class Gate(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, 16, 1), nn.ReLU(), nn.Conv2d(16, c, 1), nn.Hardsigmoid()
        )

    def forward(self, x):
        return x * self.gate(x)


class Attention(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.norm, self.qkv, self.out, self.heads = nn.LayerNorm(c), nn.Linear(c, 3 * c), nn.Linear(c, c), heads

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-2, -1) * 0.25).softmax(-1)
        return x + self.out((a @ v).transpose(1, 2).reshape(n, t, c))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.body = nn.Sequential(Attention(32, 2), nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 10))

    def forward(self, x):
        return self.body(self.patch(x).flatten(2).transpose(1, 2))


HEAD = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
RESNET = nn.Sequential(
    conv(3, 32, 7, 2), nn.MaxPool2d(3, 2, 1), Residual(nn.Sequential(conv(32, 32), conv(32, 32, act=None)), True), *HEAD
)
MOBILE = nn.Sequential(
    conv(3, 32, 3, 2, act=nn.ReLU6),
    Residual(nn.Sequential(conv(32, 64, 1, act=nn.Hardswish), conv(64, 64, 5, 1, 64, nn.Hardswish), Gate(64), conv(64, 32, 1, act=None))),
    *HEAD,
)  # fmt: skip


def counts(kernels):
    return dict(collections.Counter(type(k.op).__name__ if k.op is not None else f"? {k.op_type}" for k in kernels))


def alone(op):
    """`op` without what it says of the network around it."""
    return replace(op, network_kib=0) if hasattr(op, "network_kib") else op


def texts(kernels):
    return [str(alone(k.op)) for k in kernels]


def test_a_small_resnet_by_hand():
    """conv+bn+relu, pool, conv+bn+relu, conv+bn+add+relu, global pool, classifier: 6 kernels where nothing is reordered."""
    model = export_onnx(RESNET, (1, 3, 64, 64))
    found = kernels_of(model, RULES["onnxruntime"])
    assert counts(found) == {"DenseConv": 3, "Pooling": 1, "GlobalPool": 1, "Gemm": 1, "Copy": 1, "View": 1}
    assert texts(found)[:4] == [
        "DenseConv(in_channels=3,out_channels=32,height=64,width=64,kernel=7,stride=2,act=relu)",
        "Pooling(in_channels=32,out_channels=32,height=32,width=32,kernel=3,stride=2)",
        "DenseConv(in_channels=32,out_channels=32,height=16,width=16,kernel=3,act=relu)",
        "DenseConv(in_channels=32,out_channels=32,height=16,width=16,kernel=3,act=relu,add=1)",
    ]
    plain = kernels_of(model, RULES["other"])
    assert counts(plain) == {
        "DenseConv": 3,
        "Pooling": 1,
        "Elementwise": 1,
        "Activation": 1,
        "GlobalPool": 1,
        "Gemm": 1,
    }


def test_squeeze_excite_and_h_swish_by_hand():
    found = kernels_of(export_onnx(MOBILE, (1, 3, 64, 64)), RULES["other"])
    assert counts(found) == {
        "DenseConv": 1, "Pointwise": 4, "Depthwise": 1, "Activation": 3, "GlobalPool": 2, "Elementwise": 2, "Gemm": 1,
    }  # fmt: skip
    assert "Elementwise(in_channels=64,out_channels=64,height=32,width=32,fn=mul,broadcast=outer)" in texts(found)
    assert "Pointwise(in_channels=64,out_channels=16,height=1,width=1,act=relu)" in texts(found)


def test_attention_by_hand():
    found = kernels_of(export_onnx(Tokens(), (1, 3, 32, 32)), RULES["other"])
    assert counts(found) == {
        "DenseConv": 1, "Copy": 6, "Norm": 2, "Gemm": 4, "MatMul": 2, "Softmax": 1, "Elementwise": 1, "Activation": 1,
    }  # fmt: skip
    assert [str(alone(k.op)) for k in found if k.op_type == "MatMul"] == [
        "MatMul(in_channels=16,out_channels=16,height=16,width=1,batch=2)",
        "MatMul(in_channels=16,out_channels=16,height=16,width=1,batch=2)",
    ]
    assert "Activation(in_channels=64,out_channels=64,height=16,width=1,act=gelu)" in texts(found)


@pytest.mark.parametrize(("module", "size"), [(RESNET, 64), (MOBILE, 64), (Tokens(), 32)])
def test_macs_are_those_that_hooks_count(module, size):
    """Multiply-accumulates counted in torch, layer by layer; attention's two products by hand."""
    counted = [0]

    def hook(layer, inputs, output):
        if isinstance(layer, nn.Conv2d):
            counted[0] += output.numel() * layer.weight[0].numel()
        else:
            counted[0] += output.numel() * layer.in_features

    hooks = [m.register_forward_hook(hook) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        module.eval()(torch.zeros(1, 3, size, size))
    for h in hooks:
        h.remove()
    kernels = kernels_of(export_onnx(module, (1, 3, size, size)))
    computing = sum(k.macs for k in kernels if type(k.op).__name__ not in ("Pooling", "GlobalPool"))
    assert computing == counted[0] + (2 * 16 * 16 * 32 if isinstance(module, Tokens) else 0)


def optimised(model, tmp_path):
    """The nodes that onnxruntime makes of the model."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return onnx.load(tmp_path / "optimised.onnx").graph.node


@functools.cache
def has_blocks(tmp_path):
    nodes = optimised(export_onnx(conv(16, 16), (1, 16, 8, 8)), tmp_path)
    return any("nchwc" in n.domain for n in nodes)


def ort_kernels(model, tmp_path):
    """What onnxruntime makes of the model, by its names for kernels."""
    if not has_blocks(tmp_path):
        pytest.skip("onnxruntime has no blocked layout on this processor")
    nodes = optimised(model, tmp_path)
    same = {"FusedConv": "Conv", "FusedMatMul": "MatMul", "FusedGemm": "Gemm", "Flatten": "Reshape", "Squeeze": "Reshape",
            "Unsqueeze": "Reshape", "SkipLayerNormalization": "LayerNormalization"}  # fmt: skip
    return collections.Counter(same.get(n.op_type, n.op_type) for n in nodes)


def my_kernels(model):
    def name(kernel):
        op = kernel.op
        if isinstance(op, Copy) and op.copy.startswith("reorder"):
            return "ReorderInput" if op.copy == "reorder_in" else "ReorderOutput"
        if isinstance(op, View):
            return "Reshape"
        if isinstance(op, Gemm):
            return "Gemm"
        acts = {"relu": "Relu", "silu": "QuickGelu", "gelu": "Gelu", "hsigmoid": "HardSigmoid"}
        if type(op).__name__ == "Depthwise" and kernel.op_type == "BatchNormalization":
            return "Conv"
        if type(op).__name__ == "Activation":
            return acts.get(op.act, kernel.op_type)
        if type(op).__name__ == "Elementwise" and kernel.op_type in ("HardSwish", "Conv"):
            return "Mul"
        return {"Upsample": "Upsample", "Resize": "Upsample" if kernel.op_type == "Resize" else ""}.get(
            type(op).__name__, kernel.op_type
        )

    return collections.Counter(map(name, kernels_of(model)))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x.mean((2, 3)), "Reduce(in_channels=60,height=8,width=1)"),
        (lambda x: x.mean(1), "Reduce(in_channels=8,height=1,width=60)"),
        (lambda x: x.amax(2, keepdim=True), "Reduce(in_channels=6,height=8,width=10,reduction=max)"),
        (lambda x: x.softmax(-1), "Softmax(in_channels=10,out_channels=10,height=48,width=1)"),
        (lambda x: x.softmax(1), "Softmax(in_channels=8,out_channels=8,height=1,width=60)"),
        # runs of 60 values moved whole; single values 10 apart; of a window's rows, 5 values together
        (lambda x: x.reshape(2, 4, 6, 10).transpose(0, 1), "Copy(in_channels=60,out_channels=60,height=8,width=1,copy=transpose)"),
        (lambda x: x.transpose(2, 3), "Copy(in_channels=6,out_channels=6,height=8,width=10,copy=transpose)"),
        (lambda x: x.reshape(8, 2, 3, 2, 5).permute(0, 1, 3, 2, 4), "Copy(in_channels=5,out_channels=5,height=96,width=1,copy=transpose)"),
    ],
)  # fmt: skip
def test_what_is_reduced_or_moved_lies_together_or_apart(function, says):
    """(1, 8, 6, 10): the axis reduced has as many values between its own as `width` says."""
    found = [t for t in texts(kernels_of(export_onnx(Call(function), (1, 8, 6, 10)))) if t != "View()"]
    assert found == [says]


@pytest.mark.parametrize("family", [f.name for f in ZOO if f.resolution < 299])
def test_kernels_are_those_that_onnxruntime_runs(family, tmp_path, monkeypatch):
    """Reorders, fused residuals, splits: all of them, in a random network around every public one."""
    monkeypatch.setattr(kernel_space, "WITH_EXTRAS", 0.0)
    monkeypatch.setattr(kernel_space, "TINY", 0.0)
    known = next(f for f in ZOO if f.name == family)
    made = draw(random.Random(12), known)
    size = 64 if made.resolution % 32 == 0 else 48
    module, shape = build_draw(replace(made, resolution=size, across=size, head=known.head))
    model = export_onnx(module, shape)
    theirs, mine = ort_kernels(model, tmp_path), my_kernels(model)
    assert not theirs - mine
    assert not mine - theirs


def test_nearly_all_kernels_of_any_drawn_network_are_those_that_onnxruntime_runs(tmp_path):
    """With extras, tiny and oblong: 97 of 100 kernels, over 16 networks."""
    rng, right, every = random.Random(3), 0, 0
    while every < 600:
        made = draw(rng)
        small = replace(made, resolution=min(made.resolution, 64), across=min(made.across, 64))
        model = export_onnx(*build_draw(small))
        theirs, mine = ort_kernels(model, tmp_path), my_kernels(model)
        right, every = right + (theirs & mine).total(), every + max(theirs.total(), mine.total())
    assert right / every > 0.97


def model_of(nodes, inputs=(("x", [1, 8, 4, 4]),), weights=(), opset=17, outputs=("y",), domain=""):
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        [helper.make_tensor(n, TensorProto.FLOAT, s, np.zeros(s, np.float32).ravel()) for n, s in weights],
    )  # fmt: skip
    opsets = [helper.make_opsetid(domain, opset)] + ([helper.make_opsetid("com.acme", 1)] if domain == "" else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


RELU = helper.make_node("Relu", ["x"], ["y"], name="act")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (b"", "an empty file, not an ONNX model"),
        (b"\x08\x09 this is no protobuf \xff\xff", "does not parse"),
        (model_of([RELU])[: len(model_of([RELU])) // 2], "does not parse|no graph"),
        (model_of([]), "an empty model: its graph has no nodes"),
        (model_of([RELU], opset=999), "opset 999 is newer than the installed onnx knows"),
        (model_of([RELU], opset=3), "opset 3 is older than 7"),
        (model_of([RELU], domain="com.acme"), r"no opset of the ONNX domain is imported \(found: com.acme\)"),
        (model_of([helper.make_node("Reluu", ["x"], ["y"], name="act")]), "unknown op: did you mean 'Relu'.*node 'act' is 'Reluu'"),
        (model_of([helper.make_node("Magic", ["x"], ["y"], name="m", domain="com.acme")]), "node 'm' is com.acme.Magic: only ops of the ONNX domain"),
        (model_of([RELU], inputs=[("x", ["N", 3, "H", "W"])]), r"input 'x' is dynamic \(N x 3 x H x W\): fix it with --input-shape x=1,3,224,224"),
        (model_of([helper.make_node("NonZero", ["x"], ["y"], name="nz")]), "'y' .node 'nz', NonZero. depends on data"),
        (model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], weights=[("w", [3, 3])]), "do not fit together|its first operand has 4 columns, its second 3 rows"),
    ],
)  # fmt: skip
def test_each_error_has_its_message(model, says, tmp_path):
    assert "\n" not in refused(model, says, tmp_path)


def one(op, *inputs, weights=(), x=(1, 8, 4, 4), **attrs):
    """A model of one node, 'n', of `op`."""
    return model_of([helper.make_node(op, list(inputs), ["y"], name="n", **attrs)], [("x", list(x))], weights)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (one("Relu", "nowhere"), "node 'n' .Relu. takes 'nowhere', which nothing makes"),
        (model_of([RELU, helper.make_node("Relu", ["z"], ["h"]), helper.make_node("Relu", ["y"], ["z"], name="late")]), "takes 'z', which only node 'late' makes"),
        (model_of([RELU], outputs=("out",)), "its output 'out' is made by no node"),
        (one("Conv", "x", "w", x=(1, 5, 8, 8), weights=[("w", [16, 3, 3, 3])]), "its input has 5 channels, its weights take 3 .'x' is 1 x 5 x 8 x 8 and 'w' is 16 x 3 x 3 x 3"),
        (one("Conv", "x", "w", weights=[("w", [8, 2, 3, 3])], group=2), "has 8 channels, its weights take 4 in 2 groups"),
        (one("Conv", "x", "w", weights=[("w", [9, 4, 3, 3])], group=2), "9 channels of its weights do not split into 2"),
        (one("Conv", "x", "w", weights=[("w", [8, 8, 3])]), "the same number of dimensions"),
        (one("Conv", "x", "w", weights=[("w", [8, 8, 3, 3])], kernel_shape=[5, 5]), "its kernel_shape is 5 x 5, its weights are of 3 x 3"),
        (one("Conv", "x", "w", "b", weights=[("w", [4, 8, 3, 3]), ("b", [8])]), "its bias is 8, it makes 4 channels"),
        (one("ConvTranspose", "x", "w", weights=[("w", [4, 8, 2, 2])]), "has 8 channels, its weights take 4"),
        (one("Gemm", "x", "w", x=(1, 7), weights=[("w", [10, 8])], transB=1), "has 7 channels, its weights take 8"),
        (one("Gemm", "x", "w", weights=[("w", [8, 8])]), "of 2 dimensions"),
        (one("MatMul", "x", "w", x=(2, 5, 7), weights=[("w", [8, 3])]), "first operand has 7 columns, its second 8 rows"),
        (one("MatMul", "x", "w", x=(2, 5, 7), weights=[("w", [3, 7, 4])]), "their batches do not fit"),
        (one("Add", "x", "w", weights=[("w", [3])]), "'x' is 1 x 8 x 4 x 4 and 'w' is 3, which do not fit"),
    ],
)  # fmt: skip
def test_an_invalid_graph_is_no_network(model, says, tmp_path):
    """Runtimes refuse each; a number for one would be of a network that cannot run."""
    told = refused(model, says, tmp_path)
    assert "node 'n'" in told or says.startswith(("takes", "its output"))


def test_what_onnx_allows_is_not_called_invalid():
    """Inputs left out, names of the outer graph in a subgraph, weights that are inputs too, numbers that spread."""
    relu = helper.make_graph([helper.make_node("Relu", ["h"], ["o"])], "then", [], [helper.make_empty_tensor_value_info("o")])  # fmt: skip
    same = helper.make_graph([helper.make_node("Identity", ["x"], ["p"])], "else", [], [helper.make_empty_tensor_value_info("p")])  # fmt: skip
    branch = helper.make_node("If", ["flag"], ["y"], then_branch=relu, else_branch=same)
    nodes = [helper.make_node("Clip", ["x", "", "top"], ["h"]), branch]
    inputs = [("x", [1, 8, 4, 4]), ("top", [])]
    model = onnx.ModelProto.FromString(model_of(nodes, inputs, [("top", [])]))
    model.graph.initializer.append(helper.make_tensor("flag", TensorProto.BOOL, [], [True]))
    assert kernels_of(model.SerializeToString())
    model.graph.node[1].attribute[0].g.node[0].input[0] = "nowhere"
    with pytest.raises(OnnxError, match="takes 'nowhere', which nothing makes"):
        kernels_of(model.SerializeToString())
    for fits in (
        one("Conv", "x", "w", "b", weights=[("w", [16, 4, 3, 3]), ("b", [16])], group=2),
        one("ConvTranspose", "x", "w", "b", weights=[("w", [8, 3, 2, 2]), ("b", [6])], group=2),
        one("Gemm", "x", "w", "b", x=(8, 1), weights=[("w", [4, 8]), ("b", [4])], transA=1, transB=1),
        one("MatMul", "x", "w", x=(2, 5, 7), weights=[("w", [1, 7, 4])]),
        one("MatMul", "x", "w", x=(5, 7), weights=[("w", [7])]),
        one("Add", "x", "w", weights=[("w", [8, 1, 1])]),
    ):
        assert all(k.op is not None for k in kernels_of(fits, RULES["other"]))


def test_no_such_file(tmp_path):
    with pytest.raises(OnnxError, match="No such file"):
        read_onnx(tmp_path / "nowhere.onnx")


def test_a_dynamic_input_is_fixed_by_its_name():
    model = model_of([RELU], inputs=[("x", ["N", 8, "H", 4])])
    assert read_onnx(model, {"x": (1, 8, 6, 4)}).shape("y") == (1, 8, 6, 4)
    with pytest.raises(OnnxError, match=r"no input .z.: .*inputs: x"):
        read_onnx(model, {"z": (1, 8, 6, 4)})
    with pytest.raises(OnnxError, match="has 4 dimensions, the shape given 2"):
        read_onnx(model, {"x": (1, 8)})
    with pytest.raises(OnnxError, match="is fixed to N x 8 x H x 4: 9 does not fit"):
        read_onnx(model, {"x": (1, 9, 6, 4)})


def test_two_gigabytes_of_external_weights_are_not_read(tmp_path):
    """A linear layer of 25,000 x 25,000: 2.3 GiB in a file that is not even there."""
    weights = TensorProto(name="w", dims=[25_000, 25_000], data_type=TensorProto.FLOAT)
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    weights.external_data.add(key="length", value=str(25_000 * 25_000 * 4))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 25_000])],
        [helper.make_empty_tensor_value_info("y")], [weights],
    )  # fmt: skip
    path = tmp_path / "large.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    (kernel,) = kernels_of(path)
    assert str(alone(kernel.op)) == "Gemm(in_channels=25000,out_channels=25000,height=4,width=1)"
    assert kernel.op.network_kib == 2**21  # 2.3 GiB


def test_a_model_of_more_than_two_gigabytes_in_one_file(tmp_path):
    path = tmp_path / "fat.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 10)  # sparse: takes no room
    with pytest.raises(OnnxError, match=r"2\.0 GiB in one file; ONNX files end at 2 GiB"):
        read_onnx(path)


def test_what_the_vocabulary_lacks_is_named_never_dropped():
    model = model_of([helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Selu", ["h"], ["g"]), helper.make_node("CumSum", ["g", "axis"], ["y"], name="sums")], weights=[("axis", [])])  # fmt: skip
    with pytest.raises(OnnxError):
        kernels_of(model.replace(b"CumSum", b"CumSun"))
    found = kernels_of(model)
    assert [k.why for k in found if k.op is None] == ["no kernel for CumSum"]
    assert [n for k in found for n in k.nodes][-1] == "sums"


def test_shapes_computed_at_run_time_are_folded():
    """flatten(x.shape[0], -1) as exporters write it: Shape, Gather, Concat, Reshape."""

    class Flat(nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            return x.view(n, c, h * w).transpose(1, 2)

    found = kernels_of(export_onnx(Flat(), (1, 4, 6, 6)), RULES["other"])
    assert counts(found) == {"Copy": 1}


def test_a_large_constant_is_a_constant_wherever_it_stands():
    weights = helper.make_tensor("c", TensorProto.FLOAT, [100, 100], np.zeros(10_000, np.float32))
    nodes = [helper.make_node("Constant", [], ["c"], value=weights), helper.make_node("Transpose", ["c"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]  # fmt: skip
    found = kernels_of(model_of(nodes, [("x", [5, 100])]))
    assert texts(found) == ["Gemm(in_channels=100,out_channels=100,height=5,width=1)"]


def test_decomposed_layer_norm_is_one_kernel():
    """As exporters write it before opset 17."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[-1]), helper.make_node("Sub", ["x", "m"], ["d"]),
        helper.make_node("Pow", ["d", "two"], ["s"]), helper.make_node("ReduceMean", ["s"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["e"]), helper.make_node("Sqrt", ["e"], ["r"]),
        helper.make_node("Div", ["d", "r"], ["n"]), helper.make_node("Mul", ["n", "w"], ["k"]),
        helper.make_node("Add", ["k", "b"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, [("x", [1, 5, 16])], [("two", []), ("eps", []), ("w", [16]), ("b", [16])], opset=13)
    assert texts(kernels_of(model)) == ["Norm(in_channels=16,out_channels=16,height=5,width=1)"]


def test_kernel_seconds_of_one_network_keep_its_time():
    assert kernel_seconds([[[1e-5, 1e-5], [3e-5, 3e-5]]], [8e-5])[0][0][:, 0].tolist() == pytest.approx([2e-5, 6e-5])


class Series(nn.Module):
    """Convolutions over one axis with what those over two take along: padding before, a residual and its ReLU after."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(16, 16, 3, padding=1), nn.Conv1d(16, 16, 3)

    def forward(self, x):
        y = torch.relu(self.first(x))
        return torch.relu(x + self.second(nn.functional.pad(y, (2, 0))))


def test_a_convolution_over_one_axis_takes_its_activation_along_and_no_more():
    """As onnxruntime 1.32 runs it: FusedConv, Pad, Conv, Add, Relu."""
    found = [type(k.op).__name__ + getattr(k.op, "act", "") for k in kernels_of(export_onnx(Series(), (1, 16, 64)))]
    assert [f for f in found if f != "View"] == [
        "DenseConvrelu",
        "Copy",
        "DenseConvnone",
        "Elementwise",
        "Activationrelu",
    ]


@pytest.mark.parametrize(
    ("perm", "how"),
    [((0, 2, 1), "transpose"), ((0, 2, 3, 1), "transpose"), ((0, 3, 1, 2), "transpose"), ((0, 2, 1, 3), "transpose"),
     ((0, 3, 2, 1), "permute"), ((0, 3, 5, 1, 2, 4), "permute"), ((0, 3, 4, 1, 2), "permute")],
)  # fmt: skip
def test_a_transpose_that_moves_several_axes_is_another_kernel(perm, how):
    shape = [1, 3, 4, 5, 6, 7][: len(perm)]
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=perm)]
    (found,) = kernels_of(model_of(nodes, [("x", shape)]))
    assert found.op.copy == how
