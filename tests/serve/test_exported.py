"""Exported files behind the server and its page: the answers of the network, and a line for what a graph cannot do."""

import base64
import io

import numpy as np
import pytest
import torch
from helpers.served import NAMES, SIZE, picture
from PIL import Image

import rmt
from rmt.data.detection.rle import decode
from rmt.export import ExportOptions, export
from rmt.heads import save_model

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from rmt.serve.app import create_app
from rmt.serve.hosted import Hosted

pytestmark = pytest.mark.slow  # each export takes seconds
PNG = {"content-type": "image/png"}
WIDE, UPRIGHT = picture(0, (64, 128)), picture(1, (128, 64))


def spread(model):
    """Weights with which outputs depend on the image."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def segmenter(path):
    model = rmt.segmenter("semantic_fpn", "rmt_test", 3, head_args=dict(channels=8, fpn_channels=8))
    save_model(spread(model), path, classes=NAMES, preprocessing=SIZE | dict(long_side=128, short_side=64))


def detector(head):
    def make(path):
        options = {"convs": 1} if head == "retinanet" else {"detections": 8}
        model = rmt.detector(head, "rmt_test", 3, fpn_channels=16, **options)
        save_model(spread(model), path, classes=NAMES, preprocessing=dict(size=[64, 128], category_ids=[1, 2, 3]))

    return make


MAKE = {"segment": segmenter, "retinanet": detector("retinanet"), "mask_rcnn": detector("mask_rcnn")}


@pytest.fixture(scope="module", params=MAKE)
def source(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / f"{request.param}.safetensors"
    MAKE[request.param](path)
    return path


@pytest.mark.parametrize(("format", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_the_server_answers_as_the_network_does(source, tmp_path, format, suffix):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[format])
    photo, target = Image.open(io.BytesIO(WIDE)), tmp_path / f"model{suffix}"
    options = ExportOptions(format, image_size=(64, 128))  # a detector's own is a square, to which images are padded
    export(source, target, options, images=[photo], log=print)
    (expected,) = rmt.load(source, device="cpu").predict([WIDE])
    with TestClient(create_app(Hosted(target, device="cpu"))) as client:
        about = client.get("/model").json()
        assert (about["explains"], about["classes"]) == (False, list(NAMES))
        query = "" if "segment" in source.name else "?threshold=0"
        (answer,) = client.post(f"/predict{query}", content=WIDE, headers=PNG).json()["results"]
        if "segment" in source.name:
            labels = Image.open(io.BytesIO(base64.b64decode(answer["classes_png"])))
            assert np.array_equal(np.asarray(labels), expected.numpy())
        else:
            assert len(answer["objects"]) == len(expected.scores) > 0
            for place, item in enumerate(answer["objects"]):
                left, top, width, height = item["box"]
                assert np.allclose([left, top, left + width, top + height], expected.boxes[place], atol=0.05)
                assert item["score"] == pytest.approx(float(expected.scores[place]), abs=1e-4)
                if expected.masks is not None:
                    ours, theirs = (decode(mask, 64, 128) for mask in (item["mask"], expected.masks[place]))
                    assert (ours != theirs).mean() < 0.01
        for path, content, words in (
            ("/predict", UPRIGHT, "image: this network takes images of 64×"),
            ("/explain", WIDE, "only a model file"),
            ("/embed", WIDE, "no features"),
        ):
            refused = client.post(path, content=content, headers=PNG)
            assert refused.status_code == 422 and words in refused.json()["error"]["message"]
            assert str(tmp_path) not in refused.text
        assert client.get("/").status_code == 200
