"""Writing a quantized graph, by the seed's name."""

from __future__ import annotations

import json
from pathlib import Path

from qgraph import arguments
from qgraph.constraints.pack import load_pack
from qgraph.errors import UsageError
from qgraph.formats.whole_file import whole_file
from qgraph.passes.graph import QuantizedGraph
from qgraph.passes.platforms import TargetPlatform


def export_ppq_graph(
    graph: QuantizedGraph,
    platform: TargetPlatform | str | None = None,
    graph_save_to: str | Path = "quantized.onnx",
    config_save_to: str | Path | None = None,
    *,
    format: str = "qdq",  # noqa: A002 - as in Run.export
) -> None:
    """Write the graph as it is now; the graph itself is not touched.

    Args:
        platform: None, or the one that the graph was quantized for; scales of one platform are not those of another.
        graph_save_to: the file; without a suffix it gets ``.onnx``.
        config_save_to: where to write all scales, as JSON of the shape of ``qgraph scales --json``; None for nowhere.
        format: as for `qgraph.run.Run.export`.

    Raises:
        UsageError: another platform, or a graph without scales.
        ExportError: the format cannot say a config.
    """
    if not isinstance(graph, QuantizedGraph):
        raise UsageError("not a quantized graph", type(graph).__name__, "pass what quantize_onnx_model returns")
    if platform is not None and load_pack(str(platform)).name != graph.platform:
        cure = f"quantize the model for {platform}, or export for {graph.platform}"
        raise UsageError("the graph was quantized for another platform", graph.platform, cure)
    output = arguments.path("graph_save_to", graph_save_to)
    run = graph.run
    run.export(
        output if output.suffix else output.with_suffix(".onnx"), format=format, model=graph.workplace.imported.path
    )
    if config_save_to is not None:
        told = json.dumps({"schema": 1, **run.scales()}, indent=2, allow_nan=False)
        with whole_file(arguments.path("config_save_to", config_save_to), "the configs") as file:
            file.write_text(f"{told}\n", encoding="utf-8")
