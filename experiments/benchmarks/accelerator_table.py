"""The results of `accelerator.py` as Markdown tables."""

from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """Return a page with a table for each part; what was not measured is a dash with its reason."""
    device = dict(results["device"])
    name = device.pop("device", "no device answered")
    versions = ", ".join(f"{key} {value}" for key, value in device.items())
    lines = [f"# Figures of {name}", "", f"{versions}; {results['minutes']:g} minutes for all parts.", ""]
    for part in results["parts"].values():
        lines += [f"## {part['title']}", "", *_table(part), ""]
    return "\n".join(lines)


def _table(part: dict[str, Any]) -> list[str]:
    rows = {case: part["rows"].get(case, {"missing": part["missing"]}) for case in part.get("planned", part["rows"])}
    if not rows:
        return [f"– ({_cell(part['missing'])})"]
    columns = list(dict.fromkeys(column for values in rows.values() for column in values if column != "missing"))
    # Where nothing at all was measured, one column has the reasons.
    columns = columns or ["figures"]
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for case, values in rows.items():
        reason = _cell(values.get("missing") or part["missing"])
        cells = [_cell(values[column]) if column in values else "–" for column in columns]
        absent = [place for place, column in enumerate(columns) if column not in values]
        if absent and reason:
            cells[absent[0]] = f"– ({reason})"
        lines.append(f"| {_cell(case)} | " + " | ".join(cells) + " |")
    size = part.get("sizes")
    return [
        *(["Small sizes: these show that it works, and are no figures to quote.", ""] if size == "small" else []),
        *lines,
    ]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
