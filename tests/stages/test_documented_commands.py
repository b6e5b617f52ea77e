"""Every command line of the documents and of the configurations' comments is run on a tiny data set.

What takes seconds is run as it stands. What trains or queues is checked as far as its first step (`--dry-run`), and the lines for several GPUs are
run one after the other over small sizes. What other tests run is named with the test; a line that belongs to nothing fails.
"""

import functools
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from documented import BLOCKS, ROOT, filled_in, others
from running import Launcher

from luss.config import load_config
from luss.settings import TrainSettings
from stages.cli import main
from stages.pipeline import STAGES
from stages.running import preflight
from stages.running.preflight import check_processes

pytestmark = pytest.mark.slow

# What the documents name, and what lies in the test's folder in its place.
PLACES = {
    r"(/path/to/(photos|objects27)|/data/(imagenet-s/)?ImageNetS\d+)": "photographs",
    r"/path/to/more": "photographs/validation",
    r"outputs/(photos|demo|imagenet_s50|imagenet_s919|RUN)": "run",
    r"(PREDICTIONS|predictions|val|test|unfiltered)": "run/predict/masks/validation",
    r"(MASKS|masks|val-masks|test-masks|photographs/validation-segmentation)": "photographs/validation-segmentation",
    r"~/Downloads/names.json": "names.json",
    # The tiny run has ten clusters and categories.
    r"3,17": "3,7",
    r"50": "10",
}
# Which words mean a place: what follows these, and what has no option before it.
OPTIONS = ("--names", "--merge", "--num-classes", "--attention")
# Lines that need what a finished run on 20 images has not; the test that runs such a line.
ELSEWHERE = {
    "luss prepare imagenet-s": "tests/stages/test_command_prepare.py",
    "luss logs ": "tests/stages/test_submit_local.py",
    # Asks the scheduler, where one is installed.
    "luss cancel ": "tests/slurm/test_on_slurm.py",
    r"luss run .*pretrain.weights=checkpoint.pth.tar": "tests/methods/test_start.py",
    r"luss evaluate .*--attention": "tests/stages/test_command_evaluate.py",
    r"luss export .* imagenet-s-zip": "tests/stages/test_command_export_submission.py",
}
# Lines of other programs: what holds them.
OTHERS = {
    r"git clone REPOSITORY luss && cd luss": "",
    r"source \.venv/bin/activate": "",
    r"make (\w+)\b": "Makefile",
    r"python (examples/train_on_labels|benchmarks/\w+)\.py\b": "{1}.py",
    r"python -m benchmarks\.(\w+)": "benchmarks/{1}.py",
}
TINY = """
device: cpu
pretrain: {epochs: 0, backbone: {name: test_resnet}}
pixel_attention: {epochs: 0}
extract_features: {resize: 36, crop: 32, batch_size: 16, workers: 0}
cluster: {num_clusters: 10, num_restarts: 1}
pseudo_labels: {short_side: 32, workers: 0}
finetune: {epochs: 0, size: 32}
predict: {short_side: 32, workers: 0}
distance_matching: {short_side: 32, workers: 0}
"""


def in_place(words: Sequence[str]) -> list[str]:
    """The words of a command with what lies in the test's folder."""
    found, option = [], ""
    for word in words:
        key, equals, value = word.rpartition("=") if not word.startswith("--") else ("", "", word)
        for pattern, place in PLACES.items():
            # `masks` behind --out is to be made.
            if (equals or not option or option in OPTIONS) and (match := re.match(rf"{pattern}(?=/|$)", value)):
                value = place + value[match.end() :]
        option = word if word.startswith("--") else ""
        found.append(f"made/{word}" if found[-1:] == ["--out"] else f"{key}{equals}{value}")
    return found


def to_run(line: str) -> tuple[str, ...]:
    """What is run for a line: `luss` and its words, or `stages`, the number of processes, the stage and its words."""
    words = in_place(filled_in(line))
    if "stages" in words:
        number = next((word.partition("=")[2] for word in words if word.startswith("--nproc-per-node=")), "1")
        words = ["stages", number, *words[words.index("stages") + 1 :]]
    if words[0] == "stages" or words[1] in ("run", "submit", "compare"):
        words += [] if any(word.startswith("data.root=") for word in words) else ["data.root=photographs"]
        # Tiny train-semi holds 100 images.
        words += ["semi_finetune.batch_size=64"] if any("semi_supervised" in word for word in words) else []
        words += [] if "--dry-run" in words or words[0] == "stages" else ["--dry-run"]
    return tuple(words)


