"""Errors are one line: what, which, cure."""

import json
import pickle

from qgraph.errors import ConflictError, NotFoundError, QgraphError


def test_an_error_is_one_line_whatever_its_parts_contain() -> None:
    error = QgraphError("cannot read\nthe model", "a\tb.onnx", "check\n\nthe file")
    assert str(error) == "cannot read the model: a b.onnx; check the file"


def test_an_unknown_name_suggests_near_matches_in_order_of_nearness() -> None:
    error = NotFoundError.among("tensor", "conv2_ou", ["conv1_out", "conv2_out", "x"], "list them")
    assert error.cure == "did you mean conv2_out or conv1_out?"
    assert NotFoundError.among("tensor", "zzz", ["conv1_out"], "list them").cure == "list them"


def test_parts_survive_for_the_json_form() -> None:
    error = ConflictError("a", "b", "c", ("one", "two"))
    assert json.loads(json.dumps({"what": error.what, "which": error.which, "cure": error.cure}))["which"] == "b"
    assert error.conflicts == ("one", "two")
    assert pickle.loads(pickle.dumps(QgraphError("a", "b", "c"))).cure == "c"  # process pools hand errors over so
