"""Requests and answers, for each task, against the predictor called by itself; refusals; what is never done."""

import asyncio
import base64
import io
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.served import NAMES, classifier, detector, picture, segmenter
from PIL import Image

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

import rmt
from rmt.data.detection.rle import decode
from rmt.inference.exported import WrongSize
from rmt.inference.inputs import open_image
from rmt.serve.app import create_app
from rmt.serve.guard import OPEN, PAGE, Guard
from rmt.serve.hosted import Hosted
from rmt.serve.limits import Limits
from rmt.serve.metrics import Metrics

MAKE = {"classify": classifier, "detect": detector, "segment": segmenter}
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return {task: Hosted(make(folder / f"{task}.safetensors"), device="cpu") for task, make in MAKE.items()}


@pytest.fixture(scope="module")
def clients(hosted):
    opened = {task: TestClient(create_app(each, Limits(max_pixels=10_000))) for task, each in hosted.items()}
    for client in opened.values():
        client.__enter__()
    yield opened
    for client in opened.values():
        client.__exit__(None, None, None)


def error(response):
    """(status, code, message) of a refusal, which has nothing else."""
    (body,) = response.json().values()
    assert set(body) == {"code", "message"} and "\n" not in body["message"]
    return response.status_code, body["code"], body["message"]


def test_a_picture_sent_in_three_ways_gives_what_the_predictor_gives(clients, hosted):
    client, data = clients["classify"], [picture(0), picture(1, kind="JPEG")]
    encoded = [base64.b64encode(each).decode() for each in data]
    files = [("image", ("a.png", each)) for each in data]
    found = hosted["classify"].predictor.predict(data)
    for count, sent in (
        (1, dict(content=data[0], headers=PNG)),
        (2, dict(files=files)),
        (2, dict(json={"images": encoded})),
    ):
        answers = client.post("/predict", **sent).json()
        assert answers["version"] == 1 and len(answers["results"]) == count
        for answer, expected in zip(answers["results"], found, strict=False):
            assert [p["label"] for p in answer["predictions"]] == [p.label for p in expected]
            assert [p["probability"] for p in answer["predictions"]] == pytest.approx([p.probability for p in expected])
    assert len(client.post("/predict?top_k=1", content=data[0], headers=PNG).json()["results"][0]["predictions"]) == 1


def test_masks_that_are_pasted_one_by_one_are_those_of_the_network(hosted):
    predictor = hosted["detect"].predictor
    image, size = predictor.transform()(open_image(picture(0)))
    (whole,) = predictor.runtime([image], sizes=[size])
    (found,) = predictor.run([(image, size)])
    assert found.size == size == (40, 56) and len(found.masks) > 0
    for run, expected in zip(found.masks, whole["masks"][:, 0].numpy(), strict=True):
        assert np.array_equal(decode(run, *size), expected)


def test_objects_come_with_names_boxes_and_masks(clients, hosted):
    data = picture(3)
    found = hosted["detect"].predictor.predict(data)[0]
    assert len(found.boxes), "the network finds nothing to compare"
    answer = clients["detect"].post("/predict?threshold=0", content=data, headers=PNG).json()["results"][0]
    assert (answer["width"], answer["height"], len(answer["objects"])) == (56, 40, len(found.boxes))
    for entry, box, label, mask in zip(answer["objects"], found.boxes, found.labels, found.masks, strict=True):
        left, top, width, height = entry["box"]
        assert [left, top, left + width, top + height] == pytest.approx(box.tolist(), abs=1e-4)
        assert entry["label"] == NAMES[label] and entry["index"] == label
        assert np.array_equal(decode(entry["mask"], 40, 56), decode(mask, 40, 56))
    assert (
        clients["detect"].post("/predict?threshold=1", content=data, headers=PNG).json()["results"][0]["objects"] == []
    )


def test_a_class_map_comes_as_a_palette_picture(clients, hosted):
    data = picture(4)
    expected = hosted["segment"].predictor.predict(data)[0].numpy()
    answer = clients["segment"].post("/predict", content=data, headers=PNG).json()["results"][0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["classes_png"])))), expected)
    shares = {entry["index"]: entry["share"] for entry in answer["shares"]}
    assert shares == {k: pytest.approx((expected == k).mean()) for k in np.unique(expected)}


