"""Commands that only read: runs, show, groups, scales, share, why, why-not, diff, targets, observers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

import qgraph
from qgraph.cli.hints import suggest
from qgraph.cli.options import DEFAULT_DATABASE, LATEST, Db, Json, RunArgument, RunOption, Top
from qgraph.cli.output import cell, decibel, plural, write_json, write_line, write_table

app = typer.Typer()

TensorArgument = Annotated[str, typer.Argument(metavar="TENSOR", help="A tensor of the model.", show_default=False)]
EndArgument = Annotated[str, typer.Argument(help="A tensor of the model, or a slot: OP:in:0.", show_default=False)]


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
    tensor: Annotated[str | None, typer.Option("--tensor", help="Show this tensor only.", show_default=False)] = None,
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Show a run at a glance, or all that it says of one tensor.

    Example: qgraph show latest --tensor conv2_out
    """
    with qgraph.open(db, create=False) as database:
        found = database.run(run)
        answer = found.show() if tensor is None else found.tensor(tensor)
    if json:
        write_json(answer)
    elif tensor is None:
        show_run(answer)
    else:
        show_tensor(answer)


def show_run(answer: dict[str, Any]) -> None:
    """A run as lines of name and value."""
    rows = [(key, answer[key]) for key in ("run", "name", "model", "model_name", "model_path")]
    rows += [(key, answer[key]) for key in ("calibration", "samples", "created")]
    rows = [(key.replace("_", " "), value) for key, value in rows]
    rows += [(key.replace("_", " "), value) for key, value in answer["settings"].items()]
    rows += [(key, answer[key]) for key in ("groups", "requantizes")]
    rows += [(f"slots {state}", count) for state, count in answer["states"].items()]
    statistics = answer["statistics"]
    rows.append(("statistics", statistics and cell(f"{statistics['tensors']} tensors, digest {statistics['digest']}")))
    write_table(("", ""), rows)
    for event in answer["events"]:
        write_line(event)


def show_tensor(answer: dict[str, Any]) -> None:
    """A tensor: its statistics, then its slots."""
    statistics = answer["statistics"]
    if statistics is not None:
        write_table(("", ""), list(statistics.items()))
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

    Example: qgraph groups latest --by-cost
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).groups(by_cost=by_cost)
    if json:
        write_json({**answer, "groups": answer["groups"][:top]})
        return
    write_table(
        ("group", "price dB", "scale", "offset", "slots#", "tensors"),
        (
            (
                group["id"],
                decibel(group["price_db"]),
                group["scale"],
                group["offset"],
                len(group["slots"]),
                group["tensors"],
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
    write_table(
        ("tensor", "state", "scale", "offset", "group", "reason"),
        (
            (name, tensor["state"], tensor["scale"], tensor["offset"], tensor["group"], tensor["reason"])
            for name, tensor in answer["tensors"].items()
        ),
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
        reason = "along the tensor" if edge["kind"] == "tensor" else f"{edge['rule']} ({edge['op_type']} {edge['op']})"
        write_line(f"  {edge['from']}  →  {edge['to']}   {reason}")
    sources = {edge["rule"]: edge["source"] for edge in path if edge["source"]}
    for rule, source in sources.items():
        write_line(f"  {rule}: {source}")


@app.command("why-not")
def why_not(
    a: EndArgument, b: EndArgument, run: RunOption = LATEST, db: Db = DEFAULT_DATABASE, *, json: Json = False
) -> None:
    """Tell what keeps two tensors apart.

    Example: qgraph why-not input logits
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).why_not(a, b)
    if json:
        write_json(answer)
        return
    write_line(answer["reason"])
    if answer["path"]:
        show_chain(answer["path"])


@app.command()
def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run.", show_default=False)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another run.", show_default=False)],
    top: Top = None,
    db: Db = DEFAULT_DATABASE,
    *,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if they differ.")] = False,
    json: Json = False,
) -> None:
    """Show what differs between two runs: settings, groups, scales by predicted damage, states, requantizes.

    Example: qgraph diff minmax mse
    """
    with qgraph.open(db, create=False) as database:
        answer = database.diff(run_a, run_b)
    differs = any(answer[part] for part in ("settings", "scales", "states", "requantize")) or any(
        answer["groups"].values()
    )
    if json:
        write_json({**answer, "scales": answer["scales"][:top]})
    else:
        show_diff(answer, top, differs=differs)
    if exit_code and differs:
        raise Exit(1)


def show_diff(answer: dict[str, Any], top: int | None, *, differs: bool) -> None:
    """A diff as text: first what was asked differently, then what came of it."""
    if not differs:
        write_line(f"{answer['a']} and {answer['b']} do not differ")
        return
    for name, change in answer["settings"].items():
        write_line(f"{name}: {cell(change['a'])} → {cell(change['b'])}")
    for what in ("split", "merged"):
        for change in answer["groups"][what]:
            write_line(f"group {change['group']} {what}: {cell(change['tensors'])}")
    for change in answer["states"]:
        write_line(f"{change['tensor']}: {cell(change['a'])} → {cell(change['b'])}")
    for change in answer["requantize"]:
        where = answer["b"] if change["a"] is None else answer["a"] if change["b"] is None else "both, differently"
        write_line(f"requantize {change['slot']}: in {where}")
    if answer["scales"]:
        write_table(
            (
                "tensor",
                *(f"{what} in {answer[run]}" for what in ("scale", "offset") for run in "ab"),
                "ratio",
                "damage dB",
            ),
            (
                (
                    change["tensor"],
                    *(change[run] and change[run][what] for what in ("scale", "offset") for run in "ab"),
                    change["ratio"],
                    decibel(change["damage_db"]),
                )
                for change in answer["scales"][:top]
            ),
        )
        write_line(f"{plural(len(answer['scales']), 'tensor has', 'tensors have')} another scale or offset")


@app.command()
def targets(*, json: Json = False) -> None:
    """List the targets, each with the source of its rules.

    Example: qgraph targets
    """
    from qgraph.constraints.pack import load_pack, pack_names  # reads every pack

    packs = [load_pack(name) for name in pack_names()]
    if json:
        found = [
            {"target": p.name, "version": p.version, "source": p.source, "alignment": dict(p.merge_methods.items())}
            for p in packs
        ]
        write_json({"targets": found})
    else:
        write_table(("target", "version", "source"), ((p.name, p.version, p.source) for p in packs))


@app.command()
def observers(*, json: Json = False) -> None:
    """List the observers and what they can be told.

    Example: qgraph observers
    """
    from qgraph.calib.observers.catalog import OBSERVERS  # only this command needs it

    entries = OBSERVERS.values()
    if json:
        found = [{"observer": e.name, "summary": e.summary, "parameters": dict(e.parameters)} for e in entries]
        write_json({"observers": found})
    else:
        rows = ((e.name, e.summary, ", ".join(f"{k}={v}" for k, v in e.parameters.items())) for e in entries)
        write_table(("observer", "chooses", "parameters"), rows)
