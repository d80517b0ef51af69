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
    baseline: str = ""  # trained for the CPU seconds of the first row of the table


@dataclass(frozen=True)
class Table:
    """`seconds` > 0: each network trains for as many epochs as its training steps make in so many seconds.

    The time of a step is measured beforehand, of all networks in turn, so the runs that count may share the machine.
    """

    title: str
    rows: dict[str, Row]
    data: str
    images: int = 0  # of CIFAR-10's training images; 0: other data
    recipe: str = "finetune"
    options: str = ""
    epochs: int = 0
    seconds: int = 0
    rates: tuple[float, ...] = ()  # to begin the choice with: by the images held out of train, in a third of the time
    rates_of: str = ""  # a table whose choice is taken
    seeds: tuple[int, ...] = SEEDS
    part: str = "test"  # whose score counts; "val": a choice is made by it, so the test images are not read
    kept: bool = False  # other tables begin with its runs: one is trained again where its folder is not there

    @property
    def metric(self) -> str:
        return {"finetune": "top-1", "finetune-detect": "AP50", "finetune-segment": "mIoU"}[self.recipe]

    @property
    def paired(self) -> bool:
        """Whether the rows differ from the first one in a single thing, and are compared with it seed by seed."""
        return not self.seconds and (self.recipe == "finetune" or self.part == "val")

    @property
    def training_data(self) -> str:
        """The folder of the runs that choose a learning rate, without test images."""
        return f"{self.data}-train"

    def command(self, row: str, epochs: int, seed: int, more: str = "", data: str = "") -> str:
        """What is typed for a run, without its output folder."""
        network = self.rows[row]
        words = [f"rmt train {self.recipe} --minutes 0 --workers 0 --data {data or self.data} --model {network.model}"]
        words += [f"--model-args {network.args}"] if network.args else []
        words += [f"--epochs {epochs}"] if epochs else []
        return " ".join(filter(None, [*words, self.options, network.options, more, f"--seed {seed}"]))


