"""Commands that only read: runs, show, groups, scales, share, why, why-not, targets, observers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import qgraph
from qgraph.cli import completion
from qgraph.cli.histogram import bars
from qgraph.cli.options import DEFAULT_DATABASE, LATEST, Db, Json, RunArgument, RunOption, Top, UnusedDb
from qgraph.cli.output import cell, console, decibel, plural, write_json, write_line, write_table
from qgraph.errors import UsageError
from qgraph.hints import suggest

app = typer.Typer()

WIDEST_HISTOGRAM = 100
"""Columns; longer bars do not say more."""

TensorArgument = Annotated[
    str,
    typer.Argument(
        metavar="TENSOR", help="A tensor of the model.", show_default=False, autocompletion=completion.tensors
    ),
]
EndArgument = Annotated[
    str,
    typer.Argument(
        help="A tensor of the model, or a slot: OP:in:0.", show_default=False, autocompletion=completion.tensors
    ),
]


@app.command()
def runs(db: Db = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """List the runs, oldest first.

    Example: qgraph runs
    """
    with qgraph.open(db, create=False) as database:
        answer = database.runs()
    if json:
        write_json(answer)
        return
    write_table(
        ("run", "name", "model", "calibration", "samples", "target", "observer", "force overlap", "created"),
        (
            (
                run["run"],
                run["name"],
                f"{run['model']} ({Path(run['model_path'] or run['model_name']).name})",
                run["calibration"],
                run["samples"],
                run["settings"]["target"],
                run["settings"]["observer"],
                str(run["settings"]["force_overlap"]).lower(),
                run["created"],
            )
            for run in answer["runs"]
        ),
    )


@app.command()
def show(
    run: RunArgument,
    tensor: Annotated[
        str | None,
        typer.Option("--tensor", help="Show this tensor only.", show_default=False, autocompletion=completion.tensors),
    ] = None,
    db: Db = DEFAULT_DATABASE,
    *,
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Show what it comes from: calibration, data, model, versions.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a run at a glance, or all that it says of one tensor, or where it comes from.

    Example: qgraph show latest --tensor conv2_out

    Example: qgraph show latest --provenance
    """
    if provenance and tensor is not None:
        raise UsageError("one question at a time", "--tensor and --provenance", "leave one out")
    with qgraph.open(db, create=False) as database:
        found = database.run(run)
        if provenance:
            answer = found.provenance()
        elif tensor is not None:
            answer = found.tensor(tensor)
        else:
            answer = found.show()
    if json:
        write_json(answer)
    elif provenance:
        show_provenance(answer)
    elif tensor is None:
        show_run(answer)
    else:
        show_tensor(answer)


def show_provenance(answer: dict[str, Any]) -> None:
    """The lineage of a run, a block for each step back."""
    lineage = answer["lineage"]
    steps = [(part, lineage[part]) for part in ("run", "calibration", "model")]
    steps += [("made from model", parent) for parent in lineage["parents"]]
    for title, known in steps:
        write_line(title if known is not None else f"{title}: none")
        rows = [(f"  {key.replace('_', ' ')}", value) for key, value in (known or {}).items()]
        if rows:
            write_table(("", ""), rows)


def show_run(answer: dict[str, Any]) -> None:
    """A run as lines of name and value."""
    rows = [(key, answer[key]) for key in ("run", "name", "model", "model_name", "model_path")]
    rows += [(key, answer[key]) for key in ("calibration", "samples", "created")]
    rows = [(key.replace("_", " "), value) for key, value in rows]
    rows += [(key.replace("_", " "), value) for key, value in answer["settings"].items()]
    rows += [(key, answer[key]) for key in ("groups", "requantizes")]
    rows += [(f"slots {state}", count) for state, count in answer["states"].items()]
    rows += [(f"groups solved by {observer}", count) for observer, count in answer["observers"].items()]
    statistics = answer["statistics"]
    rows.append(("statistics", statistics and cell(f"{statistics['tensors']} tensors, digest {statistics['digest']}")))
    write_table(("", ""), rows)
    for event in answer["events"]:
        write_line(event)
    for finding in answer["findings"]:
        write_line(f"{finding['kind']}: {finding['message']}")