@pytest.mark.parametrize("task", MAKE)
def test_embeddings_are_those_of_the_predictor(clients, hosted, task):
    data = [picture(5), picture(6)]
    files = [("image", ("a", each)) for each in data]
    for query, options in (("", {}), ("?stage=2", {"stage": 2})):
        answers = clients[task].post(f"/embed{query}", files=files).json()["results"]
        expected = hosted[task].predictor.embed(data, **options)
        assert np.allclose([answer["embedding"] for answer in answers], expected.numpy(), atol=1e-5)
    refused = error(clients[task].post("/embed?stage=9", files=files))
    assert refused == (422, "not_usable", "stage must lie in 1 to 4, the stages of the network, not 9")


@pytest.mark.parametrize("task", MAKE)
def test_an_explanation_is_that_of_the_predictor(clients, hosted, task):
    answer = clients[task].post("/explain?x=0.25&y=0.5", content=picture(7), headers=PNG).json()["results"][0]
    expected = hosted[task].predictor.explain(picture(7), at=(14, 20), evidence=False)
    assert answer["at"] == [14, 20] and answer["view"] == expected.values()["view"] and len(answer["stages"]) == 4
    for stage, view in zip(answer["stages"], expected.stages, strict=True):
        assert stage["query"] == list(view.query) and stage["grid"] == list(view.grid)
        for head, weights in zip(stage["heads"], np.abs(view.attention), strict=True):
            shares = np.frombuffer(base64.b64decode(head["attention"]), np.uint8).reshape(view.grid)
            assert np.abs(shares / 255 - weights / weights.max()).max() <= 0.51 / 255
            assert head["half_distance"] > 0


def test_a_point_that_the_network_does_not_see_is_refused(clients):
    client, wide = clients["classify"], picture(7, (40, 160))
    status, _, message = error(client.post("/explain?x=0.01", content=wide, headers=PNG))
    assert status == 422 and "lies outside what the network is shown of the image" in message
    assert client.post("/explain", content=wide, headers=PNG).status_code == 200
    for x in ("2", "nan", "left"):
        assert error(client.post(f"/explain?x={x}", content=wide, headers=PNG))[0] == 422


def test_the_page_comes_with_its_files_and_asks_nobody_else(clients):
    page = clients["classify"].get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8" and "<title>RMT demo</title>" in page.text
    texts = [page.text, *(clients["classify"].get(path).text for path in PAGE if path != "/")]
    for text in texts:
        assert len(text) > 900 and not re.search(r"https?://|@import|innerHTML|insertAdjacentHTML|eval\(", text)
    assert not re.search(r"style=|<script>|\son\w+=", page.text), "the policy of the page allows no inline code"


