"""The synthetic head: an invented person, its lit texture and its relief.

In: a seed (`draw_identity`), light, head band and scale (`Head`). Out: a texture, RGBA uint8 (H, W, 4) with colour
premultiplied by alpha, and a depth map, float32 (H, W). Head units: x right, y down, origin between eyes and nose,
face about 1.3 wide and 1.8 high. Nothing that a rating depends on is drawn here but the head band, whose colour is
handed in.
"""

from dataclasses import dataclass

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # the RGB weights of cv2.COLOR_RGB2GRAY
LEFT, TOP, WIDTH, HEIGHT = -1.35, -1.5, 2.7, 3.1  # the texture's rectangle in head units
SKIN_TONES = np.array(
    [
        [0.98, 0.84, 0.74],
        [0.95, 0.77, 0.64],
        [0.86, 0.66, 0.51],
        [0.74, 0.53, 0.38],
        [0.60, 0.41, 0.29],
        [0.47, 0.32, 0.23],
    ],
    np.float32,
)
HAIR_TONES = np.array(
    [
        [0.10, 0.08, 0.07],
        [0.20, 0.13, 0.09],
        [0.36, 0.22, 0.13],
        [0.52, 0.40, 0.26],
        [0.38, 0.19, 0.11],
        [0.50, 0.49, 0.48],
    ],
    np.float32,
)


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Rise from 0 at `low` to 1 at `high` with a flat start and end."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    """Gaussian hill of height 1 at (cx, cy) with standard deviations sx and sy."""
    return np.exp(-(((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2) / 2)


def blur(image: np.ndarray, sigma_x: float, sigma_y: float = 0.0) -> np.ndarray:
    """Gaussian blur, float32; sigmas in pixels, `sigma_y` 0 means as `sigma_x`."""
    return cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigmaX=sigma_x, sigmaY=sigma_y)


def hsv_rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB float32 (3,) in [0, 1]; hue counts whole turns."""
    return cv2.cvtColor(np.float32([[[hue * 360 % 360, saturation, value]]]), cv2.COLOR_HSV2RGB)[0, 0]


def at_luma(rgb: np.ndarray, luma: float) -> np.ndarray:
    """Scale a colour so that its gray value is `luma`: what is coloured by it cannot be told apart in gray."""
    return (rgb * (luma / float(rgb @ LUMA))).astype(np.float32)


@dataclass(frozen=True)
class Identity:
    """One invented person. Lengths and heights in head units, colours RGB float32 (3,) in [0, 1]."""

    skin: np.ndarray
    hair: np.ndarray
    half_width: float
    half_height: float
    jaw_taper: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    iris: np.ndarray
    brow_y: float
    brow_thickness: float
    brow_tilt: float
    nose_width: float
    nose_y: float
    mouth_y: float
    mouth_width: float
    lip: float
    lip_redness: float
    hairline: float
    parting: float
    hair_length: float
    hair_volume: float
    strand_seed: int
    beard: float
    chin_square: float


def draw_identity(seed: int) -> Identity:
    """Invent the person of a source: the same seed gives the same face in every clip."""
    r = np.random.default_rng([7, seed])
    k = r.uniform(0, len(SKIN_TONES) - 1)
    i = int(k)
    skin = SKIN_TONES[i] * (1 - (k - i)) + SKIN_TONES[i + 1] * (k - i)
    hair = HAIR_TONES[r.integers(len(HAIR_TONES))] * r.uniform(0.8, 1.2)
    return Identity(
        skin=skin.astype(np.float32),
        hair=hair.astype(np.float32),
        half_width=r.uniform(0.62, 0.71),
        half_height=r.uniform(0.86, 0.95),
        jaw_taper=r.uniform(0.02, 0.15),
        eye_x=r.uniform(0.255, 0.295),
        eye_y=r.uniform(-0.13, -0.08),
        eye_width=r.uniform(0.125, 0.15),
        eye_height=r.uniform(0.062, 0.08),
        iris=hsv_rgb(r.choice([0.07, 0.09, 0.30, 0.56, 0.58]), r.uniform(0.35, 0.7), r.uniform(0.28, 0.6)),
        brow_y=r.uniform(0.15, 0.19),
        brow_thickness=r.uniform(0.026, 0.045),
        brow_tilt=r.uniform(-0.02, 0.03),
        nose_width=r.uniform(0.10, 0.135),
        nose_y=r.uniform(0.20, 0.27),
        mouth_y=r.uniform(0.50, 0.56),
        mouth_width=r.uniform(0.19, 0.245),
        lip=r.uniform(0.035, 0.055),
        lip_redness=r.uniform(0.0, 0.25),
        hairline=r.uniform(-0.66, -0.52),
        parting=r.uniform(-0.3, 0.3),
        hair_length=float(r.choice([0.15, 0.35, 0.92, 1.06])),
        hair_volume=r.uniform(0.11, 0.20),
        strand_seed=int(r.integers(1 << 30)),
        beard=float(r.choice([0, 0, 0, 0.35])),
        chin_square=r.uniform(0.35, 0.65),
    )