DEIT = "depths=[4],dims=[128],num_heads=[4],patch_size=4"
SWIN = (
    "depths=[2,2],dims=[64,128],num_heads=[2,4],mlp_ratios=[4,4],decomposed=[true,true],"
    "decay_ranges=[[2,6],[2,6]],layer_scales=[null,null]"
)
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
    "deit-masa": Row("the same with MaSA", "rmt_deit_small", DEIT),
    "deit-no-decay": Row("the same with MaSA, without decay", "rmt_deit_small", f"{DEIT},decay=none"),
    "deit-no-lce": Row("the same with MaSA, without LCE", "rmt_deit_small", f"{DEIT},lce=false"),
    "deit-no-decay-no-lce": Row(
        "the same with MaSA, without decay and LCE", "rmt_deit_small", f"{DEIT},decay=none,lce=false"
    ),
    "swin": Row(
        "Swin's design: 2 and 2 blocks of 64 and 128 channels",
        "swin_tiny_patch4_window7_224",
        "window_size=4,embed_dim=64,depths=[2,2],num_heads=[2,4]",
    ),
    "swin-masa": Row("the same with MaSA", "rmt_swin_tiny", SWIN),
    "swin-no-decay": Row("the same with MaSA, without decay", "rmt_swin_tiny", f"{SWIN},decay=none"),
    "swin-no-lce": Row("the same with MaSA, without LCE", "rmt_swin_tiny", f"{SWIN},lce=false"),
    "swin-no-decay-no-lce": Row(
        "the same with MaSA, without decay and LCE", "rmt_swin_tiny", f"{SWIN},decay=none,lce=false"
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


def peers(patch: int) -> dict[str, Row]:
    """RMT and networks of timm of about its size; those with patches have such of `patch` pixels, DeiT of twice."""
    swin = f"patch_size={patch},window_size=4,embed_dim=40,depths=[2,2,4],num_heads=[2,4,8]"
    deit = f"patch_size={2 * patch},embed_dim=144,depth=6,num_heads=4"
    return {
        "rmt": Row("RMT", "rmt_micro"),
        "swin": Row("Swin", "swin_tiny_patch4_window7_224", swin),
        "deit": Row("DeiT", "deit_tiny_patch16_224", deit),
        "convnext": Row("ConvNeXt", "convnext_atto", f"patch_size={patch},depths=[2,2,4,2],dims=[28,56,112,224]"),
        "resnet": Row("ResNet", "resnet18", "channels=[24,48,96,192]"),
        "mambaout": Row("MambaOut", "mambaout_femto", "depths=[2,2,4,2],dims=[24,48,96,192]"),
        "mobilenetv3": Row("MobileNetV3", "mobilenetv3_small_100"),
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

SEGMENTATION_AUGMENTATIONS = {
    "colours": Row("flips and changes of colour", "rmt_pico", options="--distortion 0.5"),
    "no-colours": Row("flips only, the default", "rmt_pico", options="--distortion 0"),
    "vertical": Row("colours and vertical flips", "rmt_pico", options="--distortion 0.5 --vertical-flip 0.5"),
    "rotation": Row("colours and rotations up to 10°", "rmt_pico", options="--distortion 0.5 --rotation 10"),
    "scale": Row(
        "colours, sizes × 0.5 to 2 in place of 0.75 to 1.5",
        "rmt_pico",
        options="--distortion 0.5 --min-ratio 0.5 --max-ratio 2",
    ),
}
DETECTION_AUGMENTATIONS = {
    "flip": Row("flips and three sizes, the default", "rmt_pico", options=TWO_STAGES),
    "colours": Row("and changes of colour", "rmt_pico", options=f"{TWO_STAGES} --distortion 0.5"),
    "vertical": Row("and vertical flips", "rmt_pico", options=f"{TWO_STAGES} --vertical-flip 0.5"),
    "rotation": Row("and rotations up to 10°", "rmt_pico", options=f"{TWO_STAGES} --rotation 10"),
    "scale": Row("and sizes × 0.7 to 1.4", "rmt_pico", options=f"{TWO_STAGES} --min-scale 0.7 --max-scale 1.4"),
}
PRECISIONS = {
    "nano": Row("rmt_nano in float32", "rmt_nano"),
    "nano-bf16": Row("the same under bfloat16 autocast", "rmt_nano", options="--precision bf16"),
    "micro": Row("rmt_micro in float32", "rmt_micro"),
    "micro-bf16": Row("the same under bfloat16 autocast", "rmt_micro", options="--precision bf16"),
}
ERASING = {
    "none": Row("rmt_nano, crops and flips", "rmt_nano"),
    "erased": Row("rectangles of a quarter of the images erased", "rmt_nano", options="--random-erasing 0.25"),
}
CAMVID = (
    "--crop-size 160 --short-side 192 --long-side 256 --head-width 32 --lr 2e-3 --weight-decay 0.05 --drop-path 0"
    " --batch-size 8 --warmup-iterations 50"
)
BCCD = (
    "--no-masks --short-side 192 --long-side 300 --train-short-sides 160 192 224 --fpn-channels 48 --anchor-scale 4"
    " --drop-path 0 --batch-size 4 --lr 1.5e-3 --clip-grad 5 --warmup-iterations 50"
)
RATIOS = "--min-ratio 0.75 --max-ratio 1.5"

SHIFTS = "--crop-pct 1 --random-erasing 0 --randaugment="  # augmentation by padded crops and flips alone
MUON = f"--image-size 32 --batch-size 96 --optimizer muon --lr 0.012 --crop-padding 4 {SHIFTS}"
PEER = f"--batch-size 96 --optimizer muon --holdout 0.2 {SHIFTS}"
TABLES = {
    "ablations-1-percent": Table(
        "500 images, a fifth of them held out, 40 epochs", ABLATIONS, "cifar10-500", 500, options=MUON, epochs=40
    ),
    "ablations-10-percent": Table(
        "5,000 images, a fifth of them held out, 20 epochs", ABLATIONS, "cifar10-5000", 5000, options=MUON, epochs=20
    ),
    "ablations-100-percent": Table(
        "50,000 images, 1,000 of them held out, 10 epochs",
        ABLATIONS,
        "cifar10-50000",
        50_000,
        options=f"--batch-size 512 --optimizer muon --lr 0.015 {SHIFTS} --image-size 32 --crop-padding 4",
        epochs=10,
    ),
    "peers-32": Table(
        "5,000 images at 32², a fifth of them held out, 240 seconds of training steps",
        peers(2),
        "cifar10-5000",
        5000,
        options=f"{PEER} --image-size 32 --crop-padding 4",
        seconds=240,
        rates=(0.006, 0.012, 0.024),
    ),
    "peers-64": Table(
        "5,000 images enlarged to 64², a fifth of them held out, 400 seconds of training steps",
        peers(4),
        "cifar10-5000",
        5000,
        options=f"{PEER} --image-size 64 --crop-padding 8",
        seconds=400,
        rates_of="peers-32",
    ),
    "cifar10-weights": Table(
        "10,000 images, 1,000 of them held out, 20 epochs: the weights that the next tables begin with",
        {"rmt": Row("rmt_pico", "rmt_pico")},
        "cifar10-10000",
        10_000,
        options="--optimizer adamw --image-size 32 --batch-size 64 --lr 2e-3",
        epochs=20,
        seeds=(0,),
        kept=True,
    ),
    "camvid": Table(
        "CamVid, 1,000 updates of 8 crops",
        SEGMENTERS,
        "camvid",
        recipe="finetune-segment",
        options=f"{CAMVID} {RATIOS} --iterations 1000 --validate-every 500",
    ),
    "bccd": Table(
        "BCCD, 10 passes over 205 photographs",
        DETECTORS,
        "bccd",
        recipe="finetune-detect",
        options=f"{BCCD} --epochs 10",
    ),
    "bfloat16": Table(
        "10,000 training and 10,000 held-out images, 6 epochs",
        PRECISIONS,
        "cifar10-20000",
        20_000,
        options=f"{MUON} --holdout 0.5",
        epochs=6,
        part="val",
    ),
    "erasing": Table(
        "2,500 training and 2,500 held-out images, 25 epochs",
        ERASING,
        "cifar10-5000-halves",
        5000,
        options=f"{MUON} --holdout 0.5",
        epochs=25,
        part="val",
    ),
    "augmentation-masks": Table(
        "CamVid's 101 images to validate, 1,000 updates of 8 crops",
        SEGMENTATION_AUGMENTATIONS,
        "camvid",
        recipe="finetune-segment",
        options=f"{CAMVID} {RATIOS} --iterations 1000 --validate-every 500",
        seeds=(0, 1),
        part="val",
    ),
    "augmentation-boxes": Table(
        "BCCD's 87 images to validate, 10 passes over 205 photographs",
        DETECTION_AUGMENTATIONS,
        "bccd",
        recipe="finetune-detect",
        options=f"{BCCD} --epochs 10",
        seeds=(0, 1),
        part="val",
    ),
}
