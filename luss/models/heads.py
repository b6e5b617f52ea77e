"""Small heads on top of a backbone (PASS sections 5.3.1 and 5.3.2; sizes as in the published code)."""

from torch import Tensor, nn

from luss.settings import ConvolutionStart


def start_convolutions(module: nn.Module, start: ConvolutionStart) -> None:
    """Draws the weights of every convolution of a head anew where `start` is "kaiming": normal, variance 2 / fan-out (He et al. 2015).

    Biases and linear layers keep torch's own start, and so does everything where `start` is "torch": no random number is spent then.
    """
    if start == "torch":
        return
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def image_projector(in_dim: int, hidden_dim: int, out_dim: int, *, last_norm: bool = True) -> nn.Sequential:
    """M_I: vector (B, in_dim) -> embedding (B, out_dim) before normalisation; the last batch norm, which SwAV lacks, has no affine part."""
    layers = [
        nn.Linear(in_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim),
    ]
    return nn.Sequential(*layers, *([nn.BatchNorm1d(out_dim, affine=False)] if last_norm else []))


def pixel_projector(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """M_p and M_K: the same at every position of a map (B, in_dim, H, W) -> (B, out_dim, H, W), three 1x1 convolutions."""
    return nn.Sequential(
        nn.Conv2d(in_dim, hidden_dim, 1, bias=False),
        nn.BatchNorm2d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden_dim, hidden_dim, 1, bias=False),
        nn.BatchNorm2d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden_dim, out_dim, 1, bias=False),
        nn.BatchNorm2d(out_dim, affine=False),
    )


def pixel_predictor(dim: int) -> nn.Sequential:
    """P: predicts the other view's embedding at every position (B, dim, H, W) -> the same shape."""
    return nn.Sequential(
        nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 1)
    )


class ShallowHead(nn.Module):
    """Pixel MLP, global average pooling and image MLP of one shallow stage (D2S)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        """`in_dim` is the stage's own number of channels."""
        super().__init__()
        self.pixel = pixel_projector(in_dim, hidden_dim, in_dim)
        self.image = image_projector(in_dim, hidden_dim, out_dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_dim, H, W) -> (B, out_dim), not normalised."""
        embedding: Tensor = self.image(self.pixel(features).mean(dim=(2, 3)))
        return embedding


def two_layers(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    *,
    norm: bool = True,
    biases: tuple[bool, bool] = (True, True),
    pixels: bool = False,
) -> nn.Sequential:
    """Projectors and predictors of most learners: layer, batch norm where `norm`, ReLU, layer.

    (B, in_dim) -> (B, out_dim), or the same at every position of a map (B, in_dim, H, W) where `pixels`. `biases`: of the two layers.
    """

    def layer(before: int, after: int, bias: bool) -> nn.Module:
        return nn.Conv2d(before, after, 1, bias=bias) if pixels else nn.Linear(before, after, bias=bias)

    between: list[nn.Module] = [nn.ReLU(inplace=True)]
    if norm:
        between.insert(0, nn.BatchNorm2d(hidden_dim) if pixels else nn.BatchNorm1d(hidden_dim))
    return nn.Sequential(layer(in_dim, hidden_dim, biases[0]), *between, layer(hidden_dim, out_dim, biases[1]))