HERE = [(name, line) for name, line in BLOCKS if not any(re.match(each, line) for each in ELSEWHERE)]
COMMANDS = list(dict.fromkeys(to_run(line) for _, line in HERE))


@pytest.fixture(scope="module")
def workspace(finished: Path, shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "photographs").symlink_to(shapes_folder)
    shutil.copytree(finished, folder / "run")
    names = {"names": {"3": "dog"}, "merge": [[3, 7]], "drop": [5]}
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    masks, truth = folder / "run" / "predict" / "masks" / "validation", shapes_folder / "validation-segmentation"
    words = ["--num-classes", "10", "--save-matching", str(folder / "match.json")]
    assert main(["evaluate", str(masks), str(truth), *words]) == 0
    with pytest.MonkeyPatch.context() as patch:
        # Most lines ask for one of two networks.
        patch.setattr(preflight, "build_backbone", functools.cache(preflight.build_backbone))
        yield folder


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:90])
def test_a_command_line_of_the_documents_does_what_it_says(
    words: tuple[str, ...], workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    if words[0] == "stages":
        number, stage, *rest = words[1:]
        assert main(["run", *rest, "--only", stage, "--dry-run"]) == 0, capsys.readouterr().err
        run = load_config(rest[0], rest[1:])
        assert STAGES[stage].distributed
        assert isinstance(STAGES[stage].block(run), TrainSettings)
        check_processes(run, {stage: int(number)})
        return
    if words[1] == "labels":
        shutil.rmtree(workspace / "run" / "pseudo_labels" / "labels" / "layers", ignore_errors=True)
    if "--undo" in words:
        assert main(["labels", "run", "--drop", "2"]) == 0
    assert main(list(words[1:])) == 0, capsys.readouterr().err


def test_the_lines_for_several_gpus_are_a_whole_run(
    luss: Launcher, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    lines = [line for name, line in BLOCKS if name == "README.md" and "data.root=/data/ImageNetS50" in line]
    assert len(lines) == 5
    for line in lines:
        words = filled_in(line.replace("/data/ImageNetS50", str(shapes_folder)))
        rest = words[words.index("run" if "run" in words else "stages") + 1 :]
        more = [str(tmp_path / "tiny.yaml"), f"output={tmp_path / 'run'}"]
        together = words[0] == "torchrun"
        outcomes = luss.together(2, rest[0], *rest[1:], *more) if together else [luss("run", *rest, *more)]
        assert {outcome.code for outcome in outcomes} == {0}, (line, outcomes)
    done = {path.parent.name for path in (tmp_path / "run").glob("*/DONE.json")}
    assert {"manifest", "pretrain", "finetune", "evaluate", "distance_matching"} <= done


def test_no_line_is_left_out() -> None:
    assert len(COMMANDS) > 30
    for pattern, test in ELSEWHERE.items():
        assert any(re.match(pattern, line) for _, line in BLOCKS), pattern
        option = re.split(r"[ *.]+", pattern)[-1] or pattern.split()[1]
        assert option in (ROOT / test).read_text(encoding="utf-8"), test


@pytest.mark.parametrize(("name", "line"), list(others()), ids=lambda value: str(value)[:50])
def test_a_line_of_another_program_names_what_there_is(name: str, line: str) -> None:
    pattern, file = next(((pattern, file) for pattern, file in OTHERS.items() if re.match(pattern, line)), ("", None))
    assert file is not None, line
    if not file:
        return
    match = re.match(pattern, line)
    assert match is not None
    text = (ROOT / file.replace("{1}", match[1])).read_text(encoding="utf-8")
    if file == "Makefile":
        assert re.search(rf"^{match[1]}:", text, re.M)
    assert all(f'"{option}"' in text for option in re.findall(r"(?<= )--[\w-]+", line))
