"""Results as Markdown, and their place in the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from results import ModelResult, Results

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
"""What stands between them in the README is written here."""


def record(results: Results, readme: Path = README) -> None:
    """Put the results into the README, in place of the last ones."""
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")


def markdown(results: Results) -> str:
    """All tables."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    samples = ", ".join(sorted({str(model.samples) for model in results.models}))
    rounds = max(len(runs) for model in results.models for runs in model.rounds.values())
    return "\n\n".join(
        (
            f"{results.date}, {results.machine}, load {results.load:.1f} before it began; {versions}; "
            f"{samples} samples, {rounds} rounds.",
            table(
                ("model", "contender", "time", "/ inference", "peak memory"),
                (row for model in results.models for row in contenders(model)),
            ),
            "Peak memory of qgraph, samples read from the file:",
            table(("model", "samples", "peak memory", "ratio"), (memory(model) for model in results.models)),
            "Seconds of `calibrate` and `solve` by stage, the first time in a process (with a new database) / again:",
            by_model(results.models, [stages(model) for model in results.models]),
            "Seconds of one `solve`, from the stored statistics to the stored run, by observer:",
            by_model(results.models, [{k: f"{v:.3f}" for k, v in m.solving.items()} for m in results.models]),
            "Seconds of the whole process `qgraph share`, warm:",
            by_model(results.models, [{"share": f"{model.share:.2f}"} for model in results.models]),
        )
    )


def contenders(model: ModelResult) -> Iterable[Sequence[str]]:
    """A row for each contender."""
    for contender in model.rounds:
        yield (
            model.name,
            contender,
            f"{model.seconds(contender):.2f} s",
            f"{model.ratio(contender):.2f}",
            f"{model.mib(contender):.0f} MiB",
        )
    for contender, reason in model.failed.items():
        yield model.name, contender, reason, "–", "–"


def memory(model: ModelResult) -> Sequence[str]:
    """The row of a model: both numbers of samples, both peaks."""
    counts, peaks = list(model.memory), list(model.memory.values())
    ratio = f"{peaks[-1] / peaks[0]:.3f}"
    return model.name, " and ".join(map(str, counts)), " and ".join(f"{peak:.0f} MiB" for peak in peaks), ratio


def stages(model: ModelResult) -> Mapping[str, str]:
    """Each stage with both times."""
    first, again = model.stages["first"], model.stages["again"]
    both = [*zip(first, first.values(), again.values(), strict=True), ("all", sum(first.values()), sum(again.values()))]
    return {stage: f"{one:.2f} / {other:.2f}" for stage, one, other in both}


def by_model(models: Sequence[ModelResult], columns: Sequence[Mapping[str, str]]) -> str:
    """A column for each model, a row for each key that all of them have."""
    rows = [key for key in columns[0] if all(key in column for column in columns)]
    headers = ("", *(model.name for model in models))
    return table(headers, ((key, *(column[key] for column in columns)) for key in rows))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
