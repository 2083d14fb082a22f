r"""GraphML, which networkx, igraph, Gephi, yEd and Cytoscape read: a run's property graph as one file.

Every node and edge has its label and properties under the names of `qgraph.graphdb.property_graph`; what is not known
is left out, and lists are JSON. XML has no way to write most control characters: in names they stand as ``\x1b``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from qgraph.formats.whole_file import whole_file
from qgraph.graphdb.property_graph import NODES, RELATIONSHIPS, PropertyGraph, Value

_TYPES = {"STRING": "string", "INT64": "long", "DOUBLE": "double", "BOOL": "boolean"}
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCES = {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;", '"': "&quot;"}

Keys = Mapping[tuple[str, str], tuple[str, str]]
"""By ``node`` or ``edge`` and a property's name, the key that stands for it and its type."""


def write_graphml(graph: PropertyGraph, path: Path) -> None:
    """Write a graph; the file takes its name once it is complete.

    Raises:
        ExportError: it cannot be written.
    """
    with whole_file(path, "the graph") as written, written.open("w", encoding="utf-8") as stream:
        stream.writelines(_lines(graph))


def text(value: str) -> str:
    r"""A text as XML: exact but for the characters that XML does not know, which are shown as escapes.

    >>> print(text('a<b>&"\x1b\n'))
    a&lt;b&gt;&amp;&quot;\x1b&#10;
    """
    legal = _NOT_IN_XML.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), value)
    return escape(legal, _REFERENCES)


def _lines(graph: PropertyGraph) -> Iterator[str]:
    keys = _keys()
    yield _HEAD
    for (kind, name), (key, type_name) in keys.items():
        attributes = {"id": key, "for": kind, "attr.name": name, "attr.type": type_name}
        yield f"<key {' '.join(f'{one}={quoteattr(value)}' for one, value in attributes.items())}/>\n"
    yield '<graph edgedefault="directed">\n'
    for label, properties in NODES.items():
        for place, row in enumerate(graph.nodes[label]):
            values = dict(zip(properties, row, strict=True))
            yield f'<node id="{label}{place}">{_data("node", label, values, keys)}</node>\n'
    count = 0
    for label, (start, end, properties) in RELATIONSHIPS.items():
        for one in graph.relationships[label]:
            ends = f'id="e{count}" source="{start}{one.start}" target="{end}{one.end}"'
            values = dict(zip(properties, one.properties, strict=True))
            yield f"<edge {ends}>{_data('edge', label, values, keys)}</edge>\n"
            count += 1
    yield "</graph>\n</graphml>\n"


def _keys() -> Keys:
    schemas = [("node", properties) for properties in NODES.values()]
    schemas += [("edge", properties) for _, _, properties in RELATIONSHIPS.values()]
    found: dict[tuple[str, str], str] = {("node", "label"): "string", ("edge", "label"): "string"}
    for kind, properties in schemas:
        found |= {(kind, name): _TYPES.get(type_name, "string") for name, type_name in properties.items()}
    return {what: (f"k{number}", type_name) for number, (what, type_name) in enumerate(found.items())}


def _data(kind: str, label: str, properties: Mapping[str, Value], keys: Keys) -> str:
    known = {"label": label, **{name: value for name, value in properties.items() if value is not None}}
    return "".join(f'<data key="{keys[kind, name][0]}">{_written(value)}</data>' for name, value in known.items())


def _written(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "INF" if value > 0 else "-INF"
    if isinstance(value, tuple):
        return text(json.dumps(value))
    return text(str(value))
