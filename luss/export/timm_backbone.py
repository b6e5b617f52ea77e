"""Backbones as plain timm weights."""

from collections.abc import Mapping
from pathlib import Path

from luss.export.formats import ExportRequest, FileFormat
from luss.export.model import claim_folder
from luss.files import write_json, write_text
from luss.models.backbone import Backbone
from luss.models.io import save_tensors

_README = """# Backbone of a luss run

`{name}` without a classifier, in the keys of timm:

```python
import timm
from safetensors.torch import load_file

model = timm.create_model("{name}", num_classes=0)
model.load_state_dict(load_file("{first}"), strict=True)
```

Images are RGB in 0..1, minus {mean}, divided by {std}. Files: {files}.
"""


def export_backbones(backbones: Mapping[str, Backbone], out: Path) -> list[Path]:
    """Writes `<name>.safetensors` for each backbone, `config.json`, and a README that says how to load them.

    `timm.create_model(architecture, num_classes=0).load_state_dict(load_file(path), strict=True)` takes each of them.

    Args:
        backbones: Name of the file to backbone, such as "pretrained" and "finetuned"; of one architecture.
        out: The folder to write; an earlier export there is replaced.

    Returns:
        The files of weights.

    Raises:
        LussError: `out` holds something else; the disk is full.
    """
    claim_folder(out, ("architecture", "files"))
    paths = [out / f"{name}.safetensors" for name in backbones]
    first = next(iter(backbones.values()))
    files = [path.name for path in paths]
    # First, because it says whose folder this is: the next try of a killed process may go on.
    write_json(
        out / "config.json",
        {
            "architecture": first.name,
            "num_classes": 0,
            "num_features": first.num_channels,
            "mean": list(first.mean),
            "std": list(first.std),
            "files": files,
        },
    )
    for path, backbone in zip(paths, backbones.values(), strict=True):
        # Some readers ask for the key.
        save_tensors(path, backbone.export(), metadata={"format": "pt"})
    text = _README.format(
        name=first.name, first=files[0], mean=list(first.mean), std=list(first.std), files=", ".join(files)
    )
    write_text(out / "README.md", text)
    return paths


def _write(request: ExportRequest) -> str:
    backbones = request.backbones()
    paths = export_backbones(backbones, request.out)
    name = next(iter(backbones.values())).name
    return f"{' and '.join(map(str, paths))}: weights for timm.create_model({name!r}, num_classes=0)"


FORMAT: FileFormat = _write
