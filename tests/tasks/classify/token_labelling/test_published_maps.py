"""Published label maps, one file per image: found by name, packed as they are, nothing in them is trusted."""

import zipfile

import numpy as np
import pytest
import torch
from helpers.image_sets import encode, picture, write_tar
from helpers.pictures import make_folder
from helpers.runs import tiny_recipe

import rmt
from rmt.commands.cli import main
from rmt.data.splits import open_train
from rmt.data.token_labels.label_maps import LabelMaps
from rmt.errors import RMTError
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.token_labelling.module import TokenLabelModule
from rmt.tasks.classify.token_labelling.published_maps import import_label_maps, read_published_map


def a_map(number: int, classes=(0, 1), height: int = 3, width: int = 4) -> torch.Tensor:
    """Two classes at each place; the first has the logit 8 + number / 8, the second −1."""
    maps = torch.zeros(2, 2, height, width, dtype=torch.float16)
    maps[0, 0], maps[0, 1] = 8 + number / 8, -1
    maps[1, 0], maps[1, 1] = classes
    return maps


@pytest.fixture
def photos(tmp_path):
    """3 classes of 4 images, and a published map of each but `green/2.png`."""
    root = make_folder(tmp_path / "photos", classes=3, train=4, val=1, size=40)
    images = open_train(str(root))
    for index in range(len(images)):
        path = tmp_path / "published" / images.path(index).parent.name / f"{images.path(index).stem}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index != 6:
            label = int(images.labels[index])
            torch.save(a_map(index, (label, (label + 1) % 3)), path)
    return root


def packed(photos, **options):
    source, out = photos.parent / "published", photos.parent / "maps"
    return import_label_maps(source, str(photos), out, **dict(shard_images=5) | options)


def test_maps_come_back_as_they_were_published(photos):
    report = packed(photos)
    assert (report.spec.grid, report.spec.top_k, report.spec.files) == ((3, 4), 2, 3)
    assert (report.maps, report.agree, report.without_map) == (11, 11, 1)
    images = open_train(str(photos))
    maps = LabelMaps(photos.parent / "maps", images)
    assert maps.available.tolist() == [index != 6 for index in range(12)]
    for index in (0, 5, 11):
        scores, classes = maps.load(index, images.load(index).size)
        published = a_map(index, (images.labels[index], (images.labels[index] + 1) % 3)).numpy()
        assert scores.dtype == np.float16
        assert np.array_equal(scores, published[0].transpose(1, 2, 0))
        assert np.array_equal(classes, published[1].transpose(1, 2, 0))


def test_a_second_call(photos):
    packed(photos)
    again = packed(photos, workers=0)
    assert (again.maps, again.without_map) == (0, 1)


def test_images_without_a_map_are_left_out_and_counted(photos):
    packed(photos)
    recipe = tiny_recipe(
        data=str(photos),
        model="rmt_test_tl",
        image_size=64,
        token_labels=str(photos.parent / "maps"),
        mixup=0.0,
        cutmix=0.0,
    )
    data = ClassifyData.open(recipe)
    assert len(data.train) == len(data.maps) == 11
    assert data.skipped["train"] == {"no label map": 1}
    assert not any("green/2.png" in data.train.name(index) for index in range(11))
    assert data.maps.load(6, (40, 40))[0][0, 0, 0] == 8 + 7 / 8  # image 7 is number 6 of the rest
    module = TokenLabelModule(rmt.create_model("rmt_test_tl", num_classes=3), recipe, data)
    assert any("1 training image left out, without a label map in" in line for line in module.introduction())


