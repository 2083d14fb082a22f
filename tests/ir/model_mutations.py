"""What can be wrong with a model's structure, as functions that damage a proto in place at a random place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

HUGE = 1 << 62

NAMES = (
    "",
    "graph",
    "graph:in:x",
    "a:in:0",
    "a" * 100_000,
    "bell\a null\0 line\nescape\x1b[31m",
    "…\u202e\U0001f600",
    " ",
    "../up",
)

TYPES = (
    "Add", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose",
    "DequantizeLinear", "Dropout", "Einsum", "Expand", "Flatten", "GRU", "Gather", "Gemm", "GlobalAveragePool",
    "Identity", "If", "LSTM", "Loop", "MatMul", "MaxPool", "NoSuchOp", "NonZero", "OneHot", "Pad", "QuantizeLinear",
    "Range", "ReduceMean", "Relu", "Reshape", "Resize", "Scan", "SequenceConstruct", "Shape", "Slice", "Softmax",
    "Split", "SplitToSequence", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze", "Upsample", "Where",
)  # fmt: skip

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "own", "ai.onnx.training", "qgraph.unregistered")

DIMENSIONS = (-1, -(1 << 63), 0, 1, 3, 1 << 20, 1 << 31, HUGE, (1 << 63) - 1)

OFFSETS = ("-1", "0", "7", str(HUGE), "9" * 5000, "1e3", "x", "", "٣")

LOCATIONS = ("../secret", "/etc/passwd", "weights.bin", ".", "..", "", "a\0b", "a/../../b", "x" * 5000, "/dev/zero")


def _node(model: ModelProto, random: Random) -> NodeProto:
    nodes: Sequence[NodeProto] = model.graph.node or [model.graph.node.add()]
    return random.choice(nodes)


def _graphs(model: ModelProto) -> list[GraphProto]:
    found = [model.graph]
    for graph in found:
        for node in graph.node:
            for attribute in node.attribute:
                found.extend([attribute.g] if attribute.HasField("g") else [])
                found.extend(attribute.graphs)
    return found


def _tensor_names(graph: GraphProto) -> list[str]:
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    return sorted(names) or ["x"]


def _tensor(model: ModelProto, random: Random) -> TensorProto:
    tensors: list[TensorProto] = [tensor for graph in _graphs(model) for tensor in graph.initializer]
    tensors += [a.t for graph in _graphs(model) for node in graph.node for a in node.attribute if a.HasField("t")]
    tensors = tensors or [model.graph.initializer.add()]
    return tensors[random.randrange(len(tensors))]


def drop_node(model: ModelProto, random: Random) -> None:
    if model.graph.node:
        del model.graph.node[random.randrange(len(model.graph.node))]


def duplicate_node(model: ModelProto, random: Random) -> None:
    model.graph.node.add().CopyFrom(_node(model, random))


def shuffle_nodes(model: ModelProto, random: Random) -> None:
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    random.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def reconnect_input(model: ModelProto, random: Random) -> None:
    graph = random.choice(_graphs(model))
    node = random.choice(graph.node) if graph.node else graph.node.add()
    name = random.choice([*_tensor_names(graph), *NAMES])
    if node.input:
        node.input[random.randrange(len(node.input))] = name
    else:
        node.input.append(name)


def rename_output(model: ModelProto, random: Random) -> None:
    graph = random.choice(_graphs(model))
    node = random.choice(graph.node) if graph.node else graph.node.add()
    name = random.choice([*_tensor_names(graph), *NAMES])
    if node.output:
        node.output[random.randrange(len(node.output))] = name


def rename_everywhere(model: ModelProto, random: Random) -> None:
    """A tensor takes another name at all places, perhaps one that is in use."""
    graph = model.graph
    old, new = random.choice(_tensor_names(graph)), random.choice([*_tensor_names(graph), *NAMES])
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new if value.name == old else value.name
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def rename_node(model: ModelProto, random: Random) -> None:
    _node(model, random).name = random.choice([*NAMES, *[node.name for node in model.graph.node[:20]]])


def change_arity(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    names = random.choice([node.input, node.output])
    if names and random.random() < 0.5:
        del names[-1]
    else:
        names.extend([random.choice(_tensor_names(model.graph))] * random.choice([1, 3, 100]))


def retype_node(model: ModelProto, random: Random) -> None:
    graph = random.choice(_graphs(model))
    if graph.node:
        random.choice(graph.node).op_type = random.choice([*TYPES, *NAMES])


def move_to_domain(model: ModelProto, random: Random) -> None:
    _node(model, random).domain = random.choice([*DOMAINS, *NAMES])


def drop_attribute(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    if node.attribute:
        del node.attribute[random.randrange(len(node.attribute))]


def change_attribute(model: ModelProto, random: Random) -> None:
    """A value of another type, or one out of all bounds."""
    node = _node(model, random)
    name = random.choice(node.attribute).name if node.attribute else "axis"
    value = random.choice(
        [0, -1, 99, HUGE, -HUGE, 1e38, float("nan"), "text", [HUGE] * 4, [0, 0], [-1], [1.5], [1] * 1000, ["a"]]
    )
    kept = [attribute for attribute in node.attribute if attribute.name != name or random.random() < 0.1]
    copies = [AttributeProto.FromString(attribute.SerializeToString()) for attribute in kept]
    del node.attribute[:]
    node.attribute.extend([*copies, helper.make_attribute(name, value)])


def lie_about_attribute_type(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    if node.attribute:
        random.choice(node.attribute).type = random.randrange(15)


def add_body(model: ModelProto, random: Random) -> None:
    """An If whose branches are copies of the graph, nested a few times."""
    body = onnx.GraphProto(name="body")
    body.node.extend(list(model.graph.node)[:3])
    body.output.extend(model.graph.output)
    for depth in range(random.choice([1, 3, 20])):
        node = helper.make_node("If", [random.choice(_tensor_names(model.graph))], [f"if{depth}"])
        node.attribute.append(helper.make_attribute("then_branch", body))
        if random.random() < 0.5:
            node.attribute.append(AttributeProto(name="else_branch", type=AttributeProto.GRAPH))
        body = onnx.GraphProto(name="body", node=[node], output=model.graph.output)
    model.graph.node.extend(body.node)


def add_function(model: ModelProto, random: Random) -> None:
    """A local function that calls itself or another one that calls it, and a node that calls it."""
    twice = random.random() < 0.5
    opsets = [helper.make_opsetid("", random.choice([1, 13, 99])), helper.make_opsetid("own", 1)]
    for name, called in (("F", "G" if twice else random.choice(["F", "Relu"])), ("G", "F")):
        domain = "" if called == "Relu" else "own"
        nodes = [helper.make_node(called, ["a"], ["b"], domain=domain), helper.make_node("Relu", ["b"], ["c"])]
        model.functions.append(helper.make_function("own", name, ["a"], ["c"], nodes, opsets))
    if random.random() < 0.8:
        model.opset_import.append(helper.make_opsetid("own", 1))
    names = _tensor_names(model.graph)
    model.graph.node.append(helper.make_node("F", [random.choice(names)], ["of_function"], domain="own"))


def change_shape(model: ModelProto, random: Random) -> None:
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if values:
        value = random.choice(values)
        dims = random.choices([*DIMENSIONS, "n", "", NAMES[5]], k=random.choice([0, 1, 4, 300]))
        kind = random.choice([TensorProto.FLOAT, TensorProto.STRING, TensorProto.FLOAT16, TensorProto.UNDEFINED, 99])
        value.type.CopyFrom(onnx.TypeProto())
        value.type.tensor_type.elem_type = kind
        for dim in dims:
            added = value.type.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                added.dim_value = dim
            else:
                added.dim_param = dim


def change_value_kind(model: ModelProto, random: Random) -> None:
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if values:
        kind = onnx.TypeProto()
        inner = helper.make_tensor_type_proto(1, [2])
        kinds = [
            onnx.TypeProto(),
            helper.make_sequence_type_proto(inner),
            helper.make_optional_type_proto(inner),
            helper.make_map_type_proto(7, inner),
            helper.make_sparse_tensor_type_proto(1, [2]),
        ]
        kind.CopyFrom(random.choice(kinds))
        random.choice(values).type.CopyFrom(kind)


def change_dims(model: ModelProto, random: Random) -> None:
    tensor = _tensor(model, random)
    dims = list(tensor.dims) or [1]
    dims[random.randrange(len(dims))] = random.choice(DIMENSIONS)
    if random.random() < 0.3:
        dims *= random.choice([0, 2, 30])
    del tensor.dims[:]
    tensor.dims.extend(dims)


def change_element_type(model: ModelProto, random: Random) -> None:
    _tensor(model, random).data_type = random.choice([*range(26), 99, -1])


def change_data(model: ModelProto, random: Random) -> None:
    tensor = _tensor(model, random)
    how = random.randrange(4)
    if how == 0:
        tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
    elif how == 1:
        tensor.raw_data = b"\xff" * len(tensor.raw_data)
    elif how == 2:
        tensor.ClearField("raw_data")
    else:
        tensor.float_data.extend([1.0])


def make_external(model: ModelProto, random: Random) -> None:
    tensor = _tensor(model, random)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    for key, values in (("location", LOCATIONS), ("offset", OFFSETS), ("length", OFFSETS)):
        if random.random() < 0.8:
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=random.choice(values)))


def change_opset(model: ModelProto, random: Random) -> None:
    entry = random.choice(model.opset_import) if model.opset_import else model.opset_import.add()
    how = random.randrange(4)
    if how == 0:
        entry.version = random.choice([*range(28), -1, HUGE])
    elif how == 1:
        entry.domain = random.choice(DOMAINS)
    elif how == 2:
        model.opset_import.append(helper.make_opsetid(random.choice(DOMAINS), random.choice([0, 1, 13, 99])))
    else:
        del model.opset_import[:]


def change_interface(model: ModelProto, random: Random) -> None:
    """Inputs and outputs vanish, come twice, or are other tensors."""
    values = random.choice([model.graph.input, model.graph.output])
    how = random.randrange(3)
    if how == 0 and values:
        del values[random.randrange(len(values))]
    elif how == 1 and values:
        values.add().CopyFrom(random.choice(values))
    else:
        values.append(helper.make_tensor_value_info(random.choice(_tensor_names(model.graph)), 1, [1, "n"]))


def empty_graph(model: ModelProto, random: Random) -> None:
    model.graph.ClearField(random.choice(["node", "input", "output", "initializer", "name"]))


def change_version(model: ModelProto, random: Random) -> None:
    model.ir_version = random.choice([0, 1, 3, 4, 99, -1, HUGE])


MUTATIONS: tuple[Callable[[ModelProto, Random], None], ...] = (
    drop_node, duplicate_node, shuffle_nodes, reconnect_input, rename_output, rename_everywhere, rename_node,
    change_arity, retype_node, move_to_domain, drop_attribute, change_attribute, lie_about_attribute_type, add_body,
    add_function, change_shape, change_value_kind, change_dims, change_element_type, change_data, make_external,
    change_opset, change_interface, empty_graph, change_version,
)  # fmt: skip
