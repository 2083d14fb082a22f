"""Commands that ask who is to blame: blame, cascade, coverage."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

import qgraph
from qgraph.cli import completion
from qgraph.cli.options import DEFAULT_DATABASE, LATEST, Db, Json, RunArgument, RunOption, Top
from qgraph.cli.output import broken_ratios, cell, decibel, plural, write_json, write_line, write_table

app = typer.Typer()

GroupArgument = Annotated[
    str,
    typer.Argument(
        metavar="GROUP",
        help="The id of a group, or a tensor in it.",
        show_default=False,
        autocompletion=completion.tensors,
    ),
]
OpArgument = Annotated[str, typer.Argument(metavar="OP", help="An op of the model.", show_default=False)]

NAMES_SHOWN = 8
"""Tensors that are named on one side of a cut; of the others only the number is told."""


@app.command()
def blame(
    group: GroupArgument, top: Top = None, run: RunOption = LATEST, db: Db = DEFAULT_DATABASE, *, json: Json = False
) -> None:
    """Tell which constraints would have to go to split a group: minimal sets, the dearest sharing first.

    The price of a set is what every tensor on one of its sides pays, at least, for sharing with the other side.

    Example: qgraph blame conv2_out --run latest --top 3
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).blame(group, top=top)
    if json:
        write_json(answer)
        return
    price = "" if answer["price_db"] is None else f", the sharing costs up to {decibel(answer['price_db'])} dB"
    write_line(f"{answer['group']} of {answer['run']}: {plural(len(answer['tensors']), 'tensor')}{price}")
    if not answer["cuts"]:
        write_line("nothing can be cut: it is one slot, or holds together by rules that cost nothing")
    for cut in answer["cuts"]:
        cost = "price not known" if cut["price_db"] is None else f"{decibel(cut['price_db'])} dB"
        write_line(f"{cost}: {named(cut['parts'][0])}  |  {named(cut['parts'][1])}")
        for edge in cut["edges"]:
            write_line(f"  without {edge_in_words(edge)}")


def named(tensors: list[str]) -> str:
    """Some names, and how many more there are."""
    more = len(tensors) - NAMES_SHOWN
    return ", ".join(tensors[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def edge_in_words(edge: dict[str, Any]) -> str:
    """What an edge is, and how it can be done without."""
    if edge["kind"] == "tensor":
        return f"{edge['from']} → {edge['to']}: by a requantize there"
    ends = f"{edge['from']} – {edge['to']}"
    if not edge["op"]:  # a sharing that the user asked for
        return f"{ends}: {edge['source']}"
    return f"{ends}: the {edge['strength']} rule {edge['rule']} at {edge['op']} ({edge['op_type']})"


@app.command()
def cascade(op: OpArgument, run: RunOption = LATEST, db: Db = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """Tell what one op's constraints drag along: what its groups would fall into without them.

    Example: qgraph cascade Concat_5 --run latest
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).cascade(op)
    if json:
        write_json(answer)
        return
    if not answer["ties"]:
        write_line(f"{op} ({answer['op_type']}) ties nothing in {answer['run']}")
        return
    rules = {(tie["rule"], tie["strength"]): tie["source"] for tie in answer["ties"]}
    for (rule, strength), source in rules.items():
        write_line(f"{op} ({answer['op_type']}) ties by the {strength} rule {rule}: {source}")
    for group in answer["groups"]:
        count = len(group["parts"])
        parts = "hangs together without it" if count == 1 else f"falls into {plural(count, 'part')} without it"
        write_line(f"{group['group']} ({plural(len(group['tensors']), 'tensor')}) {parts}:")
        write_table(
            ("tensors#", "price dB", "tensors"),
            ((len(part["tensors"]), decibel(part["price_db"]), named(part["tensors"])) for part in group["parts"]),
        )


@app.command()
def coverage(
    run: RunArgument,
    db: Db = DEFAULT_DATABASE,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything is missing.")] = False,
    json: Json = False,
) -> None:
    """Count what is quantized, and tell why the rest is not; a slot that waits for a scale is missing.

    Example: qgraph coverage latest --strict
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).coverage()
    if json:
        write_json(answer)
    else:
        show_coverage(answer)
    if strict and answer["missing"]:
        raise Exit(1)


def in_general(reason: str) -> str:
    """A reason without the names of ops, so that those of many ops can be counted.

    >>> in_general("conv_1 (Conv) and relu_1 (Relu) run as one")
    'Conv and Relu run as one'
    """
    return re.sub(r"\S+ \(([A-Z]\w*)\)", r"\1", reason)


def show_coverage(answer: dict[str, Any]) -> None:
    """States with their counts, the reasons for float slots with theirs, and what is missing by name."""
    states = sorted({*answer["tensors"], *answer["slots"]})
    write_table(
        ("state", "tensors#", "slots#"),
        ((state, answer["tensors"].get(state, 0), answer["slots"].get(state, 0)) for state in states),
    )
    reasons: dict[str, int] = {}
    for slot in answer["not_quantized"]:
        reason = in_general(slot["reason"] or "no reason")
        reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        write_line("")
        ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        write_table(("slots#", "not quantized because"), ((count, reason) for reason, count in ranked))
    write_line("")
    for line in broken_ratios(answer["findings"], answer["run"]):
        write_line(f"ratio: {line}")
    for finding in (one for one in answer["findings"] if one["kind"] != "ratio"):
        write_line(f"{finding['kind']}: {finding['message']} ({finding['source']})")
    for slot in answer["missing"]:
        write_line(f"missing: {slot['slot']} ({slot['tensor']}) is {slot['state']}, {cell(slot['reason'])}")
    total = sum(answer["slots"].values())
    write_line(f"{answer['run']}: {plural(total, 'slot')}, {len(answer['missing'])} of them missing")