def show_tensor(answer: dict[str, Any]) -> None:
    """A tensor: its statistics, then its slots."""
    statistics = answer["statistics"]
    if statistics is not None:
        write_statistics(statistics)
        write_line("")
    write_table(
        ("slot", "state", "scale", "offset", "group", "noise dB", "price dB", "reason"),
        (
            (
                slot["slot"],
                slot["state"],
                slot["scale"],
                slot["offset"],
                slot["group"],
                decibel(slot["noise_db"]),
                decibel(slot["price_db"]),
                slot["reason"],
            )
            for slot in answer["slots"]
        ),
    )
    for observer, reason in sorted({(s["observer"], s["observer_reason"]) for s in answer["slots"] if s["observer"]}):
        write_line(f"auto took {observer}: {reason}")


def write_statistics(statistics: dict[str, Any]) -> None:
    """Counts and extremes with the samples that hold them, channels and rows, and the histogram on a log axis."""
    parts = ("provenance", "origins", "channels", "rows", "histogram")
    held = statistics["provenance"]
    rows = [(key, value) for key, value in statistics.items() if key not in parts]
    known = {what: held[what] for what in ("minimum", "maximum", "nonfinite") if held[what]}
    rows += [(f"{what} in sample", sample_words(one, statistics["origins"].get(one))) for what, one in known.items()]
    for one in statistics["channels"]:
        kind = "histograms" if one["histograms"] else "extremes and means"
        rows.append((f"channels, axis {one['axis']}", f"{one['channels']} with {kind}"))
    for one in statistics["rows"]:
        odd = ", ".join(f"{one[what]} {what}" for what in ("nan", "infinite", "single") if one[what])
        rows.append((f"rows, axis {one['axis']}", f"{one['rows']} ranked" + (f", {odd}" if odd else "")))
    write_table(("", ""), rows)
    lines = bars(statistics["histogram"], min(console().width, WIDEST_HISTOGRAM))
    for line in ["", *lines] if lines else ():
        write_line(line)


def sample_words(sample: str, origin: dict[str, Any] | None) -> str:
    """A sample as a person finds it: by its place in the data and its file, where they are known, and by its hash."""
    if origin is None:
        return sample
    named = "" if origin["name"] is None else f", {origin['name']}"
    return f"{origin['index']}{named} ({sample})"


@app.command()
def groups(
    run: RunArgument,
    top: Top = None,
    db: Db = DEFAULT_DATABASE,
    *,
    by_cost: Annotated[bool, typer.Option("--by-cost", help="The dearest sharing first.")] = False,
    json: Json = False,
) -> None:
    """List the groups that share scale and offset; the price is what the member that suffers most pays.

    (as read): the tensor is made with another scale, and requantized to this one.

    Example: qgraph groups latest --by-cost
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).groups(by_cost=by_cost)
    if json:
        write_json({**answer, "groups": answer["groups"][:top]})
        return
    auto = any(group["observer"] for group in answer["groups"])
    write_table(
        ("group", "price dB", "scale", "offset", *(["observer"] if auto else []), "slots#", "tensors"),
        (
            (
                group["id"],
                decibel(group["price_db"]),
                group["scale"],
                group["offset"],
                *([group["observer"]] if auto else []),
                len(group["slots"]),
                [*group["tensors"], *(f"{name} (as read)" for name in group["as_read"])],
            )
            for group in answer["groups"][:top]
        ),
    )
    shared = sum(len(group["tensors"]) > 1 for group in answer["groups"])
    write_line(f"{plural(len(answer['groups']), 'group')} in {answer['run']}, {shared} of them with several tensors")


@app.command()
def scales(run: RunArgument, db: Db = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """List scale and offset of every tensor, and the requantizes.

    Example: qgraph scales latest --json
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).scales()
    if json:
        write_json(answer)
        return
    columns = ["state", "scale", "offset", "group", "reason"]
    if any(tensor["observer"] for tensor in answer["tensors"].values()):
        columns.insert(-1, "observer")
    write_table(
        ("tensor", *columns),
        ((name, *(tensor[column] for column in columns)) for name, tensor in answer["tensors"].items()),
    )
    if answer["requantize"]:
        write_line("")
        write_table(
            ("requantized at", "tensor", "scale", "offset"),
            ((item["slot"], item["tensor"], item["scale"], item["offset"]) for item in answer["requantize"]),
        )


