"""How pictures are scaled and cut for a network, as torchvision's and timm's transforms do it."""

from dataclasses import dataclass, replace

from PIL import Image

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
SCALINGS = ("cover", "squash", "contain")


@dataclass(frozen=True)
class Fit:
    """Scaling of a picture and the part that is cut from its middle.

    Attributes:
        crop: Height and width of what is cut; pixels beyond the picture are `fill`.
        resize: Height and width that the picture is scaled to before.
        scaling: "squash": to these sides; "cover": the sides keep their ratio and are at least as long as these, one of
            them as long; "contain": they keep their ratio and are at most as long.
        interpolation: A name in INTERPOLATIONS; all but nearest average over the pixels that they merge.
        fill: The fill of each channel, in [0, 1].
        rounded: Whether half a pixel of margin is rounded, as in torchvision and timm, or cut off, as in transformers.
    """

    crop: tuple[int, int]
    resize: tuple[int, int]
    scaling: str = "cover"
    interpolation: str = "bicubic"
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rounded: bool = True

    @classmethod
    def square(
        cls,
        size: int,
        resize: int | None = None,
        interpolation: str = "bicubic",
        rounded: bool = True,
    ) -> "Fit":
        """The middle square of `size` pixels per side, the picture's short side scaled to `resize`; None: to `size`."""
        short = resize or size
        return cls((size, size), (short, short), "cover", interpolation, rounded=rounded)

    def at(self, size: int) -> "Fit":
        """The same for a square of another size: the same share of the picture is cut."""
        scale = size / self.crop[0], size / self.crop[1]
        resize = int(self.resize[0] * scale[0]), int(self.resize[1] * scale[1])
        return replace(self, crop=(size, size), resize=resize)

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Scale and cut a picture of mode RGB, or F (one channel)."""
        width, height = self._size(picture)
        scaled = picture.resize((width, height), INTERPOLATIONS[self.interpolation])
        tall, wide = self.crop
        # As torchvision's center_crop: a picture that is too small is centred, then the middle is taken.
        left, top = self.margin(width - wide), self.margin(height - tall)
        if width >= wide and height >= tall:
            return scaled.crop((left, top, left + wide, top + tall))
        color = tuple(round(255 * v) for v in self.fill) if picture.mode == "RGB" else self.fill[0]
        out = Image.new(picture.mode, (wide, tall), color)
        out.paste(scaled, (-left, -top))
        return out

    def margin(self, spare: int) -> int:
        """Pixels before the middle; negative where it is larger than the picture."""
        if spare < 0:
            return -(-spare // 2)
        return round(spare / 2) if self.rounded else spare // 2

    def _size(self, picture: Image.Image) -> tuple[int, int]:
        """Width and height that the picture is scaled to."""
        tall, wide = self.resize
        if self.scaling == "squash":
            return wide, tall
        if self.scaling == "cover" and tall == wide:  # torchvision cuts off the fraction
            short, long = sorted(picture.size)
            other = int(tall * long / short)
            return (tall, other) if picture.width <= picture.height else (other, tall)
        ratios = picture.height / tall, picture.width / wide
        ratio = max(ratios) if self.scaling == "contain" else min(ratios)
        return max(1, round(picture.width / ratio)), max(1, round(picture.height / ratio))

    def __str__(self) -> str:
        tall, wide = self.resize
        side = str(tall) if tall == wide else f"{tall} x {wide}"
        how = {
            "cover": f"short side to {side} pixels",
            "squash": f"scaled to {tall} x {wide} pixels",
            "contain": f"long side to {side} pixels",
        }[self.scaling]
        if self.crop == self.resize and self.scaling == "squash":
            return f"{how} ({self.interpolation})"
        return f"{how} ({self.interpolation}), the middle {self.crop[0]} x {self.crop[1]}"
