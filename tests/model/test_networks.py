"""Networks from a name and keywords that a user gives."""

import pytest
import torch

from rmt import RMTError
from rmt.model import read_metadata, save_checkpoint
from rmt.model.networks import architecture_arguments, check_network, compare_arguments, create_network


def test_lists_of_json_build_what_tuples_build():
    keywords = dict(depths=[1, 1, 2, 1], decay_ranges=[[2, 6]] * 4, layer_scales=[None, None, 1e-6, 1e-6], cpe=False)
    network = create_network("rmt_test", keywords | dict(phases="none", head_hidden_dim=None))
    assert [len(stage.blocks) for stage in network.stages] == [1, 1, 2, 1]
    assert create_network("rmt_test", dict(attention=["window", "masa", "masa", "masa"], window_size=3)).num_classes
    assert network.phases == "none" and network.head.proj.__class__ is torch.nn.Identity
    assert network.stages[0].blocks[0].attn.decay_range == (2.0, 6.0)
    assert network.stages[2].blocks[1].ls1.gamma[0] == 1e-6 and network.stages[0].blocks[0].cpe is None


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        (dict(phase="none"), "has no argument 'phase': did you mean phases"),
        (dict(xyzzy=1), "has no argument 'xyzzy': there are depths, dims"),
        (dict(pretrained_cfg={}), "has no argument 'pretrained_cfg'"),
        (dict(decomposed=True), "decomposed of rmt_test needs a list of 4 entries, one per stage, and is True"),
        (dict(decomposed=[True] * 3), "needs a list of 4 entries"),
        (dict(depths=[1, 1], decomposed=[True] * 4), "decomposed of rmt_test needs a list of 2 entries"),
        (dict(decomposed=[True, True, True, "yes"]), "decomposed of rmt_test needs true or false, and is 'yes'"),
        (dict(cpe="maybe"), "cpe of rmt_test needs true or false, and is 'maybe'"),
        (dict(cpe=1), "cpe of rmt_test needs true or false, and is '1'"),
        (dict(patch_size=True), "patch_size of rmt_test needs a whole number above 0, and is 'True'"),
        (dict(decay_ranges=[2, 6, 2, 6]), "decay_ranges of rmt_test needs a pair of numbers, and is '2'"),
        (dict(decay_ranges=[[2]] * 4), "decay_ranges of rmt_test needs a pair of numbers"),
        (dict(decay_ranges=[[-2, 6]] * 4), "decay_ranges of rmt_test needs a pair of numbers"),
        (dict(decay_ranges=[[0, 0]] * 4), "that cannot run: decay_range=.0.0, 0.0.: both numbers must be above 0"),
        (dict(num_heads=[0, 2, 2, 2]), "num_heads of rmt_test needs a whole number above 0, and is '0'"),
        (dict(depths=[10**6, 1, 1, 1]), "do not describe a network: depths=.1000000, 1, 1, 1. is out of bounds"),
        (dict(window_size="a"), "window_size of rmt_test needs a whole number above 0, and is 'a'"),
        (dict(attention=["window", "masa"]), "attention of rmt_test needs a list of 4 entries, one per stage"),
        (dict(attention=["window", 1, "masa", "masa"]), "attention of rmt_test needs a word, and is '1'"),
        (dict(phases="spiral"), "do not describe a network: phases='spiral' is not one of"),
        (dict(head_norm="batch2"), "do not describe a network: head_norm='batch2'"),
        (dict(num_heads=[3, 2, 2, 2]), "do not describe a network: dim=8 is not a multiple"),
        (dict(depths=[1, 1]), "dims needs 2 entries, one per stage"),
        (dict(depths=[0, 1, 1, 1]), "depths of rmt_test needs a whole number above 0, and is '0'"),
        (dict(depths=[1.5, 1, 1, 1]), "depths of rmt_test needs a whole number above 0"),
        (dict(layer_scales=["a", 1, 1, 1]), "layer_scales of rmt_test needs a number"),
    ],
)
def test_what_describes_no_network_is_one_line(keywords, problem):
    with pytest.raises(RMTError, match=problem) as error:
        check_network("rmt_test", keywords)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_arguments_of_a_file(tmp_path):
    """Those of the architecture, without classes, channels and drop path; and how another network differs."""
    keywords = dict(decay="paper", decomposed=[True, True, True, True], head_norm="layer", drop_path_rate=0.3)
    save_checkpoint(create_network("rmt_test", keywords | dict(num_classes=3)), tmp_path / "w")
    metadata = read_metadata(tmp_path / "w")
    del keywords["drop_path_rate"]
    assert architecture_arguments(metadata) == keywords
    assert compare_arguments(metadata, create_network("rmt_test", keywords)) == {}
    other = create_network("rmt_test", dict(phases="axial"))
    assert compare_arguments(metadata, other) == dict(
        decay=("paper", "released"), phases=("flat", "axial"), decomposed=([True] * 4, (True, True, True, False))
    )
