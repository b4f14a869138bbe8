"""`odfpn convert SOURCE OUTPUT`: the command line, and the command as a process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from object_detection_fpn.cli import main as cli
from object_detection_fpn.config.label_map import load_label_map


@pytest.fixture
def source(scene, tmp_path):
    folder = scene.draw(tmp_path / "source")
    rows = [f"{name},{label},{','.join(map(str, box))}" for name, boxes in scene.boxes.items() for label, box in boxes]
    (folder / "boxes.csv").write_text(
        "\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows, "b.png,,,,,", "x.jpg,,,,,"])
    )
    return folder


@pytest.mark.no_cover
def test_the_command_as_a_process(source, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("dog\n\ncat\n")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "object_detection_fpn.cli", "convert", str(source), str(out)]
    command += ["--split", "0.5", "0.5", "--classes", str(classes), "--num_processes", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    assert result.returncode == 0 and "Traceback" not in output, output
    assert f"{source} is CSV of boxes: 4 images; splits: data (4)." in output
    assert "1 missing images, left out:" in output
    items = load_label_map(str(out / "label_map.pbtxt")).items
    assert [(item.id, item.name) for item in items] == [(1, "dog"), (2, "cat")]
    assert sum(split["images"] for split in json.loads((out / "report.json").read_text())["splits"].values()) == 3
    files = sorted(path.name for path in out.glob("*"))
    assert "label_map.pbtxt" in files and "report.json" in files and not any("part" in name for name in files)


@pytest.mark.parametrize(
    "words, message",
    [
        (["{source}"], "OUTPUT is missing. Allowed: odfpn convert SOURCE OUTPUT"),
        ([], "--annotations, --image_dir, --output is missing. Allowed: SOURCE OUTPUT, or --annotations FILE"),
        (["{source}", "{out}", "--annotations", "a.json"], "--annotations does not go with SOURCE OUTPUT."),
        (
            ["--annotations", "a", "--image_dir", "b", "--output", "c", "--strict"],
            "--strict does not go with --annotations FILE",
        ),
        (["{source}", "{out}", "--split", "0.9", "0.2"], "--split 0.9 0.2 is not allowed."),
        (["{source}", "{out}", "--strict"], "x.jpg, which does not exist. (--strict)"),
        (["{source}", "{source}/boxes.csv"], "OUTPUT = "),
        (
            ["{source}", "{out}", "--classes", "{source}/none.txt"],
            "none.txt: cannot be read (No such file or directory).",
        ),
        (["{source}", "{out}", "--format", "voc"], "is not PASCAL VOC (--format voc)."),
        (["{out}/none", "{out}"], "there is no such file or folder."),
        (["{source}", "{source}/"], "is SOURCE. Allowed: another folder."),
    ],
)
def test_mistakes_are_one_line(source, tmp_path, capfd, words, message):
    out = tmp_path / "out"
    arguments = [word.format(source=source, out=out) for word in words]
    assert cli.main(["convert", *arguments]) == 2
    output = capfd.readouterr().err
    assert message in output and "Traceback" not in output
    assert not list(out.glob("*"))


def test_files_of_class_names_are_checked(source, tmp_path, capfd):
    classes = tmp_path / "classes.txt"
    for text, message in (
        ("\n", "is empty"),
        ("cat\ncat", 'has "cat" twice'),
        ("cat", 'is of class "dog". Allowed: cat.'),
    ):
        classes.write_text(text)
        assert cli.main(["convert", str(source), str(tmp_path / "out"), "--classes", str(classes)]) == 2
        assert message in capfd.readouterr().err
