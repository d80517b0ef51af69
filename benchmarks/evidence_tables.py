"""The tables of `evidence.py`: rows of networks that are trained alike, a run for each row and seed."""

from dataclasses import dataclass

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """A network: a name of `--model` with its `--model-args`, or one of `baselines.py`."""

    what: str
    model: str = ""
    args: str = ""
    options: str = ""  # further options of `rmt train`
    baseline: str = ""  # trained for the CPU seconds that the first row of the table took with the same seed


@dataclass(frozen=True)
class Table:
    """`seconds` > 0: each network trains for as many epochs as it runs in so much CPU time."""

    title: str
    rows: dict[str, Row]
    data: str
    images: int = 0  # of CIFAR-10's training images; 0: other data
    recipe: str = "finetune"
    options: str = ""
    epochs: int = 0
    seconds: int = 0
    rates: tuple[float, ...] = ()  # to choose from, by the images held out of train, in half of the time
    seeds: tuple[int, ...] = SEEDS

    @property
    def metric(self) -> str:
        return {"finetune": "top-1", "finetune-detect": "AP50", "finetune-segment": "mIoU"}[self.recipe]

    @property
    def paired(self) -> bool:
        """Whether the rows differ from the first one in a single thing, and are compared with it seed by seed."""
        return not self.seconds and self.recipe == "finetune"


ABLATIONS = {
    "masa": Row("rmt_nano: decomposed MaSA, decay before the softmax, row-major phases, LCE, CPE", "rmt_nano"),
    "attention": Row("attention without decay", "rmt_nano", "decay=none"),
    "decay-after-softmax": Row("the decay multiplies the result of the softmax", "rmt_nano", "decay=paper"),
    "equation-5": Row("Eq. 5: no phases, the decay after the softmax", "rmt_nano", "phases=none,decay=paper"),
    "no-phases": Row("no rotary phases", "rmt_nano", "phases=none"),
    "axial-phases": Row("phases of x and y", "rmt_nano", "phases=axial"),
    "attention-no-phases": Row("attention without decay and phases", "rmt_nano", "decay=none,phases=none"),
    "full-stage1": Row("attention over all pairs of tokens in stage 1", "rmt_nano", "decomposed=[false,true]"),
    "full-stage2": Row("attention over all pairs of tokens in stage 2", "rmt_nano", "decomposed=[true,false]"),
    "full": Row("attention over all pairs of tokens in both stages", "rmt_nano", "decomposed=[false,false]"),
    "full-attention": Row("the same without decay", "rmt_nano", "decomposed=[false,false],decay=none"),
    "no-lce": Row("no local context enhancement", "rmt_nano", "lce=false"),
    "no-cpe": Row("no conditional positional encoding", "rmt_nano", "cpe=false"),
    "no-stem": Row("patches of 4×4 pixels in place of the stem", "rmt_nano", "conv_stem=false,pool_stem=false"),
    "no-ffn-conv": Row("no convolution in the feed-forward network", "rmt_nano", "ffn_conv=false"),
    "equal-decay": Row(
        "one decay rate for all heads, the middle of the range", "rmt_nano", "decay_ranges=[[4,4],[4,4]]"
    ),
    "gate": Row("RetNet's gate in place of the softmax", "rmt_nano", "gate=true"),
    "retention": Row("RetNet's retention, one direction of the row-major order", "rmt_nano", "attention=retention"),
    "retention-bidirectional": Row(
        "retention in both directions, Eq. 3", "rmt_nano", "attention=retention_bidirectional"
    ),
    "window": Row("attention inside 4×4 windows, without decay", "rmt_nano", "attention=window,window_size=4"),
    "neighborhood": Row(
        "attention to the 3×3 tokens around each query, without decay",
        "rmt_nano",
        "attention=neighborhood,window_size=3",
    ),
    "deit": Row(
        "DeiT's design: 4 blocks of 128 channels",
        "deit_tiny_patch16_224",
        "patch_size=4,embed_dim=128,depth=4,num_heads=4",
    ),
    "deit-masa": Row("the same with MaSA", "rmt_deit_small", "depths=[4],dims=[128],num_heads=[4],patch_size=4"),
    "swin": Row(
        "Swin's design: 2 and 2 blocks of 64 and 128 channels",
        "swin_tiny_patch4_window7_224",
        "window_size=4,embed_dim=64,depths=[2,2],num_heads=[2,4]",
    ),
    "swin-masa": Row(
        "the same with MaSA",
        "rmt_swin_tiny",
        "depths=[2,2],dims=[64,128],num_heads=[2,4],mlp_ratios=[4,4],decomposed=[true,true],"
        "decay_ranges=[[2,6],[2,6]],layer_scales=[null,null]",
    ),
}
SIZES = {
    "masa": "MaSA, row-major phases, as released",
    "axial-phases": "MaSA, phases of x and y",
    "no-phases": "MaSA without phases",
    "attention-no-phases": "attention without decay and phases",
}
"""The rows that are also tested on images of other sizes than they were trained on."""
SIDES = ((16, 16), (24, 24), (32, 32), (24, 48), (32, 64), (48, 48), (64, 64), (64, 96), (96, 96))
"""Height and width of those images, in pixels; training has 32 × 32."""