@pytest.mark.parametrize(
    ("sent", "status", "part"),
    [
        (dict(content=b"no image", headers=PNG), 422, "image: not an image in a format that can be read"),
        (dict(content=b"", headers=PNG), 422, "no image"),
        (dict(content=picture(size=(200, 60)), headers=PNG), 422, "60×200 pixels: above the limit of 10,000"),
        (dict(content=b"x", headers={"content-type": "text/html"}), 415, "send an image as"),
        (dict(content=b"x"), 415, "send an image as"),
        (dict(json={"images": []}), 422, "the JSON must be"),
        (dict(json={"images": ["%%%"]}), 422, "not valid base64"),
        (dict(json={"images": ["AAAA"], "path": "/etc/passwd"}), 422, "the JSON must be"),
        (dict(json={"images": ["https://example.com/a.png"]}), 422, "not valid base64"),
        (dict(json={"images": ["AAAA"] * 17}), 413, "17 images: a request may have 16"),
        (dict(files=[("image", ("a", b"x"))] * 17), 413, "too many files"),
        (dict(files={"other": ("a", b"x")}), 422, "in the form field 'image'"),
        (dict(data={"image": "/etc/passwd"}, files={"x": b""}), 422, "the form cannot be read"),
        (dict(content=b"--x", headers={"content-type": "multipart/form-data"}), 422, "missing boundary"),
        (dict(content=b"[" * 100_000, headers={"content-type": "application/json"}), 422, "the JSON must be"),
        (dict(content=b"x" * (2**25 + 1), headers=PNG), 413, "larger than 32 MB"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(clients, sent, status, part):
    found = error(clients["classify"].post("/predict", **sent))
    assert found[0] == status and part in found[2]


def test_options_are_those_of_the_task(clients):
    data = dict(content=picture(), headers=PNG)
    for task, query in (
        ("classify", "threshold=0.5"),
        ("detect", "top_k=3"),
        ("segment", "top_k=3"),
        ("segment", "a=b"),
    ):
        assert "no such option of this network" in error(clients[task].post(f"/predict?{query}", **data))[2]
    for task, query in (("classify", "top_k=0"), ("classify", "top_k=many"), ("detect", "threshold=2")):
        status, code, message = error(clients[task].post(f"/predict?{query}", **data))
        assert (status, code) == (422, "not_usable") and message.startswith(query.partition("=")[0])


def test_one_broken_image_costs_no_other_its_answer(clients):
    files = [("image", ("a", each)) for each in (picture(0), b"broken", picture(1))]
    first, second, third = clients["classify"].post("/predict", files=files).json()["results"]
    assert "predictions" in first and "predictions" in third
    assert second == {"error": {"code": "not_usable", "message": "image: not an image in a format that can be read"}}


def test_other_paths_and_methods_are_refused_as_json(clients):
    client = clients["classify"]
    assert error(client.get("/predict"))[:2] == (405, "method_not_allowed")
    assert client.get("/predict").headers["allow"] == "POST"
    for path in ("/etc/passwd", "/../../etc/passwd", "/predict/", "/docs"):
        assert error(client.get(path))[:2] == (404, "not_found")


def test_head_is_answered_as_get(clients):
    client = clients["classify"]
    for path in (*PAGE, "/model", "/health", "/openapi.json", "/predict", "/nothing"):
        whole, head = client.get(path), client.head(path)
        assert (head.status_code, dict(head.headers)) == (whole.status_code, dict(whole.headers)) and not head.content
    assert "head" not in {method for each in client.get("/openapi.json").json()["paths"].values() for method in each}


def test_the_model_is_described_and_every_answer_has_its_headers(clients):
    response = clients["segment"].get("/model")
    model = response.json()
    assert model["task"] == "segment" and model["classes"] == list(NAMES) and model["transparent"] == [2]
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for response in (clients["segment"].get("/health"), clients["segment"].get("/nothing")):
        assert response.headers["x-content-type-options"] == "nosniff"


def test_counters_have_labels_of_known_paths_only(clients):
    client = clients["classify"]
    client.get("/made-up-path")
    client.post("/predict", content=picture(), headers=PNG)
    text = client.get("/metrics").text
    assert 'rmt_requests_total{path="/predict",status="200"}' in text and "made-up" not in text
    assert 'path="other",status="404"' in text
    assert "rmt_images_waiting 0.0" in text and "rmt_body_bytes 0.0" in text


def test_a_bug_is_a_500_without_internals(hosted, monkeypatch, capsys):
    client = TestClient(create_app(hosted["classify"]), raise_server_exceptions=False)
    monkeypatch.setattr(hosted["classify"].predictor, "run", lambda batch, **_: 1 / 0)
    with client:
        assert error(client.post("/predict", content=picture(), headers=PNG)) == (
            500,
            "internal",
            "an error of the server; its log says more",
        )


def test_a_token_is_asked_for(hosted):
    client = TestClient(create_app(hosted["classify"], token="correct horse"))
    with client:
        for given in (
            "",
            "Bearer wrong",
            "Basic correct horse",
            "Bearer correct hors",
            "Bearer correct horse2",
            "Bearer é",
        ):
            response = client.get("/model", headers={"authorization": given.encode()} if given else {})
            assert error(response)[:2] == (401, "unauthorized") and response.headers["www-authenticate"] == "Bearer"
        assert client.get("/model", headers={"authorization": "bearer correct horse"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_other_hosts_and_origins_are_not_answered(hosted):
    client = TestClient(create_app(hosted["classify"], hosts=("LocalHost", "::1")))
    with client:
        for host in ("localhost", "LOCALHOST:8000", "[::1]:8000"):
            assert client.get("/model", headers={"host": host}).status_code == 200
        for host in ("evil.example", "localhost.evil.example", "[::2]", ""):
            assert error(client.get("/model", headers={"host": host}))[0] == 403
        near = {"host": "localhost:8000"}
        assert client.get("/model", headers=near | {"origin": "http://localhost:8000"}).status_code == 200
        for origin in ("http://evil.example", "null", "http://localhost:9000", "http://[", ""):
            assert error(client.get("/model", headers=near | {"origin": origin}))[0] == 403


def test_more_than_the_server_accepts_is_refused_and_the_rest_answered(hosted, monkeypatch):
    """Two images wait at most: while the network stands still, the others are sent away, to come back later."""
    gate, predictor = threading.Event(), hosted["classify"].predictor
    run = predictor.run
    monkeypatch.setattr(predictor, "run", lambda batch, **o: (gate.wait(10), run(batch, **o))[1])
    with TestClient(create_app(hosted["classify"], Limits(max_queue=2, max_images=2))) as client:
        answers = []
        senders = [
            threading.Thread(target=lambda: answers.append(client.post("/predict", content=picture(), headers=PNG)))
            for _ in range(6)
        ]
        for sender in senders:
            sender.start()
        while len(answers) < 4:
            pass
        gate.set()
        for sender in senders:
            sender.join()
    assert sorted(each.status_code for each in answers) == [200, 200, 503, 503, 503, 503]
    assert all(1 <= int(each.headers["retry-after"]) <= 60 for each in answers if each.status_code == 503)


def test_an_answer_that_takes_too_long_is_given_up(hosted, monkeypatch):
    gate, predictor = threading.Event(), hosted["classify"].predictor
    run = predictor.run
    monkeypatch.setattr(predictor, "run", lambda batch, **o: (gate.wait(10), run(batch, **o))[1])
    with TestClient(create_app(hosted["classify"], Limits(timeout=0.6))) as client:
        response = client.post("/predict", content=picture(), headers=PNG)
        gate.set()
        assert error(response)[:2] == (503, "busy") and "retry-after" in response.headers
        assert client.post("/predict", content=picture(), headers=PNG).status_code == 200


def test_the_document_describes_the_answers(clients):
    document = clients["detect"].get("/openapi.json").json()
    predict = document["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {
        *("application/json", "application/octet-stream", "image/*", "multipart/form-data"),
    }
    assert {"200", "401", "403", "408", "413", "415", "422", "503"} <= set(predict["responses"])
    assert "Retry-After" in predict["responses"]["503"]["headers"]
    needs_token = {
        path for path, methods in document["paths"].items() if any("401" in m["responses"] for m in methods.values())
    }
    assert needs_token == set(document["paths"]) - set(OPEN)
    assert {"Object", "Runs"} <= set(document["components"]["schemas"])
    assert json.dumps(document).isascii()


@pytest.mark.slow
def test_the_shipped_network_is_served_by_name():
    hosted = Hosted("rmt_micro", device="cpu")
    with TestClient(create_app(hosted)) as client:
        data = picture()
        answer = client.post("/predict", content=data, headers=PNG).json()["results"][0]["predictions"][0]
    assert answer["label"] == rmt.load("rmt_micro", device="cpu").predict(open_image(data))[0][0].label


def test_an_image_that_a_fixed_graph_does_not_take_is_told_both_sizes(clients, hosted, monkeypatch):
    def run(batch, **options):
        raise WrongSize(
            Path("/secret/model.onnx"), "takes images of 192×256 pixels (height × width), not 256×192", ": …"
        )

    monkeypatch.setattr(hosted["segment"].predictor, "run", run)
    status, _, message = error(clients["segment"].post("/predict", content=picture(), headers=PNG))
    assert status == 422 and "takes images of 192×256 pixels (height × width), not 256×192" in message
    assert "secret" not in message


def test_an_answer_to_a_connection_that_was_lost_is_no_error_of_the_server():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def run(text):
        async def send(message):
            raise RuntimeError(text)

        scope = {"type": "http", "path": "/health", "headers": [(b"host", b"localhost")]}
        await Guard(app, Metrics(()))(scope, None, send)

    asyncio.run(run("unable to perform operation on <TCPTransport closed=True>; the handler is closed"))
    with pytest.raises(RuntimeError, match="another"):
        asyncio.run(run("another error"))
