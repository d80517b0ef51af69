"""Run every Triton kernel once, for odd sizes and both layouts of pairs, under compute-sanitizer."""

import torch

from rmt.ops import BACKENDS, LayerNorm, MaSAConfig, depthwise_conv, spatial_prior

GRIDS = [
    (13, 9, 20, True),
    (17, 33, 16, True),
    (5, 70, 32, True),
    (70, 5, 16, True),
    (7, 7, 32, False),
    (11, 10, 32, False),
]
for height, width, channels, decomposed in GRIDS:
    for half_split in (False, True):
        config = MaSAConfig(decomposed, "released", (2.0, 6.0), scale=channels**-0.5, half_split=half_split)
        q, k, v = (torch.randn(2, height, width, 2, channels, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        leaves = [t.requires_grad_() for t in (q, k, v)]
        prior = spatial_prior(height, width, 2, channels, config.decay_range, q)
        BACKENDS["triton"](*leaves, prior, config).sum().backward()
for size in (3, 5):
    conv = torch.nn.Conv2d(70, 70, size, padding=size // 2, groups=70).cuda()
    x = torch.randn(2, 9, 7, 70, device="cuda", requires_grad=True)
    depthwise_conv(x, conv, residual=True).sum().backward()
    depthwise_conv(x, conv, gelu=True, residual=True).sum().backward()
for channels in (20, 64, 100):
    LayerNorm(channels).cuda()(torch.randn(33, channels, device="cuda", requires_grad=True)).sum().backward()
torch.cuda.synchronize()
print("all kernels ran")
