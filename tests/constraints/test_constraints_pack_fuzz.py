"""Damaged rule packs are refused with one error, or are still packs; nothing else happens."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgraph.constraints.pack import load_pack, pack_names
from qgraph.constraints.rule_pack import RulePack
from qgraph.errors import PackError

PACKS = {name: files("qgraph.constraints").joinpath(f"packs/{name}.toml").read_text() for name in pack_names()}

TOKENS = st.sampled_from(
    [
        "true",
        "-1",
        "1e999",
        "nan",
        '""',
        "[]",
        "{}",
        "'x'",
        "[[",
        "]",
        "=",
        "0x",
        "9" * 400,
        '"Conv"',
        "[-1, 0]",
        "\n",
        "\x00",
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    lines = PACKS[draw(st.sampled_from(sorted(PACKS)))].splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            lines.pop(at)
        elif kind == 1:
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        elif kind == 2 and "=" in lines[at]:
            lines[at] = lines[at].split("=")[0] + f"= {draw(TOKENS)}\n"
        elif kind == 3:
            cut = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:cut] + draw(TOKENS) + lines[at][cut:]
        else:
            lines[at] = lines[at].replace(draw(st.sampled_from(list("abeinost0123"))), draw(TOKENS), 1)
        lines = lines or ["\n"]
    return "".join(lines)


@given(text=damaged())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_pack_is_refused_or_still_a_pack(tmp_path: Path, text: str) -> None:
    (tmp_path / "pack.toml").write_text(text)
    refusal = None
    try:
        assert isinstance(load_pack(str(tmp_path / "pack.toml")), RulePack)
    except PackError as error:
        refusal = str(error)
    assert refusal is None or "pack.toml" in refusal


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * 100_000, b'a = "' + b"x" * 10_000_000])
def test_a_file_that_is_no_pack_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pack.toml").write_bytes(content)
    with pytest.raises(PackError, match=r"pack\.toml"):
        load_pack(str(tmp_path / "pack.toml"))
