"""The data card of an export: `README.md` and `clusters.csv`, for whoever is given the folder without the run."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luss.export.job import SKIPPED, Tally
from luss.files import write_text

MAX_ROWS = 1000
_SOURCES = {
    "given": "a number that a person chose",
    "auto": "found from the attention alone, without any label",
    "validation": "searched on the validation masks: ground truth was used",
}
_LIMITS = """\
- Nobody has checked these masks. Clusters were found without labels: one may hold parts of several categories, and one
  category may be spread over several clusters. Names, where there are any, were given by a person who looked at samples.
- A mask is made on a coarse grid of positions and enlarged: thin parts and outlines are less exact than they look.
- "Background" means: not salient enough, or a dropped cluster. It is not a category.
- Sizes are those of upright images: where a photograph carries an EXIF rotation, apply it before laying a mask over it.
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card says besides counts.

    Attributes:
        title: Name of the run and the split.
        format_text: What lies in the folder and how to read it, Markdown.
        origin: Where the masks come from, one sentence.
        threshold: tau; None where no threshold was used (a network's predictions).
        threshold_source: given, auto or validation.
        used_labels: Whether ground truth had a part in the threshold.
        edits: Sentences on the layer of `luss labels`; empty where nothing was edited.
        warnings: What a reader should know first.
        made: Rows of "how it was made": what and value.
        settings: Settings of each stage that differ from their defaults.
    """

    title: str
    format_text: str
    origin: str
    threshold: float | None = None
    threshold_source: str = "given"
    used_labels: bool = False
    edits: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    made: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write_card(
    folder: Path, facts: CardFacts, tally: Tally, categories: Mapping[int, str], *, num_skipped: int
) -> None:
    """Writes the card of an export into its folder; `categories` names the ids in use, and `num_skipped` images were left out.

    Raises:
        LussError: The disk is full.
    """
    write_text(folder / "clusters.csv", clusters_csv(tally, categories))
    write_text(folder / "README.md", card(facts, tally, categories, num_skipped=num_skipped))


def clusters_csv(tally: Tally, categories: Mapping[int, str]) -> str:
    """`id,name,images,pixels` of the background and every cluster in use, by id."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "name", "images", "pixels"))
    for cluster, name in {0: "background", **categories}.items():
        table.writerow((cluster, name, int(tally.images[cluster]), int(tally.pixels[cluster])))
    return text.getvalue()


def card(facts: CardFacts, tally: Tally, categories: Mapping[int, str], *, num_skipped: int) -> str:
    """The text of the card, Markdown; see `write_card`."""
    foreground = 1 - tally.pixels[0] / max(1, tally.pixels.sum())
    counts = [f"- images: {tally.num_images:,}"]
    if num_skipped:
        counts.append(f"- left out: {num_skipped:,} images, listed with the reasons in `{SKIPPED}`")
    counts += [f"- clusters: {len(categories):,}", f"- pixels that belong to a cluster: {foreground:.1%}"]
    if facts.threshold is not None:
        source = _SOURCES.get(facts.threshold_source, facts.threshold_source)
        labels = "ground truth was used" if facts.used_labels else "no labels were used"
        counts.append(f"- threshold: {facts.threshold:.4f}, {source} ({labels})")
    counts += [f"- edited: {sentence}" for sentence in facts.edits]
    sections = [
        f"# {facts.title}",
        *(f"**{warning}**" for warning in facts.warnings),
        facts.origin,
        facts.format_text,
        "## Counts",
        "\n".join(counts),
        "## How it was made",
        "\n".join(f"- {what}: {value}" for what, value in facts.made.items()),
        _settings(facts.settings),
        "## Clusters",
        _table(tally, categories),
        "## Known limits",
        _LIMITS.rstrip(),
        "## Licence",
        "That of the source images, to be stated by you.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _settings(settings: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"{key}={value}" for stage in settings.values() for key, value in stage.items()]
    return "Settings that differ from the defaults:\n\n```\n" + "\n".join(lines) + "\n```" if lines else ""


def _table(tally: Tally, categories: Mapping[int, str]) -> str:
    total = max(1, int(tally.pixels.sum()))
    by_size = sorted(categories, key=lambda cluster: (-int(tally.images[cluster]), cluster))
    rows = ["| id | name | images that show it | share of all pixels |", "|---|---|---|---|"]
    for cluster in sorted(by_size[:MAX_ROWS]):
        name = categories[cluster].replace("|", "\\|")
        share = tally.pixels[cluster] / total
        rows.append(f"| {cluster} | {name} | {int(tally.images[cluster]):,} | {share:.2%} |")
    more = len(categories) - MAX_ROWS
    said = f"The {MAX_ROWS} largest; {more} more in `clusters.csv`." if more > 0 else "The same in `clusters.csv`."
    return "\n".join([*rows, "", said])