def test_samples_of_a_tar_have_names(tmp_path):
    samples = {f"train/x{n}": {"png": encode(picture(n), "PNG"), "cls": str(n % 2).encode()} for n in range(4)}
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "train-000000.tar", samples)
    (tmp_path / "tars" / "classes.txt").write_text("ant\nbee\n")
    for n in range(3):
        folder = tmp_path / "published" / ("ant", "bee")[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(a_map(n), folder / f"x{n}.pt")
    report = import_label_maps(tmp_path / "published", str(tmp_path / "tars"), tmp_path / "maps")
    assert (report.maps, report.without_map) == (3, 1)
    maps = LabelMaps(tmp_path / "maps", open_train(str(tmp_path / "tars")))
    assert [maps.load(n, (12, 10))[0][0, 0, 0] for n in range(3)] == [8, 8.125, 8.25]


def test_rows_of_parquet_shards_have_none(tmp_path):
    (tmp_path / "published").mkdir()
    with pytest.raises(RMTError, match=r"train-00000-of-00001.parquet\[0\] has no file name to find its map by"):
        import_label_maps(tmp_path / "published", "sample", tmp_path / "maps")


def test_a_folder_of_other_maps(photos, tmp_path):
    with pytest.raises(RMTError, match="no such folder"):
        import_label_maps(tmp_path / "none", str(photos), tmp_path / "maps")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RMTError, match=r"no image of 12 has a map \(.*blue/0.pt is missing"):
        import_label_maps(tmp_path / "empty", str(photos), tmp_path / "maps")


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return eval, ("1",)


BAD = {
    "a tensor of shape": a_map(0)[0],
    "a tensor of shape (2, 101, 3, 4)": torch.zeros(2, 101, 3, 4).half(),
    "a tensor of shape (2, 1, 300, 4)": torch.zeros(2, 1, 300, 4).half(),
    "empty": torch.zeros(2, 1, 3, 0).half(),
    "a dict instead of a tensor": {"maps": a_map(0)},
    "torch.int64": a_map(0).long(),
    "torch.sparse_coo": a_map(0).to_sparse(),
    "larger than its data": torch.zeros(1).half().expand(2, 5, 200, 200),
    "not finite": torch.full((2, 1, 3, 4), torch.inf),
    "numbers in 0…2": a_map(0, (0, 3)),
    "numbers in 0…2 ": a_map(0, (0, 0.5)),
    "eval": Evil(),
    "eval, which could run code": [a_map(0), Evil()],
}


@pytest.mark.parametrize("message", BAD)
def test_a_file_that_is_no_map_is_one_line(photos, message):
    path = photos.parent / "published" / "green" / "1.pt"
    torch.save(BAD[message], path)
    with pytest.raises(RMTError) as error:
        packed(photos)
    text = str(error.value)
    assert text.startswith(str(path)) and message.strip() in text and "\n" not in text


def test_arbitrary_bytes_and_large_files_are_one_line(photos):
    path = photos.parent / "published" / "green" / "1.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**6))  # unpacks to more than the file
    for content in (path.read_bytes(), b"", b"no map", path.read_bytes()[:50]):
        path.write_bytes(content)
        with pytest.raises(RMTError, match=r"green/1.pt: not a label map") as error:
            packed(photos)
        assert "\n" not in str(error.value)
    with open(path, "wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(RMTError, match="it has 16,777,217 bytes, more than"):
        packed(photos)


def test_another_grid_is_one_line(photos):
    torch.save(a_map(0, height=4), photos.parent / "published" / "green" / "1.pt")
    with pytest.raises(RMTError, match=r"green/1.pt: a map of 4×4×2 \(height, width, classes\), but .* 3×4×2"):
        packed(photos)


def test_numbers_that_half_precision_does_not_hold(tmp_path):
    torch.save(a_map(0), tmp_path / "m.pt")
    read_published_map(tmp_path / "m.pt", 2049)
    with pytest.raises(RMTError, match="torch.float16 cannot represent the class numbers up to 2049 exactly"):
        read_published_map(tmp_path / "m.pt", 2050)


def test_the_command_says_what_is_missing(photos, capsys):
    published, out = photos.parent / "published", photos.parent / "maps"
    command = ["token-labels", "--import", str(published), "--data", str(photos), "--out", str(out)]
    assert main([*command, "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert "label maps of 12 images by published, 3×4 locations of 2 classes" in printed
    assert "11 made now; the pooled map's top-1 class equals the label for 100.0 %" in printed
    assert f"1 image without a map in {published}, left out" in printed
    assert main([*command, "--teacher", "resnet18", "--batch-size", "8"]) == 1
    assert "--teacher, --batch-size: no effect with --import" in capsys.readouterr().err
    assert main(["train", "imagenet-small-tl", "--data", str(photos), "--token-labels", str(published)]) == 1
    assert "`--import` packs published maps" in capsys.readouterr().err
