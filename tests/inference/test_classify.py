from pathlib import Path

import pytest
import torch
from helpers.runs import finished_run, photos
from PIL import Image

import rmt
from rmt.data.images import BadImage
from rmt.tasks.classify.evaluate import evaluate_checkpoint


def test_a_run_folder_means_its_best_weights():
    predictor = rmt.load(finished_run(), device="cpu")
    assert predictor.classes == ("blue", "green", "red")
    assert predictor.preprocessing["size"] == [32, 32]
    assert not predictor.model.training
    assert predictor.metadata["metrics"]["epoch"] >= 1


def test_predictions_are_ranked_and_add_up():
    predictor = rmt.load(finished_run(), device="cpu")
    paths = sorted(Path(photos()).glob("val/*/*.png"))
    answers = predictor.predict(paths, top_k=5, batch_size=5)
    assert len(answers) == 12
    for answer in answers:
        shares = [p.probability for p in answer]
        assert len(shares) == 3  # there are only three classes
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert all(p.label == predictor.classes[p.index] for p in answer)


def test_one_image_or_several_as_path_or_picture():
    predictor = rmt.load(finished_run() / "last.safetensors", device="cpu")
    path = next(Path(photos()).glob("val/red/*.png"))
    by_path, by_text, by_picture = (predictor.predict(image, top_k=1) for image in (path, str(path), Image.open(path)))
    assert by_path == by_text == by_picture
    assert predictor.predict([], top_k=1) == []


def test_an_unreadable_image_costs_no_other_answer(tmp_path):
    predictor = rmt.load(finished_run(), device="cpu")
    good = sorted(Path(photos()).glob("val/*/*.png"))[:4]
    (tmp_path / "a.png").write_bytes(b"no picture")
    mixed = [good[0], tmp_path / "a.png", good[1].read_bytes(), None, b"", Image.open(good[2]), good[3]]
    answers = predictor.predict(mixed, batch_size=2)
    wanted = predictor.predict(good, batch_size=1)  # as above, where an image is alone in each batch: others round
    assert [answers[i] for i in (0, 2, 5, 6)] == wanted
    bad = {1: str(tmp_path / "a.png"), 3: "image 3", 4: "image 4"}
    for i, name in bad.items():
        assert isinstance(answers[i], BadImage) and answers[i].name == name


def test_the_network_sees_what_the_evaluation_saw():
    predictor = rmt.load(finished_run(), device="cpu")
    result = evaluate_checkpoint(finished_run(), photos(), device="cpu", workers=0)
    paths = sorted(Path(photos()).glob("val/*/*.png"))
    right = sum(predictor.predict(path, top_k=1)[0][0].label == path.parent.name for path in paths)
    assert result["top1"] == 100 * right / 12
    assert sum(map(sum, result["confusion"])) == 12


def test_mistakes_are_one_line(tmp_path):
    predictor = rmt.load(finished_run(), device="cpu")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(BadImage, match=r"a\.png"):
        predictor.predict(tmp_path / "a.png")
    with pytest.raises(rmt.RMTError, match="top_k"):
        predictor.predict([], top_k=0)
    with pytest.raises(rmt.RMTError, match="--image-size"):
        rmt.load(finished_run(), image_size=8)


@pytest.mark.parametrize("size", [-1, 31, 8193, 2**64])
def test_image_sizes_have_bounds(size):
    with pytest.raises(rmt.RMTError, match=f"--image-size must be from 32 to 8,192, not {size}"):
        rmt.load(finished_run(), device="cpu", image_size=size)


def test_another_image_size_is_taken():
    predictor = rmt.load(finished_run(), device="cpu", image_size=64)
    sizes = []
    predictor.model.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape))
    predictor.predict(next(Path(photos()).glob("val/red/*.png")))
    assert sizes == [torch.Size([1, 3, 64, 64])]


def test_evaluation_matches_classes_by_name(tmp_path):
    (tmp_path / "data" / "red").mkdir(parents=True)
    (tmp_path / "data" / "blue").mkdir()
    for name in ("red", "blue"):
        source = next(Path(photos()).glob(f"val/{name}/*.png"))
        (tmp_path / "data" / name / "x.png").write_bytes(source.read_bytes())
    result = evaluate_checkpoint(finished_run(), str(tmp_path / "data"), device="cpu", workers=0)
    assert result["classes"] == ["blue", "green", "red"]
    assert [sum(row) for row in result["confusion"]] == [1, 0, 1]
    (tmp_path / "data" / "cat").mkdir()
    (tmp_path / "data" / "cat" / "x.png").write_bytes(source.read_bytes())
    with pytest.raises(rmt.RMTError, match="does not know: cat"):
        evaluate_checkpoint(finished_run(), str(tmp_path / "data"), device="cpu", workers=0)


def test_unreadable_images_are_left_out_and_named(tmp_path):
    for name in ("red", "blue"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "bad.png").write_bytes(b"x")
    with pytest.raises(rmt.RMTError, match=r"none of the images to evaluate on \(2\)"):
        evaluate_checkpoint(finished_run(), str(tmp_path / "data"), device="cpu", workers=0)
    source = next(Path(photos()).glob("val/blue/*.png"))
    (folder / "good.png").write_bytes(source.read_bytes())
    result = evaluate_checkpoint(finished_run(), str(tmp_path / "data"), device="cpu", workers=0)
    assert result["images"] == 1
    assert [Path(name).name for name in result["unreadable"]] == ["bad.png"] * 2