@app.command()
def share(tensor: TensorArgument, run: RunOption = LATEST, db: Db = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """Tell which tensors share scale and offset with one.

    Example: qgraph share conv2_out --run latest
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).share(tensor)
    if json:
        write_json(answer)
        return
    if answer["group"] is None:
        write_line(f"{tensor} is not quantized: {answer['reason']}")
        return
    known = (
        "no scale yet" if answer["scale"] is None else f"scale {cell(answer['scale'])}, offset {cell(answer['offset'])}"
    )
    write_line(f"{tensor} is {answer['state']}: {known}, in group {answer['group']} of {answer['run']}")
    others = [name for name in answer["tensors"] if name != tensor]
    write_line(f"shared with {plural(len(others), 'tensor')}:" if others else "shared with no other tensor")
    for name in others:
        write_line(f"  {name}")


@app.command()
def why(
    a: EndArgument, b: EndArgument, run: RunOption = LATEST, db: Db = DEFAULT_DATABASE, *, json: Json = False
) -> None:
    """Explain why two tensors share: the shortest chain of constraints, each with its rule, op and source.

    Example: qgraph why conv1_out conv2_out
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).why(a, b)
    if json:
        write_json(answer)
        return
    if not answer["shared"]:
        write_line(f"{a} and {b} do not share; see: {suggest('why-not', a, b, db=db, run=run)}")
        return
    write_line(f"{a} and {b} share:")
    show_chain(answer["path"])


def show_chain(path: list[dict[str, Any]]) -> None:
    """A chain of constraints, one step a line, with the sources of its rules below."""
    for edge in path:
        at = f" ({edge['op_type']} {edge['op']})" if edge["op"] else ""  # an override ties without an op
        reason = "along the tensor" if edge["kind"] == "tensor" else f"{edge['rule']}{at}"
        cut = edge.get("barrier")
        write_line(f"  {edge['from']}  {'╳' if cut else '→'}  {edge['to']}   {cut or reason}")
    sources = {edge["rule"]: edge["source"] for edge in path if edge["source"]}
    for rule, source in sources.items():
        write_line(f"  {rule}: {source}")


@app.command("why-not")
def why_not(
    a: EndArgument, b: EndArgument, run: RunOption = LATEST, db: Db = DEFAULT_DATABASE, *, json: Json = False
) -> None:
    """Tell what keeps two tensors apart, and what would have to be added or dropped so that they share.

    Example: qgraph why-not input logits
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).why_not(a, b)
    if json:
        write_json(answer)
        return
    write_line(answer["reason"])
    show_chain(answer["path"])
    for item in answer["needed"]:
        write_line(f"needed from {item['from']} to {item['to']}: {item['need']}")


@app.command()
def targets(_db: UnusedDb = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """List the targets, each with the source of its rules.

    Example: qgraph targets
    """
    from qgraph.constraints.pack import load_pack, pack_names  # reads every pack

    packs = [load_pack(name) for name in pack_names()]
    if json:
        found = [
            {
                "target": p.name,
                "version": p.version,
                "status": p.status,
                "inherits": p.inherits,
                "source": p.source,
                "alignment": dict(p.merge_methods.items()),
            }
            for p in packs
        ]
        write_json({"targets": found})
    else:
        write_table(("target", "version", "status", "source"), ((p.name, p.version, p.status, p.source) for p in packs))


@app.command()
def observers(_db: UnusedDb = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """List the observers and what they can be told: the shipped ones, and those of installed packages.

    Example: qgraph observers
    """
    from qgraph.calib.observers.catalog import entries  # only this command needs it

    listed = list(entries())
    if json:
        found = [{"observer": e.name, "summary": e.summary, "parameters": dict(e.parameters)} for e in listed]
        write_json({"observers": found})
    else:
        rows = ((e.name, e.summary, ", ".join(f"{k}={v}" for k, v in e.parameters.items())) for e in listed)
        write_table(("observer", "chooses", "parameters"), rows)
