"""`rmt token-labels`: complete, restartable, in parts, the same whatever the batches."""

import numpy as np
import pytest
import torch
from helpers.pictures import make_folder
from PIL import Image

import rmt
from rmt.commands.cli import main
from rmt.data.sources.folders import FolderSet
from rmt.data.splits import open_splits
from rmt.data.token_labels.label_maps import INDEX, LabelMaps, LabelMapSpec, read_map_file
from rmt.errors import RMTError
from rmt.tasks.classify.token_labelling.maps import make_token_labels
from rmt.tasks.classify.token_labelling.teacher import dense_logits, load_teacher


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("photos"), classes=3, train=4, val=1, size=40)
    Image.new("RGB", (60, 20), "red").save(root / "train" / "red" / "wide.png")
    (root / "train" / "green" / "3.png").write_bytes(b"no image")  # number 7 of 13
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    rmt.save_checkpoint(rmt.create_model("rmt_pico", num_classes=3), path, classes=("blue", "green", "red"))
    return str(path)


def make(teacher, photos, out, **options):
    return make_token_labels(
        load_teacher("", teacher), str(photos), out, **dict(shard_images=4, batch_size=3, workers=0) | options
    )


def test_every_image_has_the_map_that_the_teacher_gives_it(teacher, photos, tmp_path):
    made = make(teacher, photos, tmp_path / "maps")
    about = made.spec
    assert (about.images, about.files, about.grid, about.top_k) == (13, 4, (1, 1), 3)
    assert made.maps == 12
    assert [name.rpartition("/")[2] for name in made.unreadable] == ["3.png"]
    assert 1_000_000 * made.spec.bytes_per_image == 1_000_000 * about.bytes_per_image == 1_000_000 * (1 * 3 * 4 + 8)

    images, loaded = FolderSet(photos / "train"), load_teacher("", teacher)
    maps = LabelMaps(tmp_path / "maps", images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (loaded.mean, loaded.std))
    for index in range(13):
        if index == 7:
            continue
        image = images.load(index)
        pixels = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
        x = ((torch.from_numpy(pixels).float() - mean) / std)[None]
        with torch.no_grad():
            expected = dense_logits(loaded.model, x)[0]
        expected = expected - expected.exp().mean(2, keepdim=True).log()  # all three classes are stored
        scores, classes = maps.load(index, image.size)
        order = expected.argsort(2, descending=True)
        assert (torch.from_numpy(classes).long() == order).all()
        torch.testing.assert_close(torch.from_numpy(scores).float(), expected.gather(2, order), atol=2e-3, rtol=2e-3)


def test_logits_that_overflow_half_precision_are_refused(photos, tmp_path):
    network = rmt.create_model("rmt_pico", num_classes=3)
    torch.nn.init.constant_(network.head.fc.bias[:1].data, 1e6)
    rmt.save_checkpoint(network, tmp_path / "t.safetensors", classes=("blue", "green", "red"))
    with pytest.raises(RMTError, match="rmt_pico: its logits are not finite in half precision"):
        make(str(tmp_path / "t.safetensors"), photos, tmp_path / "maps")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_bytes_by_other_batches_and_workers(teacher, photos, tmp_path):
    make(teacher, photos, tmp_path / "a", batch_size=4)
    make(teacher, photos, tmp_path / "b", workers=2, batch_size=4)
    assert content(tmp_path / "b") == content(tmp_path / "a")


def test_only_what_is_missing_or_damaged_is_made_again(teacher, photos, tmp_path, capsys):
    out = tmp_path / "maps"
    made = make(teacher, photos, out)
    whole = content(out)
    (out / made.spec.file_name(0)).unlink()
    damaged = out / made.spec.file_name(2)
    damaged.write_bytes(whole[damaged.name][:-3])
    again = make(teacher, photos, out)
    assert again.maps == 8 and content(out) == whole
    assert f"made again: {damaged}" in capsys.readouterr().err.replace("\n", "")
    assert make(teacher, photos, out).maps == 0


def test_a_kill_leaves_whole_shards(teacher, photos, tmp_path, monkeypatch):
    import rmt.tasks.classify.token_labelling.map_files as module

    calls = []

    def write(path, arrays, real=module.write_map_file):
        calls.append(path)
        real(path, arrays)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_map_file", write)
    with pytest.raises(KeyboardInterrupt):
        make(teacher, photos, tmp_path / "maps")
    monkeypatch.undo()
    about = LabelMapSpec.read(tmp_path / "maps")
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [about.file_name(0), about.file_name(1), INDEX]
    for number in range(2):
        read_map_file(tmp_path / "maps" / about.file_name(number), about, number)
    assert make(teacher, photos, tmp_path / "maps").maps == 5


def test_maps_cover_images_that_a_run_holds_out(teacher, photos, tmp_path):
    make(teacher, photos / "train", tmp_path / "maps")
    for seed in (0, 1):
        rest = open_splits(str(photos / "train"), holdout=0.3, seed=seed).train
        assert len(LabelMaps(tmp_path / "maps", rest)) == len(rest) == 9


def test_a_folder_of_something_else_is_refused(teacher, photos, tmp_path):
    out = tmp_path / "maps"
    make(teacher, photos, out, shard_images=5)
    with pytest.raises(RMTError, match="maps made otherwise .shard_images 5 -> 4"):
        make(teacher, photos, out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RMTError, match="holds thesis.tex but no .* another folder for the label maps"):
        make(teacher, photos, tmp_path / "other")


def test_the_command_says_what_it_made(teacher, photos, tmp_path, capsys):
    command = ["token-labels", "--weights", teacher, "--data", str(photos), "--out", str(tmp_path), "--workers", "0"]
    assert main([*command, "--image-size", "64", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "label maps of 13 images by rmt_pico, 2×2 locations of 3 classes" in said
    assert "0.06 GB per million images" in said and "equals the label for" in said
    assert "no map: " in said and "3.png (not an image" in said
    assert main(["token-labels", "--data", str(photos), "--out", str(tmp_path)]) == 1
    assert "--teacher is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--top-k 0", "--top-k must be at least 1, not 0"),
        ("--top-k -3", "--top-k must be at least 1, not -3"),
        ("--top-k 101", "--top-k 101 is more than a map may have: take at most 100"),
        ("--workers -1", "--workers must be at least 0, not -1"),
        ("--device cpu --precision fp16", "--precision fp16 needs a GPU"),
    ],
)
def test_wrong_options_are_refused_before_the_teacher_is_loaded(words, said, tmp_path, capsys):
    command = ["token-labels", "--weights", "nowhere", "--data", "nowhere", "--out", str(tmp_path / "maps")]
    assert main([*command, *words.split()]) == 1
    assert said in capsys.readouterr().err


def test_doubtful_maps_are_warned_of(photos, tmp_path, capsys):
    network = tmp_path / "t.safetensors"
    rmt.save_checkpoint(rmt.create_model("rmt_pico", num_classes=7), network)
    make(str(network), photos, tmp_path / "maps")
    assert "the teacher has 7 classes, the images have 3" in " ".join(capsys.readouterr().err.split())
    rmt.save_checkpoint(rmt.create_model("rmt_pico", num_classes=3), network, classes=("red", "green", "blue"))
    make(str(network), photos, tmp_path / "others")
    assert "names or the order of the teacher's classes differ" in " ".join(capsys.readouterr().err.split())