@dataclass(frozen=True)
class Band:
    """A head band: its colour is the cue of openness, the rest varies by chance and by the same law for everybody."""

    rgb: np.ndarray
    half_width: float
    bow: float
    tilt: float
    ribs: float
    rib_slant: float


def draw_band(rgb: np.ndarray, seed: int) -> Band:
    """Cut a band of the given colour (RGB at constant luma); all else is chance."""
    r = np.random.default_rng([23, seed])
    return Band(
        rgb, r.uniform(0.070, 0.090), r.uniform(0.12, 0.20), r.uniform(-0.04, 0.04), r.uniform(40, 75), r.uniform(-1, 1)
    )


class Head:
    """A head lit from one side, as texture and depth.

    Args:
        who: The person.
        band: The head band.
        light_x: Horizontal direction of the light, -1 to 1; positive comes from the right.
        unit_px: Texture pixels per head unit.
        seed: Seed of what differs between clips of one person (skin grain, stray hairs).
    """

    def __init__(self, who: Identity, band: Band, light_x: float, unit_px: float, seed: int) -> None:
        self.who, self.unit_px = who, unit_px
        width, height = int(WIDTH * unit_px), int(HEIGHT * unit_px)
        self._x, self._y = np.meshgrid(
            LEFT + (np.arange(width, dtype=np.float32) + 0.5) / unit_px,
            TOP + (np.arange(height, dtype=np.float32) + 0.5) / unit_px,
        )
        self._rng = np.random.default_rng([who.strand_seed, seed])
        self._radius = self._face_radius()
        rim = np.sqrt(np.clip(1 - self._radius, 0, 1))
        relief = self._relief()
        self._diffuse, self._specular = self._shade(0.62 * rim + relief, light_x)
        skin = self._skin()
        hair, back, fringe = self._hair()
        self.texture = self._paint(skin, hair, back, fringe, band)
        self.depth = blur(np.maximum(0.62 * rim, 0.25 * back) + relief, 0.03 * unit_px)

    def points(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Head units to texture pixels in sixteenths (n, 2) int32, as cv2 draws with shift=4."""
        xy = np.stack([np.asarray(x) - LEFT, np.asarray(y) - TOP], -1) * (16 * self.unit_px)
        return xy.round().astype(np.int32)

    def _face_radius(self) -> np.ndarray:
        """0 in the middle of the face, 1 on its outline: an ellipse above, fuller than one at the chin."""
        who, y = self.who, self._y
        power = 2 + who.chin_square * smoothstep(y, -0.1, 0.7)
        jaw = 1 - who.jaw_taper * smoothstep(y, 0, 0.95) ** 1.3
        return np.abs(self._x / (who.half_width * jaw)) ** power + np.abs(y / who.half_height) ** power

    def _relief(self) -> np.ndarray:
        """What eyes, cheeks, brows, nose, lips and chin add to the ellipsoid, in head units."""
        who, x, y = self.who, self._x, self._y
        relief = 0.03 * bump(x, y, 0, who.mouth_y, 0.2, 0.08) - 0.02 * bump(x, y, 0, who.mouth_y + 0.13, 0.12, 0.04)
        relief += 0.04 * bump(x, y, 0, who.half_height * 0.86, 0.15, 0.09)
        for side in (-1, 1):
            relief -= 0.075 * bump(x, y, side * who.eye_x, who.eye_y, 0.15, 0.085)
            relief += 0.05 * bump(x, y, side * 0.36, 0.25, 0.17, 0.15)
            relief += 0.03 * bump(x, y, side * who.eye_x, who.eye_y - 0.19, 0.17, 0.05)
            relief += 0.035 * bump(x, y, side * who.nose_width * 0.8, who.nose_y + 0.01, 0.05, 0.05)
        along = np.clip((y - who.eye_y) / (who.nose_y - who.eye_y), 0, 1)
        bridge = (0.05 + 0.10 * along) * np.exp(-((x / (0.05 + 0.045 * along)) ** 2) / 2)
        ends = smoothstep(y, who.eye_y - 0.16, who.eye_y) * (1 - smoothstep(y, who.nose_y - 0.02, who.nose_y + 0.10))
        return relief + bridge * ends

    def _shade(self, height: np.ndarray, light_x: float) -> tuple[np.ndarray, np.ndarray]:
        """Lambert and Blinn-Phong shading of a height map, each (H, W) in [0, 1]."""
        scale = self.unit_px / 128  # a 5 x 5 Sobel sums to 128 per unit slope
        gx, gy = (cv2.Sobel(height, cv2.CV_32F, *order, ksize=5) * scale for order in ((1, 0), (0, 1)))
        norm = np.sqrt(gx * gx + gy * gy + 0.81)
        light = np.array([light_x, -0.45, 0.85]) / np.linalg.norm([light_x, -0.45, 0.85])
        half = (light + [0, 0, 1]) / np.linalg.norm(light + [0, 0, 1])
        along = [(0.9 * float(v[2]) - float(v[0]) * gx - float(v[1]) * gy) / norm for v in (light, half)]
        return np.clip(along[0], 0, 1), np.clip(along[1], 0, 1) ** 28

    def _skin(self) -> np.ndarray:
        """Lit skin colour (H, W, 3): red cheeks and nose, dark sockets and nostrils, beard, grain."""
        who, x, y = self.who, self._x, self._y
        cheeks = bump(x, y, -0.38, 0.24, 0.15, 0.12) + bump(x, y, 0.38, 0.24, 0.15, 0.12)
        red = 0.5 * cheeks + 0.45 * bump(x, y, 0, who.nose_y, 0.1, 0.09)
        colour = who.skin * (1 - red[..., None] * np.float32([0.0, 0.12, 0.13]))
        for side in (-1, 1):
            socket = 0.30 * bump(x, y, side * who.eye_x, who.eye_y + 0.005, 0.135, 0.065)
            colour *= 1 - socket[..., None] * np.float32([0.8, 1, 1])
        if who.beard:
            beard = who.beard * (smoothstep(y, 0.33, 0.6) * smoothstep(self._radius, 0.22, 0.6))[..., None]
            colour = colour * (1 - beard) + beard * (who.hair * 0.7 + 0.1)
        colour *= 1 + 0.06 * blur(self._rng.standard_normal(x.shape), 1.2)[..., None]
        shine = 0.10 * self._specular * (self._radius < 1)
        colour = colour * (0.36 + 0.78 * self._diffuse)[..., None] + shine[..., None]
        dark = 1 - 0.22 * bump(x, y, 0, who.nose_y + 0.125, 0.10, 0.02)
        for side in (-1, 1):
            dark *= 1 - 0.6 * bump(x, y, side * who.nose_width * 0.5, who.nose_y + 0.085, 0.032, 0.016)
        return colour * dark[..., None]

    def _hair(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hair colour (H, W, 3), mask of the hair behind the face (H, W), mask of the fringe before it (H, W)."""
        who, x, y = self.who, self._x, self._y
        strands = blur(self._rng.standard_normal(x.shape), 1.0, 7.0)
        strands /= strands.std()
        from_parting = np.abs(x - who.parting)
        gloss = 0.35 * np.exp(-(((y + 0.80 - 0.25 * from_parting) / 0.16) ** 2)) * self._diffuse.max()
        colour = who.hair * (0.78 + 0.16 * strands + gloss)[..., None]
        back = 1 - smoothstep(self._crown(0.0), 0.93, 1.03)
        back *= 1 - smoothstep(y + 0.02 * strands, who.hair_length - 0.25, who.hair_length + 0.15)
        neck = smoothstep(y, 0.45, 0.65) * (1 - smoothstep(np.abs(x), who.half_width * 0.66, who.half_width * 0.80))
        line = who.hairline + 0.34 * np.clip(from_parting - 0.02, 0, 1) ** 1.7 + 0.012 * strands
        fringe = (1 - smoothstep(y - line, -0.03, 0.045)) * (self._crown(0.0) < 1)
        return colour, back * (1 - neck), blur(fringe, 0.8)

    def _crown(self, margin: float) -> np.ndarray:
        """Below 1 where hair can be: an ellipse above the ears that falls straight below them."""
        who = self.who
        above = np.minimum(self._y, 0.12) + 0.08
        across = self._x / (who.half_width + who.hair_volume + margin)
        return across**2 + (above / (who.half_height + 1.05 * who.hair_volume)) ** 2

    def _band(self, band: Band) -> tuple[np.ndarray, np.ndarray]:
        """Colour (H, W, 3) and mask (H, W) of the head band; ribs and light scale all channels alike."""
        x, y = self._x, self._y
        middle = self.who.hairline - 0.06 + band.bow * x**2 + band.tilt * x
        mask = (np.abs(y - middle) < band.half_width) & (self._crown(0.01) < 1)
        ribs = 0.05 * np.sin((x + band.rib_slant * (y - middle)) * band.ribs)
        return band.rgb * (0.72 + 0.35 * self._diffuse + ribs)[..., None], blur(mask, 0.9)

    def _strays(self) -> np.ndarray:
        """Mask (H, W) of a few soft hairs that leave the outline: a nuisance, the same law for everybody."""
        r, who = self._rng, self.who
        mask = np.zeros(self._x.shape, np.uint8)
        along = np.linspace(0, 1, 9)
        for _ in range(int(r.integers(3, 9))):
            angle, way = r.uniform(-0.95 * np.pi, -0.05 * np.pi), r.choice([-1.0, 1.0])
            turn = angle + way * r.uniform(0.15, 0.4) * along
            reach = 0.96 + r.uniform(0.04, 0.10) * np.sin(along * r.uniform(1.8, 3.0))
            x = np.cos(turn) * (who.half_width + who.hair_volume) * reach
            y = np.sin(turn) * (who.half_height + who.hair_volume) * reach - 0.08
            cv2.polylines(mask, [self.points(x, y)], False, r.uniform(60, 140), 1, cv2.LINE_AA, 4)
        return blur(mask, 0.5) / 255

    def _paint(self, skin, hair, back, fringe, band: Band) -> np.ndarray:
        """Lay the parts over each other, back to front; uint8 RGBA (H, W, 4), colour premultiplied by alpha."""
        who = self.who
        face = 1 - smoothstep(self._radius, 0.965, 1.02)
        ears = [((self._x - side * who.half_width) / 0.09) ** 2 + ((self._y - 0.03) / 0.17) ** 2 for side in (-1, 1)]
        ear = 1 - smoothstep(np.minimum(*ears), 0.85, 1.05)
        shadow = 1 - 0.35 * blur(fringe, 0.05 * self.unit_px)[..., None]
        layers = [(hair * 0.75, back), (who.skin * np.float32([0.74, 0.65, 0.63]), ear), (skin * shadow, face)]
        layers += [(hair, fringe), self._band(band), (hair * 0.9, self._strays())]
        image = np.zeros((*face.shape, 4), np.float32)
        for colour, mask in layers:
            image *= 1 - mask[..., None]
            image[..., :3] += np.clip(colour, 0, 1) * mask[..., None]
            image[..., 3] += mask
        return (np.clip(image, 0, 1) * 255).astype(np.uint8)
