"""The commands in docs/serving.md are valid, and its limits are those of the code."""

import json
import re

import pytest
from helpers.documentation import page, parse_command
from helpers.served import classifier, picture

from rmt.serve.limits import Limits

PAGE = page("docs/serving.md")
COMMANDS = re.findall(r"^    (rmt .*?)(?: +#.*)?$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    parse_command(command)


def test_the_limits_are_those_of_the_code():
    limits = Limits()
    for text in (
        f"`--max-images` ({limits.max_images})",
        f"up to `--max-batch` images. By default that is {limits.max_batch} on a GPU.",
        f"`--max-wait` ({1000 * limits.max_wait:g})",
        f"`--max-queue` ({limits.max_queue})",
        f"`--timeout` ({limits.timeout:g})",
        f"`--max-body` ({limits.max_body // 2**20} MB",
        f"`--max-pixels` ({limits.max_pixels // 10**6} million",
        f"`--max-connections` ({limits.max_connections:,})",
    ):
        assert text in " ".join(PAGE.split()), text


def test_the_attacks_are_the_committed_ones():
    text = page("docs/reliability.md")
    found = [json.loads(page(f"benchmarks/serve-hostile{task}.json")) for task in ("", "-detect", "-segment")]
    for name in found[0]["parts"]:
        parts = [attack["parts"][name] for attack in found]
        cells = [", ".join(f"{count:,} × {status}" for status, count in part["answers"].items()) for part in parts]
        assert f"| {name} | {' | '.join(cells)} |" in text
        assert not any(part["lost"] or part["faults"] for part in parts)
    memory = [f"{attack['memory_mb']['before']:,}, {attack['memory_mb']['peak']:,} MB" for attack in found]
    assert f"| memory before, at most, PyTorch included | {' | '.join(memory)} |" in text
    for attack in found:
        assert "--minutes 10" in attack["about"]["command"]
        assert (attack["exit_code"], attack["tracebacks_in_the_log"]) == (0, 0)


def test_the_speeds_are_the_committed_ones():
    for name, row in json.loads(page("benchmarks/serve.json"))["results"].items():
        assert f"| {name} | {row['loop_images_per_cpu_s'][str(row['best_batch'])]:.1f} ({row['best_batch']}) |" in PAGE
        latency = f"{row['half_load_p50_ms']:.0f}, {row['half_load_p99_ms']:.0f} ms"
        assert (
            f"| {row['images_per_cpu_s']:.1f} | {row['ratio']:.2f} | {latency} | {row['first_answer_s']:.1f} s |"
            in PAGE
        )


def test_the_example_answer_has_the_form_of_the_server_s(tmp_path):
    """The names, their order and their types are those of an answer; the values depend on the network and the photo."""
    testclient = pytest.importorskip("starlette.testclient")
    from rmt.serve.app import create_app
    from rmt.serve.hosted import Hosted

    def form(value):
        if isinstance(value, list):
            return [form(one) for one in value]
        return [(key, form(one)) for key, one in value.items()] if isinstance(value, dict) else type(value)

    (example,) = re.findall(r"```json\n(.*?)```", page("docs/reference/http.md"), re.DOTALL)
    with testclient.TestClient(create_app(Hosted(classifier(tmp_path / "a.safetensors"), device="cpu"))) as client:
        answer = client.post("/predict?top_k=2", content=picture(), headers={"content-type": "image/png"})
    assert form(json.loads(example)) == form(answer.json())
