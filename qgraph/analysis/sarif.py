"""What a check found as SARIF 2.1.0, the format in which code hosts take findings of static analysis.

The specification is OASIS "Static Analysis Results Interchange Format (SARIF) Version 2.1.0". A finding is located at
the model file (line 1: hosts want a region, and a model has no lines) and, as logical locations, at its op and tensors.
Its repair is told in the message and as a property: a SARIF "fix" replaces text, which a model has none of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from urllib.parse import quote

from qgraph.analysis.violation import Report, Rule, Violation

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(report: Report, model: Path, version: str) -> Mapping[str, object]:
    """A SARIF log with one run.

    Args:
        model: the file that was checked; written relative to the current folder where it lies below it.
        version: of qgraph.
    """
    index = {rule.name: place for place, rule in enumerate(report.rules)}
    driver = {
        "name": "qgraph",
        "semanticVersion": version,
        "rules": [_rule(report, rule) for rule in report.rules],
    }
    uri = _uri(model)
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "artifacts": [{"location": {"uri": uri}}],
                "results": [
                    *(_result(report, entry, index[entry.rule], uri, "error") for entry in report.violations),
                    *(_result(report, entry, index[entry.rule], uri, "note") for entry in report.notes),
                ],
                "columnKind": "utf16CodeUnits",
            }
        ],
    }


def _id(report: Report, rule: str) -> str:
    """Rule names are unique within a pack only."""
    return f"{report.target}/{rule}"


def _rule(report: Report, rule: Rule) -> Mapping[str, object]:
    about = PREFERRED if rule.preferred else _KINDS[rule.kind]
    return {
        "id": _id(report, rule.name),
        "name": rule.name,
        "shortDescription": {"text": f"{about} ({report.target}, pack version {report.version})"},
        "fullDescription": {"text": f"{about}. Source: {rule.source}"},
        "defaultConfiguration": {"level": "note" if rule.preferred else "error"},
        "properties": {"tags": ["quantization", rule.kind]},
    }


PREFERRED = "Tensors that the target prefers to have equal scale and zero point"
"""What a rule is about that a model may break."""

_KINDS = {
    "same": "Tensors that must have equal scale and zero point",
    "fixed": "A tensor whose scale and zero point are prescribed",
    "derived": "A bias whose scale follows from input and weight",
    "fused": "Ops that run as one, without quantization between them",
    "ratio": "Scales whose ratio is bounded",
    "scheme": "Integer type, symmetry, granularity or range of quantized tensors",
    "requantize": "A tensor that is read with other parameters than it is made with",
    "pair": "Integers that are read with other parameters than they are made with",
}


def _result(report: Report, violation: Violation, index: int, uri: str, level: str) -> Mapping[str, object]:
    parameters = "; ".join(f"{tensor.name}: {tensor.values}" for tensor in violation.tensors[:SHOWN])
    more = f"; and {len(violation.tensors) - SHOWN} more" if len(violation.tensors) > SHOWN else ""
    identity = "\0".join((_id(report, violation.rule), violation.op, *(tensor.name for tensor in violation.tensors)))
    names = dict.fromkeys(tensor.name for tensor in violation.tensors)
    logical = [{"name": violation.op, "kind": "function"}, *({"name": name, "kind": "variable"} for name in names)]
    region = {"startLine": 1}
    return {
        "ruleId": _id(report, violation.rule),
        "ruleIndex": index,
        "level": level,
        "message": {"text": f"{violation.message} ({parameters}{more}). Repair: {violation.repair}."},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri, "index": 0}, "region": region},
                "logicalLocations": logical,
            }
        ],
        "partialFingerprints": {"qgraphViolation/v1": hashlib.sha256(identity.encode()).hexdigest()[:32]},
        "properties": {
            "repair": violation.repair,
            "alternatives": [change.as_json() for change in violation.alternatives],
        },
    }


SHOWN = 4
"""Tensors whose parameters the message spells out."""


def _uri(model: Path) -> str:
    path = model.resolve()
    here = Path.cwd()
    if path.is_relative_to(here):
        return quote(PurePath(path.relative_to(here)).as_posix())
    return path.as_uri()