PEERS = {
    "rmt": Row("RMT", "rmt_micro"),
    "swin": Row(
        "Swin",
        "swin_tiny_patch4_window7_224",
        "patch_size=2,window_size=4,embed_dim=40,depths=[2,2,4],num_heads=[2,4,8]",
    ),
    "deit": Row("DeiT", "deit_tiny_patch16_224", "patch_size=4,embed_dim=144,depth=6,num_heads=4"),
    "convnext": Row("ConvNeXt", "convnext_atto", "patch_size=2,depths=[2,2,4,2],dims=[28,56,112,224]"),
    "resnet": Row("ResNet", "resnet18", "channels=[24,48,96,192]"),
    "mambaout": Row("MambaOut", "mambaout_femto", "depths=[2,2,4,2],dims=[24,48,96,192]"),
    "mobilenetv3": Row("MobileNetV3", "mobilenetv3_small_100"),
    "mobilenetv4": Row("MobileNetV4", "mobilenetv4_conv_small_050"),
}

WEIGHTS = "cifar10-weights.rmt.seed-0/last.safetensors"
SEGMENTERS = {
    "fpn": Row("Semantic FPN, rmt_pico", "rmt_pico"),
    "upernet": Row("UPerNet, rmt_pico", "rmt_pico", options="--head upernet"),
    "fpn-weights": Row("Semantic FPN, rmt_pico trained on CIFAR-10 before", "rmt_pico", options=f"--weights {WEIGHTS}"),
    "upernet-weights": Row(
        "UPerNet, rmt_pico trained on CIFAR-10 before", "rmt_pico", options=f"--head upernet --weights {WEIGHTS}"
    ),
    "resnet": Row("Semantic FPN, a narrow ResNet-18", "resnet18", "channels=[24,48,96,192]"),
    "smp": Row("FPN of segmentation_models_pytorch, MobileNetV3-Small", baseline="smp"),
}
TWO_STAGES = "--box-width 192 --rois-per-image 64 --proposals 200"
DETECTORS = {
    "faster-rcnn": Row("Faster R-CNN, rmt_pico", "rmt_pico", options=TWO_STAGES),
    "retinanet": Row("RetinaNet, rmt_pico", "rmt_pico", options="--head retinanet"),
    "faster-rcnn-weights": Row(
        "Faster R-CNN, rmt_pico trained on CIFAR-10 before", "rmt_pico", options=f"{TWO_STAGES} --weights {WEIGHTS}"
    ),
    "torchvision": Row("Faster R-CNN of torchvision, ResNet-18", baseline="faster_rcnn"),
}

MUON = "--image-size 32 --batch-size 96 --optimizer muon --lr 0.012"  # what rmt_nano is trained with
PEER_RATES = (1e-3, 2e-3, 4e-3)
TABLES = {
    "ablations-1-percent": Table(
        "500 training images, 40 epochs", ABLATIONS, "cifar10-500", 500, options=MUON, epochs=40
    ),
    "ablations-10-percent": Table(
        "5,000 training images, 20 epochs", ABLATIONS, "cifar10-5000", 5000, options=MUON, epochs=20
    ),
    "ablations-100-percent": Table(
        "50,000 training images, 20 epochs", ABLATIONS, "cifar10-50000", 50_000, options=MUON, epochs=20
    ),
    "peers-32": Table(
        "10,000 training images at 32², 150 CPU seconds each",
        PEERS,
        "cifar10-10000",
        10_000,
        options="--optimizer adamw --image-size 32",
        seconds=150,
        rates=PEER_RATES,
    ),
    "peers-64": Table(
        "10,000 training images enlarged to 64², 300 CPU seconds each",
        PEERS,
        "cifar10-10000",
        10_000,
        options="--optimizer adamw --image-size 64",
        seconds=300,
        rates=PEER_RATES,
    ),
    "cifar10-weights": Table(
        "10,000 training images, 20 epochs: the weights that the next tables begin with",
        {"rmt": Row("rmt_pico", "rmt_pico")},
        "cifar10-10000",
        10_000,
        options="--optimizer adamw --image-size 32 --batch-size 64 --lr 2e-3",
        epochs=20,
        seeds=(0,),
    ),
    "camvid": Table(
        "CamVid, 1,000 updates of 8 crops",
        SEGMENTERS,
        "camvid",
        recipe="finetune-segment",
        options="--crop-size 160 --short-side 192 --long-side 256 --min-ratio 0.75 --max-ratio 1.5 --head-width 32"
        " --lr 2e-3 --weight-decay 0.05 --drop-path 0 --batch-size 8 --iterations 1000 --validate-every 500"
        " --warmup-iterations 50",
    ),
    "bccd": Table(
        "BCCD, 10 passes over 205 photographs",
        DETECTORS,
        "bccd",
        recipe="finetune-detect",
        options="--no-masks --short-side 192 --long-side 300 --train-short-sides 160 192 224 --fpn-channels 48"
        " --anchor-scale 4"
        " --drop-path 0 --batch-size 4 --lr 1.5e-3 --clip-grad 5 --warmup-iterations 50 --epochs 10",
    ),
}
