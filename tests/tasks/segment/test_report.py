from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from rmt.tasks.segment import report
from rmt.training.evaluator import MetricColumns


@pytest.mark.parametrize(("name", "label"), [("miou", "mIoU"), ("aacc", "pixel acc.")])
def test_the_head_has_the_score_that_best_is_chosen_by(monkeypatch, name, label):
    page = MagicMock()
    monkeypatch.setattr(report, "ReportPage", lambda *args: page)
    for part in ("_random_pairs", "_samples_height", "_samples", "best_predictor", "class_bars"):
        monkeypatch.setattr(report, part, MagicMock())
    data = SimpleNamespace(classes=("a", "b"))
    module = SimpleNamespace(metric_columns=MetricColumns(("miou", "aacc"), name, label), data=data)
    shown = {"miou": 1.0, "aacc": 2.0}
    final = {"val": {"miou": 3.0, "aacc": 4.0}}
    metrics = {
        "details": {"best": {"per_class": [], "most_frequent": shown}},
        "images": {"val": 9},
        "last": {"epoch": 1, "raw": final},
        "best": {"epoch": 1, "weights": "raw", **final},
    }
    report.draw_report(module, None, metrics, None, None)
    scores, title = page.title.call_args.args
    assert title == f"{label}, 9 validation images"
    assert [text for _, text in scores] == [f"{final['val'][name]:.2f} %"] * 2 + [f"{shown[name]:.2f} %"]
    assert page.curves.call_args.kwargs["baseline"] == shown[name]
